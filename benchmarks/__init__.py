"""Benchmarks of jind_nb: `python -m benchmarks.product.accuracy` from the root of a checkout. README.md lists them."""

import os

# Before numpy is imported: on a busy machine, threads that wait for each other make small networks several times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
