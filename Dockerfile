# All of jind-nb in one image, for the CPU, with what the PDF reports need. Not built in our CI, which has no Docker
# engine; tests/test_packaging.py reads it with Docker's rules as far as that goes without one.
#
#     docker build -t jind-nb .
#     docker run --rm -v "$PWD:/work" -u "$(id -u):$(id -g)" jind-nb run mydata.yaml
#     docker run --rm -v "$PWD:/work" -u "$(id -u):$(id -g)" -p 8866:8866 jind-nb app --ip 0.0.0.0
#
# Data that are fetched are kept with one more: -v jind-nb-cache:/cache
FROM python:3.11-slim

RUN apt-get update \
 && apt-get install --yes --no-install-recommends fontconfig fonts-dejavu-core libpango-1.0-0 libpangoft2-1.0-0 make \
 && rm -rf /var/lib/apt/lists/*

# Any user id may run it: a home to write to, and a cache that can be kept.
RUN useradd --home-dir /home/jind --create-home jind \
 && mkdir /work /cache \
 && chmod 1777 /home/jind /work /cache
ENV HOME=/home/jind JIND_NB_CACHE=/cache PATH=/opt/jind-nb/.venv/bin:$PATH

WORKDIR /opt/jind-nb
# What is installed changes less often than the code. Versions stand in the Makefile and requirements.lock alone; for a
# GPU build with --build-arg TORCH_INDEX= (the public index, several gigabytes).
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY Makefile pyproject.toml requirements.lock README.md LICENSE ./
COPY jind_nb/__init__.py jind_nb/
COPY notebooks notebooks
COPY parameters parameters
RUN PIP_NO_CACHE_DIR=1 make .venv/.ready TORCH_INDEX="$TORCH_INDEX"
COPY jind_nb jind_nb

USER jind
WORKDIR /work
EXPOSE 8866
ENTRYPOINT ["jind-nb"]
CMD ["--help"]
