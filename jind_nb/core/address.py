"""PATH as an address on the network: a DOI or an https address, which of them are accepted, and how they are shown."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

REMOTE = re.compile(r"doi:|[a-z][a-z0-9+.-]*://", re.IGNORECASE)

DOI = re.compile(r"doi:10\.\d{4,9}/[^\s?#]+/[^/\s?#]+", re.IGNORECASE)

CHECKSUM = re.compile(r"(md5|sha1|sha256|sha512)[=:]([0-9a-f]{32,128})", re.IGNORECASE)

THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def is_remote(path: str) -> bool:
    """Return whether a PATH names something on the network."""
    return REMOTE.match(path) is not None


def check_address(address: str) -> None:
    """Check that an address is one that we fetch.

    Raises
    ------
    ValueError
        With what is wrong and how to write the address.
    """
    plain, hash_ = address.partition("#")[::2]
    if hash_ and not CHECKSUM.fullmatch(hash_):
        raise ValueError("what follows # must be a checksum, as in …/cells.h5ad#sha256=0f3c…")
    is_doi = plain.lower().startswith("doi:")
    if is_doi and not DOI.fullmatch(plain):
        raise ValueError("a DOI is written with its file, as in doi:10.5281/zenodo.14000644/pancreas.h5ad")
    if not is_doi:
        parts = urlsplit(plain)
        if parts.username or parts.password:
            raise ValueError("holds a user name or password, which would end up in reports; fetch the file by hand")
        if not is_safe(plain):
            safe = "only https:// and doi: are safe from changes on the way"
            raise ValueError(f"is not fetched: {safe}; fetch the file by hand and give its path")
    name = last_name(address)
    if not name.lower().endswith(".h5ad") or len(name) > 200 or re.search(r"[/\\\0-\x1f]", name):
        raise ValueError("must end in the name of an .h5ad file; a zarr folder or archive is fetched by hand")


def last_name(path: str) -> str:
    """Return the name of a file at the end of a path or an address.

    >>> last_name("doi:10.5281/zenodo.14000644/pancreas.h5ad"), last_name("https://x.org/a%20b.h5ad?download=1#sha256=00")
    ('pancreas.h5ad', 'a b.h5ad')
    """
    if not is_remote(path):
        return Path(path).name
    return unquote(re.split(r"[?#]", path)[0].rsplit("/", 1)[-1])


def shown_address(address: str) -> str:
    """Return an address for people to read, without what may be secret in it.

    >>> shown_address("https://x.org/cells.h5ad?token=hush")
    'https://x.org/cells.h5ad'
    """
    plain = re.split(r"[?#]", address)[0]
    return re.sub(r"//[^/@]*@", "//…@", plain)


def is_safe(url: str) -> bool:
    """Return whether nobody on the way can change what comes from an address."""
    parts = urlsplit(url)
    return bool(parts.scheme == "https" and parts.hostname) or (
        parts.scheme == "http" and parts.hostname in THIS_MACHINE
    )
