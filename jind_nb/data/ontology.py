"""The Cell Ontology: which of its terms a cell type is, and the coarser types that it knows.

Terms come from the tables of the package cellxgene-ontology-guide (extra `ontology`); nothing is fetched.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from ..core.text import listing, nearest
from ..errors import InputError
from .plan import Plan

NAME = "CL"

TERM = re.compile(r"CL:\d{7}")

# Every cell is one of these, so they are no coarser type.
ALL_CELLS = ("CL:0000000", "CL:0000255")

# Many organs have cells called so; the ontology lists "alpha cell" as one of the retina.
OF_MANY_ORGANS = re.compile(r"(alpha|beta|gamma|delta|epsilon|[a-d]\d?)( cell)?")

# Short names that everybody uses for one type.
LETTERS = {"b": "b cell", "t": "t cell", "nk": "nk cell"}

NAMES_SHOWN = 30


@cache
def _parser() -> Any:
    """Return the reader of the tables.

    Raises
    ------
    InputError
        If the package is not installed.
    """
    try:
        from cellxgene_ontology_guide.ontology_parser import OntologyParser  # of an extra
    except ImportError:
        raise InputError("ONTOLOGY: the Cell Ontology is not installed; pip install 'jind-nb[ontology]'.") from None
    return OntologyParser()


@cache
def _names() -> tuple[dict[str, str], dict[str, str]]:
    """Return the names of all terms and their exact synonyms, in one spelling each -> id; none that two terms have."""
    parser = _parser()
    ids = [term for term in parser.get_term_label_to_id_map(NAME).values() if not parser.is_term_deprecated(term)]
    return (
        _unambiguous((parser.get_term_label(term), term) for term in ids),
        _unambiguous((synonym, term) for term in ids for synonym in parser.get_term_synonyms(term)),
    )


def _unambiguous(pairs: Iterator[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    twice = set()
    for name, term in pairs:
        key = spelling(name)
        if found.setdefault(key, term) != term:
            twice.add(key)
    return {key: term for key, term in found.items() if key not in twice}


def spelling(name: str) -> str:
    """Return one spelling of a name: lower case, blanks for hyphens, commas and underscores, no plural.

    >>> spelling("CD4-positive, alpha-beta T cells"), spelling("Plasma_Cells"), spelling("mast cell")
    ('cd4 positive alpha beta t cell', 'plasma cell', 'mast cell')
    """
    words = re.sub(r"[-_,/]", " ", name.casefold()).split()
    if words and len(words[-1]) > 3 and words[-1].endswith("s") and not words[-1].endswith(("ss", "us", "is")):
        words[-1] = words[-1][:-1]
    return " ".join(words)


def term_of(name: str) -> str | None:
    """Return the id of the term that a cell type is for certain: by its name or an exact synonym, plural or not; `cell` may
    be missing from the name of a term. None where there is no such term, or several."""
    key = LETTERS.get(spelling(name), spelling(name))
    if OF_MANY_ORGANS.fullmatch(key) and key not in LETTERS.values():
        return None
    names, synonyms = _names()
    return names.get(key) or synonyms.get(key) or names.get(f"{key} cell")


def set_ontology(given: Mapping[str, str], plan: Plan) -> None:
    """Set `plan.ontology`, the term of each cell type, and add notes on it to the plan.

    Parameters
    ----------
    given
        ONTOLOGY: cell type -> id, which goes before what its name says.

    Raises
    ------
    InputError
        For what is no term of the ontology, an obsolete one, and a misspelt cell type.
    """
    parser = _parser()
    for name, term in given.items():
        if not TERM.fullmatch(term) or not parser.is_valid_term_id(term):
            raise InputError(f"ONTOLOGY: {term!r}, of {name!r}, is no term of the Cell Ontology, such as CL:0000236.")
        if parser.is_term_deprecated(term):
            instead = parser.get_term_replacement(term)
            raise InputError(f"ONTOLOGY: {term}, of {name!r}, is obsolete; use {instead or 'another term'}.")
        others = [other for other in plan.classes if other not in given]
        if name not in plan.classes and (near := nearest(name, others, cutoff=0.85)):
            raise InputError(f"ONTOLOGY: there is no cell type {name!r}; did you mean {near!r}?")
    found = {name: given.get(name) or term_of(name) for name in plan.classes}
    plan.ontology = {name: term for name, term in found.items() if term is not None}
    version = parser.cxg_schema.supported_ontologies[NAME]["version"]
    known = [f"{name} = {parser.get_term_label(term)} ({term})" for name, term in plan.ontology.items()]
    plan.notes.append(f"Cell Ontology {version}: {listing(known, NAMES_SHOWN, quoted=False) or 'no type is known'}.")
    if unknown := [name for name in plan.classes if name not in plan.ontology]:
        what = "have no term of the Cell Ontology that is certain, and get none: name it in ONTOLOGY"
        plan.notes.append(f"These cell types {what}: {listing(unknown, NAMES_SHOWN)}.")


# --- PARENTS ontology ------------------------------------------------------------------------------------------------


def set_levels(plan: Plan) -> None:
    """Set `plan.parents` and `plan.coarser` from the ontology, and `plan.ontology` of the parents too.

    Notes
    -----
    The ontology is no tree: a type has several ancestors beside each other. Of all terms that hold at least two types, one
    for each set of types is taken (the most specific), and of sets that overlap without one holding the other, the one
    whose term is nearest to its types. What is left is a tree.
    """
    parser = _parser()
    distances = {
        name: parser.get_term_ancestors_with_distances(term, include_self=True) for name, term in plan.ontology.items()
    }
    sets = _chosen_sets(distances, len(plan.classes))
    names = {term: _name_of(term, plan) for term in sets}
    paths = {
        name: [names[term] for term, types in sorted(sets.items(), key=lambda one: -len(one[1])) if name in types]
        for name in plan.classes
    }
    depth = max(map(len, paths.values()), default=0)
    levels = [{name: path[i] for name, path in paths.items() if i < len(path)} for i in range(depth)]
    plan.parents, plan.coarser = (levels[-1], levels[-2::-1]) if levels else ({}, [])
    plan.ontology |= {names[term]: term for term in sets}
    if not levels:
        plan.warnings.append("PARENTS: the Cell Ontology has no coarser type for two of the cell types.")


def _chosen_sets(distances: Mapping[str, Mapping[str, int]], n_types: int) -> dict[str, frozenset[str]]:
    """Return term -> its types, of which any two are apart or one inside the other."""
    terms = sorted(set().union(*distances.values())) if distances else []
    types_of = {term: frozenset(name for name, above in distances.items() if term in above) for term in terms}

    def distance(term: str) -> float:
        return sum(distances[name][term] for name in types_of[term]) / len(types_of[term])

    chosen: dict[str, frozenset[str]] = {}
    for term in sorted(terms, key=lambda term: (distance(term), term)):
        types = types_of[term]
        if term in ALL_CELLS or not 2 <= len(types) < n_types:
            continue
        if all(types != other and (not types & other or types <= other or other <= types) for other in chosen.values()):
            chosen[term] = types
    return chosen


def _name_of(term: str, plan: Plan) -> str:
    """Return what a coarser type is called: like the cell type that is the same term, else as in the ontology."""
    same = [name for name, known in plan.ontology.items() if known == term]
    label = str(_parser().get_term_label(term))
    return same[0] if len(same) == 1 else f"{label} ({term})" if label in plan.classes else label
