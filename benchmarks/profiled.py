"""Where the CPU seconds of a run go: reading and preparing, and all that METHOD computes, without files and pictures.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/profiled.py PARAMETERS [-n 15]
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from pathlib import Path

from jind_nb import compare, data
from jind_nb.parameters import load_parameters

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parameters", type=Path)
    parser.add_argument("-n", type=int, default=15, help="functions shown")
    asked = parser.parse_args()
    parameters = load_parameters(asked.parameters, {})
    profile, began = cProfile.Profile(), time.process_time()
    with profile:
        cells = data.read_cells(parameters)
        plan = data.make_plan(parameters, cells)
        prepared = data.prepare(parameters, cells, plan)
        read = time.process_time()
        compare.jind(prepared, plan, parameters)
    learned = time.process_time()
    print(f"{prepared.n_obs:,} cells x {prepared.n_vars:,} features, {prepared.X.nnz:,} values")
    print(f"reading and preparing {read - began:.1f} CPU s, METHOD {parameters.METHOD} {learned - read:.1f} CPU s")
    pstats.Stats(profile).sort_stats("tottime").print_stats(asked.n)
