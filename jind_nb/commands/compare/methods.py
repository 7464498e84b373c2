"""The usual tools at their usual settings, one function each, and the controls.

Every function takes a `BaselineInput` and returns probabilities (n_target, K). Each imports those packages that take
seconds to import or belong to the extra `compare`: a process runs one method, and should not pay for the others.
"""

import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from scipy import sparse
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from ...data.download import cache_folder
from ...model.loop import Loss, class_weights, set_seeds, train_epoch
from ...model.networks import Annotator, classify, encode
from ...model.reference import SOURCE_RATE, Classifier, Encoder

HVGS, COMPONENTS, NEIGHBOURS = 2000, 50, 15

FOLDS = 5

# scVI's own rule is up to 400 epochs: as many steps for 1,300 cells, and an hour on one core for 15,000.
MOST_STEPS = 4_000

MINIBATCH = 128

# The last scikit-learn whose LogisticRegression CellTypist 1.7.1 can train is older than ours.
CELLTYPIST = ("celltypist==1.7.1", "scikit-learn==1.6.1")

UNKNOWN = "unknown to the program"


@dataclass(frozen=True)
class BaselineInput:
    """Annotated cells and a target, without the target's labels."""

    x: sparse.csr_matrix  # annotated cells, log1p of counts per 10,000, float32 (n, p)
    y: np.ndarray  # int64 (n,), index into classes
    batch: np.ndarray  # objects (n,)
    target: sparse.csr_matrix  # (m, p)
    target_batch: str
    classes: list[str]
    seed: int = 0
    counts: sparse.csr_matrix | None = None  # annotated cells, then the target's, (n + m, p); for scANVI only

    @property
    def all_batches(self) -> np.ndarray:
        """The batch of the annotated cells and then of the target's, objects (n + m,)."""
        return np.concatenate([self.batch, np.full(self.target.shape[0], self.target_batch, dtype=object)])

    @property
    def all_cells(self) -> sparse.csr_matrix:
        """The annotated cells and then the target's, (n + m, p)."""
        return sparse.vstack([self.x, self.target], format="csr")

    def columns(self, probabilities: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Return probabilities of some `classes` (indices) as (m, K), zero for all others."""
        every = np.zeros((len(probabilities), len(self.classes)), dtype=np.float64)
        every[:, np.asarray(classes, dtype=int)] = probabilities
        return every


def logistic_regression(given: BaselineInput) -> np.ndarray:
    """Predict with scikit-learn's LogisticRegression at its defaults, on features of unit variance."""
    model = make_pipeline(StandardScaler(with_mean=False), LogisticRegression(max_iter=1000))
    model.fit(given.x.astype(np.float64), given.y)
    return given.columns(model.predict_proba(given.target.astype(np.float64)), model.classes_)


def linear_svm(given: BaselineInput) -> np.ndarray:
    """Predict with scikit-learn's LinearSVC on features of unit variance, calibrated by five folds (a sigmoid per type)."""
    # Every fold needs a cell of each type: cells of a type with fewer than five are repeated.
    rows_of_types = [np.flatnonzero(given.y == k) for k in np.unique(given.y)]
    rows = np.concatenate([np.resize(rows, max(FOLDS, len(rows))) for rows in rows_of_types])
    svm = LinearSVC(max_iter=10_000, random_state=0)
    model = CalibratedClassifierCV(make_pipeline(StandardScaler(with_mean=False), svm), cv=FOLDS)
    model.fit(given.x[rows].astype(np.float64), given.y[rows])
    return given.columns(model.predict_proba(given.target.astype(np.float64)), model.classes_)


def highly_variable(given: BaselineInput) -> np.ndarray:
    """Return scanpy's 2,000 highly variable features, or all if there are no more: bool (p,)."""
    import scanpy as sc

    if given.x.shape[1] <= HVGS:
        return np.ones(given.x.shape[1], dtype=bool)
    table = sc.pp.highly_variable_genes(ad.AnnData(given.all_cells), n_top_genes=HVGS, inplace=False)
    return table["highly_variable"].to_numpy()


def knn_after_harmony(given: BaselineInput) -> np.ndarray:
    """Predict by 15 neighbours after Harmony over batches, on 50 principal components of 2,000 highly variable features."""
    import harmonypy
    import scanpy as sc

    obs = pd.DataFrame({"batch": given.all_batches.astype(str)}).rename(index=str)
    cells = ad.AnnData(given.all_cells[:, highly_variable(given)].toarray(), obs=obs)
    sc.pp.scale(cells, max_value=10)
    sc.pp.pca(cells, n_comps=min(COMPONENTS, cells.n_vars - 1, cells.n_obs - 1), random_state=0)
    harmony = harmonypy.run_harmony(cells.obsm["X_pca"], cells.obs, "batch", random_state=0, ncores=1, verbose=False)
    corrected = np.asarray(harmony.Z_corr)
    n = len(given.y)
    model = KNeighborsClassifier(min(NEIGHBOURS, n), weights="distance").fit(corrected[:n], given.y)
    return given.columns(model.predict_proba(corrected[n:]), model.classes_)


def celltypist(given: BaselineInput) -> np.ndarray:
    """Train CellTypist with its defaults and return its probabilities (a sigmoid per type, so rows need not sum to 1).

    It runs in an environment of its own, `celltypist_python`.
    """
    python = celltypist_python()
    with tempfile.TemporaryDirectory() as folder:
        for name, matrix in (("x", given.x), ("target", given.target)):
            sparse.save_npz(f"{folder}/{name}.npz", matrix)
        np.save(f"{folder}/y.npy", given.y)
        program = Path(__file__).with_name("celltypist_process.py")
        # Without our paths: it has other versions of the same packages.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [str(python), str(program), folder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"CellTypist: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
        return given.columns(np.load(f"{folder}/probabilities.npy"), np.load(f"{folder}/classes.npy"))


def celltypist_python() -> Path:
    """Return the Python of an environment with CellTypist in the cache folder, which the first call makes.

    Raises
    ------
    ModuleNotFoundError
        If its packages cannot be fetched.
    """
    folder = cache_folder() / "-".join([*CELLTYPIST, f"py3.{sys.version_info.minor}"])
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = folder / "ready"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # comparisons side by side
        if ready.exists():
            return python
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *CELLTYPIST]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or "pip failed").splitlines()[-1]
            raise ModuleNotFoundError(f"{' and '.join(CELLTYPIST)} cannot be installed into {folder}: {last}")
        ready.touch()
    return python


def scanvi(given: BaselineInput) -> np.ndarray:
    """Train scVI, then scANVI, as in the tutorial of scvi-tools, on the CPU.

    They take counts of 2,000 highly variable features, and have 2 layers and 30 latent dimensions.

    scVI trains for its own number of epochs (up to 400), but at most 4,000 minibatches; scANVI for 20 epochs.
    """
    import scvi

    if given.counts is None or (len(given.counts.data) and given.counts.data.min() < 0):
        raise ValueError("scANVI needs counts, which cannot be computed from these values")
    scvi.settings.seed = given.seed
    torch.set_flush_denormal(True)  # its decoder's smallest numbers make x86 several times slower
    names = np.concatenate([given.y.astype(str), np.full(given.target.shape[0], UNKNOWN)])
    obs = pd.DataFrame({"batch": given.all_batches.astype(str), "type": pd.Categorical(names)})
    cells = ad.AnnData(given.counts[:, highly_variable(given)], obs=obs.rename(index=str))
    n = cells.n_obs
    epochs = min(max(1, min(round(20_000 / n * 400), 400)), max(1, MOST_STEPS * MINIBATCH // n))
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    scvi.model.SCVI.setup_anndata(cells, batch_key="batch", labels_key="type")
    unlabelled = scvi.model.SCVI(cells, n_layers=2, n_latent=30)
    unlabelled.train(max_epochs=epochs, **quiet)
    model = scvi.model.SCANVI.from_scvi_model(unlabelled, UNKNOWN, labels_key="type", adata=cells)
    model.train(max_epochs=20, n_samples_per_label=100, **quiet)
    soft = model.predict(soft=True).iloc[len(given.y) :]
    soft = soft[[name for name in soft.columns if name != UNKNOWN]]
    return given.columns(soft.to_numpy(), soft.columns.to_numpy())


def majority(given: BaselineInput) -> np.ndarray:
    """Return for every cell the share of each type among the annotated cells (control)."""
    shares = np.bincount(given.y, minlength=len(given.classes)) / len(given.y)
    return np.tile(shares, (given.target.shape[0], 1))


def pooled_network(given: BaselineInput) -> np.ndarray:
    """Train the source classifier of METHOD `reference` on all annotated batches at once, without alignment.

    At least 400 steps, the mean of three seeds: adapters and alignment must be better than this.
    """
    device, n_classes = torch.device("cpu"), len(given.classes)
    loss = Loss(class_weights(given.y, n_classes), device)
    epochs = max(15, -(-400 // -(-len(given.y) // MINIBATCH)))
    answers = []
    for seed in range(3 * given.seed, 3 * given.seed + 3):
        set_seeds(seed)
        model = Annotator(Encoder(given.x.shape[1]), Classifier(n_classes))
        optimiser = torch.optim.Adam(model.parameters(), lr=SOURCE_RATE)
        for _ in range(epochs):
            train_epoch(model, given.x, given.y, optimiser, loss)
        answers.append(classify(model.classifier, encode(model, given.target, device), device))
    return np.mean(answers, axis=0)


def random_labels(given: BaselineInput) -> np.ndarray:
    """Draw a type for each cell by the shares of the types among the annotated cells (control)."""
    drawn = np.random.default_rng(given.seed).choice(given.y, given.target.shape[0])
    return np.eye(len(given.classes))[drawn]


BASELINES: dict[str, Callable[[BaselineInput], np.ndarray]] = {
    "logistic regression": logistic_regression,
    "linear SVM": linear_svm,
    "kNN after Harmony": knn_after_harmony,
    "CellTypist": celltypist,
    "scANVI": scanvi,
    "pooled network": pooled_network,
    "random labels": random_labels,
    "majority": majority,
}
