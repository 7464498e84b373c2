"""The process of `methods.celltypist`, which runs in CellTypist's own environment."""

import sys
import warnings
from pathlib import Path

import numpy as np
from scipy import sparse


def main(folder: Path) -> None:
    """Read `x.npz`, `y.npy` and `target.npz`; write `probabilities.npy`, whose columns are `classes.npy`."""
    import celltypist  # not there in our own environment

    warnings.simplefilter("ignore")
    x, target = (sparse.load_npz(folder / f"{name}.npz") for name in ("x", "target"))
    y = np.load(folder / "y.npy")
    genes = np.array([f"feature{i}" for i in range(x.shape[1])])
    # Cells add up to 10,000 over all features of the file, which may be more than these: CellTypist must not check it.
    model = celltypist.train(x, labels=y.astype(str), genes=genes, check_expression=False, n_jobs=1)
    # As `celltypist.annotate` does, without that check: the model's scaler, a limit of 10, the classifier.
    values = target[:, np.isin(genes, model.features)].toarray().astype(np.float64)
    values = np.minimum((values - model.scaler.mean_) / model.scaler.scale_, 10)
    _, probabilities, _ = model.predict_labels_and_prob(values)
    np.save(folder / "probabilities.npy", probabilities)
    np.save(folder / "classes.npy", model.classifier.classes_.astype(int))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
