"""Try ten thousand hostile inputs: damaged and forged h5ad files, parameter files, models and names.

    nice python -m benchmarks.product.fuzz [CASES [SEED]]

Each case is a whole `jind-nb validate` or `jind-nb predict`. Good is: exit status 0 or 2, for 2 one message that names
what is wrong, within a minute, and nothing written outside the output folder. Whatever else happens is printed with the
kind and number of its case, by which `tests/helpers/mutations.py` makes it again.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from benchmarks.common import RESULTS, parser_of
from tests.helpers.mutations import Worker, cases

OUTPUT = RESULTS / "fuzz.csv"
PROBLEMS = {
    "tracebacks": "traceback", "hangs": "hang", "deaths": "death", "writes outside": "write outside",
    "messages that say too little": "message",
}  # fmt: skip


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("cases", nargs="?", type=int, default=10_000, metavar="CASES")
    parser.add_argument("seed", nargs="?", type=int, default=0, metavar="SEED")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    rows, begun = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Worker(Path(folder)) as worker:
        for done, (kind, number) in enumerate(cases(options.cases, options.seed), 1):
            start = time.monotonic()
            outcome = worker.attempt(kind, number)
            rows.append((kind, outcome.status, outcome.problem, time.monotonic() - start))
            if outcome.problem:
                print(f"{kind} {number}: {outcome.problem}: {outcome.detail[-1000:]}", flush=True)
            if done % 500 == 0 or done == options.cases:
                table = tabulated(rows)
                table.to_csv(options.output)
                print(f"{done} cases, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    print(table.to_string())
    return int(table[list(PROBLEMS)].to_numpy().any())


def tabulated(rows: list[tuple[str, int | None, str, float]]) -> pd.DataFrame:
    """Return a row for each kind of input and one for all."""
    cases = pd.DataFrame(rows, columns=["kind", "status", "problem", "seconds"])
    cases = pd.concat([cases, cases.assign(kind="all")])
    good = cases["problem"] == ""
    columns = {
        "cases": cases["kind"] != "",
        "refused": good & (cases["status"] == 2),
        "accepted": good & (cases["status"] == 0),
    }
    columns |= {name: cases["problem"] == problem for name, problem in PROBLEMS.items()}
    table = pd.DataFrame(columns).groupby(cases["kind"], sort=False).sum()
    return table.assign(**{"longest s": cases.groupby("kind", sort=False)["seconds"].max().round(1)})


if __name__ == "__main__":
    sys.exit(main())
