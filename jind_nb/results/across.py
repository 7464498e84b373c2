"""Several targets beside each other: what each consists of, how much of it is assigned, and what stands out."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..core.labels import UNASSIGNED, UNLIKE
from ..core.text import about, percent, plural
from ..data.plan import Plan
from ..model.expected_error import ExpectedError
from .tables import composition_table, error_columns, most_like_shares
from .target import MANY_UNLIKE, Level, TargetResult

# A sample stands out if it differs from the median of the others by so much (shares, 0 to 1).
LESS_ASSIGNED, MORE_UNLIKE, MORE_OF_A_TYPE, MORE_ERROR = 0.10, 0.05, 0.10, 0.02

MOST_WRONG = 0.01  # more than in all samples together: the sample in which most cells are wrong is named

TIMES = 2.0  # and by so many times, for a type's share and for the expected error

# What is compared, in words.
ASSIGNED, UNLIKE_ALL = "of the cells are assigned", "of the cells are unlike all annotated cells"
WRONG, MOST_LIKE = "of the assigned cells are probably wrong", "of the cells are most like "

NOT_COUNTED = " (cells unlike all annotated ones not counted)"

MOST_NAMED = 12  # samples


def shares_table(results: Mapping[str, TargetResult]) -> pd.DataFrame:
    """Return the share of each answer among the cells of each target, 0 to 1: targets as rows, answers as columns, the most
    frequent one first and `Unassigned` last."""
    shares = {name: pd.Series(result.names).value_counts(normalize=True) for name, result in results.items()}
    table = pd.DataFrame.from_dict(shares, orient="index").fillna(0.0)
    answers = table.drop(columns=UNASSIGNED, errors="ignore").sum().sort_values(ascending=False, kind="stable").index
    return table.reindex(index=list(results), columns=[*answers, UNASSIGNED], fill_value=0.0).rename_axis("sample")


def samples_table(results: Mapping[str, TargetResult], errors: Mapping[str, ExpectedError]) -> pd.DataFrame:
    """Return a row for each target: `cells`, shares in percent of those assigned, Unassigned and unlike the reference,
    `median confidence`, and the expected error among the assigned cells with its range."""
    rows = {}
    for name, result in results.items():
        rows[name] = {
            "cells": len(result.cells),
            "assigned %": 100 * _share(result.level == Level.TYPE),
            "Unassigned %": 100 * _share(result.level == Level.UNASSIGNED),
            "unlike all annotated cells %": 100 * _share(result.final.reasons == UNLIKE),
            "median confidence": float(np.median(result.final.confidence)),
            **error_columns(errors[name]),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("sample")
    return table.round({name: 1 for name in table if name != "median confidence"})


def in_one_sentence(results: Mapping[str, TargetResult], errors: Mapping[str, ExpectedError]) -> str:
    """Return how many cells of all samples are assigned, how many of these are probably wrong, and in which sample most are, if
    that is known of each sample with assigned cells."""
    assigned = {name: int((result.level == Level.TYPE).sum()) for name, result in results.items()}
    n, n_assigned = sum(len(result.cells) for result in results.values()), sum(assigned.values())
    n_unlike = sum(int((result.final.reasons == UNLIKE).sum()) for result in results.values())
    unlike = f", {n_unlike:,} unlike all annotated cells" if n_unlike > MANY_UNLIKE * n else ""
    sentence = f"{n_assigned:,} of {n:,} cells assigned ({percent(n_assigned / n)}){unlike}"
    asked = [name for name in results if assigned[name]]  # where no cell is assigned, none is wrong
    known = {name: value for name in asked if (value := errors[name].value) is not None}
    if len(known) < len(asked):
        where = f" in {plural(len(asked) - len(known), 'sample')}" if known else ""
        return f"{sentence}; how many of them are wrong is not known{where}"
    if not asked:
        return sentence
    error = float(np.average(list(known.values()), weights=[assigned[name] for name in asked]))
    worst = max(known, key=lambda name: known[name])
    most = f", most in {worst} ({about(known[worst])})" if known[worst] >= error + MOST_WRONG else ""
    return f"{sentence}; {about(error)} of the assigned cells are probably wrong{most}"


def what_stands_out(
    results: Mapping[str, TargetResult], errors: Mapping[str, ExpectedError], plans: Mapping[str, Plan]
) -> list[str]:
    """Return for each target its own warnings, whether many of its cells are unlike all annotated ones, and how it differs from the median of
    the others, the one that stands out most first; nothing of a target that does not.

    Types are compared by the cells that are most like them, so that many Unassigned cells do not change a composition. Where several
    batches are annotated, a share such as theirs does not stand out. Composition may differ because the samples do; a difference says
    where to look, not what is wrong.
    """
    likeness = {name: most_like_shares(composition_table(results[name], plans[name]), plans[name]) for name in results}
    measures = pd.DataFrame.from_dict(
        {
            name: {
                ASSIGNED: _share(result.level == Level.TYPE),
                UNLIKE_ALL: _share(result.final.reasons == UNLIKE),
                WRONG: errors[name].value,
                **likeness[name]["here"].add_prefix(MOST_LIKE),
            }
            for name, result in results.items()
        },
        orient="index",
        dtype=float,
    )
    found = []
    for name, own in measures.iterrows():
        others = measures.drop(index=name)
        where = f"in {others.index[0]}" if len(others) == 1 else "in the median of the others"
        annotated = likeness[str(name)].add_prefix(MOST_LIKE, axis="index").reindex(measures.columns)
        apart: dict[str, float] = {}
        for words, there in others.median().items():
            here, low, high = own[words], annotated.loc[words, "low"], annotated.loc[words, "high"]
            if _stands_out(str(words), here, there) and not low <= here <= high:
                beside = "" if pd.isna(low) else f", {percent(low)} to {percent(high)} in the annotated batches"
                counted = NOT_COUNTED if str(words).startswith(MOST_LIKE) and own[UNLIKE_ALL] else ""
                apart[f"{percent(here)} {words}{counted}, {percent(there)} {where}{beside}"] = abs(here - there)
        unlike = own[UNLIKE_ALL]
        if unlike > MANY_UNLIKE and not any(UNLIKE_ALL in words for words in apart):  # the others may have as many
            apart[f"{percent(unlike)} {UNLIKE_ALL}, perhaps of a type that the annotated batches lack"] = unlike
        warnings = [warning for warning in plans[str(name)].warnings if repr(name) in warning]
        if apart or warnings:
            differs = f"{name}: {'; '.join(sorted(apart, key=lambda words: -apart[words]))}." if apart else ""
            found.append((len(warnings) + sum(apart.values()), " ".join([*warnings, differs]).strip()))
    found.sort(key=lambda one: -one[0])
    return [words for _, words in found[:MOST_NAMED]]


def _stands_out(words: str, here: float, there: float) -> bool:
    """Return whether a sample's share differs enough from the others'; a share that is not known does not."""
    if words == ASSIGNED:
        return there - here >= LESS_ASSIGNED
    if words == UNLIKE_ALL:
        return here - there >= MORE_UNLIKE
    if words == WRONG:
        return here - there >= MORE_ERROR and here >= TIMES * there
    return abs(here - there) >= MORE_OF_A_TYPE and max(here, there) >= TIMES * min(here, there)


def _share(which: np.ndarray) -> float:
    return float(np.mean(which))
