"""Several targets beside each other: what each consists of, how much of it is assigned, and what stands out."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..core.labels import UNASSIGNED, UNLIKE
from ..core.text import about, percent
from ..model.expected_error import ExpectedError
from .target import Level, TargetResult

# A sample stands out if it differs from the median of the others by so much (shares, 0 to 1).
LESS_ASSIGNED, MORE_UNLIKE, MORE_OF_A_TYPE, MORE_ERROR = 0.10, 0.05, 0.10, 0.02

TIMES = 2.0  # and by so many times, for a type's share and for the expected error

MOST_NAMED = 12


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
        error = errors[name]
        rows[name] = {
            "cells": len(result.cells),
            "assigned %": 100 * _share(result.level == Level.TYPE),
            "Unassigned %": 100 * _share(result.level == Level.UNASSIGNED),
            "unlike all annotated cells %": 100 * _share(result.final.reasons == UNLIKE),
            "median confidence": float(np.median(result.final.confidence)),
            "expected error %": None if error.value is None else 100 * error.value,
            "likely range %": "not known"
            if error.range is None
            else " to ".join(f"{100 * end:.1f}" for end in error.range),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("sample")
    return table.round({name: 1 for name in table if name != "median confidence"})


def in_one_sentence(results: Mapping[str, TargetResult], errors: Mapping[str, ExpectedError]) -> str:
    """Return how many cells of all samples are assigned, how many of these are probably wrong, and in which sample most are; nothing
    about errors if that of a sample is not known."""
    assigned = {name: int((result.level == Level.TYPE).sum()) for name, result in results.items()}
    n, n_assigned = sum(len(result.cells) for result in results.values()), sum(assigned.values())
    sentence = f"{n_assigned:,} of {n:,} cells assigned ({percent(n_assigned / n)})"
    known = {name: value for name in results if (value := errors[name].value) is not None}
    if len(known) < len(results):
        return sentence
    error = float(np.average(list(known.values()), weights=list(assigned.values())))
    worst = max(known, key=lambda name: known[name])
    most = f", most in {worst} ({about(known[worst])})" if known[worst] > error else ""
    return f"{sentence}; {about(error)} of the assigned cells are probably wrong{most}"


def what_stands_out(results: Mapping[str, TargetResult], errors: Mapping[str, ExpectedError]) -> list[str]:
    """Return a sentence for each way in which a target differs from the median of the others, the largest difference first;
    of two targets a difference in composition is told once.

    Composition may differ because the samples do; a difference says where to look, not what is wrong.
    """
    shares = shares_table(results)
    assigned = pd.Series({name: _share(result.level == Level.TYPE) for name, result in results.items()})
    unlike = pd.Series({name: _share(result.final.reasons == UNLIKE) for name, result in results.items()})
    error = pd.Series({name: errors[name].value for name in results}, dtype=float)
    found: list[tuple[float, str]] = []
    for name in results:
        others = [other for other in results if other != name]

        def usual(of: pd.Series, others: list[str] = others) -> tuple[float, str]:
            """Return the others' median, and what to call it."""
            median = float(of[others].median())
            whose = f"in {others[0]}" if len(others) == 1 else "in the median of the others"
            return median, f"{percent(median)} {whose}"

        there, words = usual(assigned)
        if there - assigned[name] >= LESS_ASSIGNED:
            found.append(
                (there - assigned[name], f"{name}: {percent(assigned[name])} of the cells are assigned, {words}.")
            )
        there, words = usual(unlike)
        if unlike[name] - there >= MORE_UNLIKE:
            text = f"{name}: {percent(unlike[name])} of the cells are unlike all annotated cells, {words}."
            found.append((unlike[name] - there, text))
        there, words = usual(error)
        if error[name] - there >= MORE_ERROR and error[name] >= TIMES * there:
            text = f"{name}: {percent(error[name])} of the assigned cells are probably wrong, {words}."
            found.append((error[name] - there, text))
        for answer in shares.columns.drop(UNASSIGNED):
            there, words = usual(shares[answer])
            here = float(shares.loc[name, answer])
            large, small = max(here, there), min(here, there)
            is_told = len(results) == 2 and here < there
            if large - small >= MORE_OF_A_TYPE and large >= TIMES * small and not is_told:
                found.append((large - small, f"{name}: {percent(here)} of the cells are {answer}, {words}."))
    found.sort(key=lambda one: -one[0])
    return [words for _, words in found[:MOST_NAMED]]


def _share(which: np.ndarray) -> float:
    return float(np.mean(which))
