"""Measure where the CPU seconds of a run go: reading and preparing, and what METHOD computes, without files and pictures.

python -m benchmarks.research.profiled PARAMETERS [-n 15]
"""

from __future__ import annotations

import cProfile
import pstats
import time
from pathlib import Path

from benchmarks.common import annotate_prepared, parser_of, read_prepared
from jind_nb.core.parameters import load_parameters

if __name__ == "__main__":
    parser = parser_of(__doc__)
    parser.add_argument("parameters", type=Path)
    parser.add_argument("-n", type=int, default=15, help="functions shown")
    options = parser.parse_args()
    parameters = load_parameters(options.parameters, {})
    profile, began = cProfile.Profile(), time.process_time()
    with profile:
        prepared, plan = read_prepared(parameters)
        read = time.process_time()
        annotate_prepared(prepared, plan, parameters)
    learned = time.process_time()
    print(f"{prepared.n_obs:,} cells x {prepared.n_vars:,} features, {prepared.X.nnz:,} values")
    print(f"reading and preparing {read - began:.1f} CPU s, METHOD {parameters.METHOD} {learned - read:.1f} CPU s")
    pstats.Stats(profile).sort_stats("tottime").print_stats(options.n)
