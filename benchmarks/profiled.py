"""Where the CPU seconds of a run go: reading and preparing, and all that METHOD computes, without files and pictures.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/profiled.py PARAMETERS [-n 15]
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from pathlib import Path

from jind_nb.commands.compare import measure
from jind_nb.core.parameters import load_parameters
from jind_nb.data import cells as data_cells
from jind_nb.data import prepare, roles

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parameters", type=Path)
    parser.add_argument("-n", type=int, default=15, help="functions shown")
    asked = parser.parse_args()
    parameters = load_parameters(asked.parameters, {})
    profile, began = cProfile.Profile(), time.process_time()
    with profile:
        cells = data_cells.read_cells(parameters)
        plan = roles.make_plan(parameters, cells)
        prepared = prepare.prepare(parameters, cells, plan)
        read = time.process_time()
        measure.jind(prepared, plan, parameters)
    learned = time.process_time()
    print(f"{prepared.n_obs:,} cells x {prepared.n_vars:,} features, {prepared.X.nnz:,} values")
    print(f"reading and preparing {read - began:.1f} CPU s, METHOD {parameters.METHOD} {learned - read:.1f} CPU s")
    pstats.Stats(profile).sort_stats("tottime").print_stats(asked.n)
