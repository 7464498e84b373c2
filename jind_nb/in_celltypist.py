"""Run by `baselines.celltypist` with the Python of CellTypist's own environment: reads a folder, trains, writes there."""

import sys
import warnings
from pathlib import Path

import celltypist
import numpy as np
from scipy import sparse

warnings.simplefilter("ignore")
folder = Path(sys.argv[1])
x, target = (sparse.load_npz(folder / f"{name}.npz") for name in ("x", "target"))
y = np.load(folder / "y.npy")
genes = np.array([f"feature{i}" for i in range(x.shape[1])])
# Cells add up to 10,000 over all features of the file, which may be more than these; so CellTypist is not to check it.
model = celltypist.train(x, labels=y.astype(str), genes=genes, check_expression=False, n_jobs=1)
# What `celltypist.annotate` does with a matrix, without its checks: the model's scaler, values cut at 10, the classifier.
kept = np.isin(genes, model.features)
values = target[:, kept].toarray().astype(np.float64)
values = (values - model.scaler.mean_) / model.scaler.scale_
values[values > 10] = 10
_, probabilities, _ = model.predict_labels_and_prob(values)
np.save(folder / "probabilities.npy", probabilities)
np.save(folder / "classes.npy", model.classifier.classes_.astype(int))
