"""What a user would otherwise annotate the target with: usual tools at their usual settings, each one plain function.

Every function takes a `Task` and gives probabilities (n_target, K). Optional packages (the extra `compare`) are imported
where they are used.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from scipy import sparse

from ...data.download import cache_folder
from ...model.loop import Loss, class_weights, set_seeds, train_epoch
from ...model.networks import Annotator, classify, encode
from ...model.reference import SOURCE_RATE, Classifier, Encoder

HVGS, COMPONENTS, NEIGHBOURS = 2000, 50, 15

FOLDS = 5

# scVI's own rule is up to 400 epochs: as many steps for 1,300 cells, and an hour on one core for 15,000.
MOST_STEPS = 4_000

MINIBATCH = 128

# The last scikit-learn whose LogisticRegression CellTypist 1.7.1 can train with is older than ours.
CELLTYPIST = ("celltypist==1.7.1", "scikit-learn==1.6.1")

UNKNOWN = "unknown to the program"


@dataclass(frozen=True)
class Task:
    """Annotated cells, a target, and nothing of the target's labels."""

    x: sparse.csr_matrix  # annotated cells, log1p of counts per 10,000, float32 (n, p)
    y: np.ndarray  # int64 (n,), index into classes
    batch: np.ndarray  # objects (n,)
    target: sparse.csr_matrix  # (m, p)
    target_batch: str
    classes: list[str]
    seed: int = 0
    counts: sparse.csr_matrix | None = None  # annotated cells, then the target's, (n + m, p); only scANVI asks for it

    @property
    def all_batches(self) -> np.ndarray:
        """The batch of the annotated cells and then of the target's, objects (n + m,)."""
        return np.concatenate([self.batch, np.full(self.target.shape[0], self.target_batch, dtype=object)])

    @property
    def all_cells(self) -> sparse.csr_matrix:
        """The annotated cells and then the target's, (n + m, p)."""
        return sparse.vstack([self.x, self.target], format="csr")

    def columns(self, probabilities: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Probabilities whose columns are some `classes` (indices), as (m, K)."""
        every = np.zeros((len(probabilities), len(self.classes)), dtype=np.float64)
        every[:, np.asarray(classes, dtype=int)] = probabilities
        return every


def logistic_regression(task: Task) -> np.ndarray:
    """scikit-learn's LogisticRegression, as it comes, on features of unit variance."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(with_mean=False), LogisticRegression(max_iter=1000))
    model.fit(task.x.astype(np.float64), task.y)
    return task.columns(model.predict_proba(task.target.astype(np.float64)), model.classes_)


def linear_svm(task: Task) -> np.ndarray:
    """scikit-learn's LinearSVC on features of unit variance, five-fold calibrated to probabilities (sigmoid a type)."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    # Every fold needs a cell of each type: cells of a type with fewer than five are repeated.
    of_types = [np.flatnonzero(task.y == k) for k in np.unique(task.y)]
    rows = np.concatenate([np.resize(rows, max(FOLDS, len(rows))) for rows in of_types])
    svm = LinearSVC(max_iter=10_000, random_state=0)
    model = CalibratedClassifierCV(make_pipeline(StandardScaler(with_mean=False), svm), cv=FOLDS)
    model.fit(task.x[rows].astype(np.float64), task.y[rows])
    return task.columns(model.predict_proba(task.target.astype(np.float64)), model.classes_)


def highly_variable(task: Task) -> np.ndarray:
    """Scanpy's choice of 2,000 features, or all where there are no more: bool (p,)."""
    import anndata as ad
    import scanpy as sc

    if task.x.shape[1] <= HVGS:
        return np.ones(task.x.shape[1], dtype=bool)
    table = sc.pp.highly_variable_genes(ad.AnnData(task.all_cells), n_top_genes=HVGS, inplace=False)
    return table["highly_variable"].to_numpy()


def knn_after_harmony(task: Task) -> np.ndarray:
    """50 principal components of 2,000 highly variable features over all cells, Harmony over batches, 15 neighbours."""
    import anndata as ad
    import harmonypy
    import scanpy as sc
    from sklearn.neighbors import KNeighborsClassifier

    obs = pd.DataFrame({"batch": task.all_batches.astype(str)})
    obs.index = obs.index.astype(str)
    cells = ad.AnnData(task.all_cells[:, highly_variable(task)].toarray(), obs=obs)
    sc.pp.scale(cells, max_value=10)
    sc.pp.pca(cells, n_comps=min(COMPONENTS, cells.n_vars - 1, cells.n_obs - 1), random_state=0)
    harmony = harmonypy.run_harmony(cells.obsm["X_pca"], cells.obs, "batch", random_state=0, ncores=1, verbose=False)
    corrected = np.asarray(harmony.Z_corr)
    n = len(task.y)
    model = KNeighborsClassifier(min(NEIGHBOURS, n), weights="distance").fit(corrected[:n], task.y)
    return task.columns(model.predict_proba(corrected[n:]), model.classes_)


def celltypist(task: Task) -> np.ndarray:
    """CellTypist's own training with its default settings, and its probabilities (a sigmoid a type; not of sum 1).

    It runs in an environment of its own, `celltypist_python`.
    """
    python = celltypist_python()
    with tempfile.TemporaryDirectory() as folder:
        for name, matrix in (("x", task.x), ("target", task.target)):
            sparse.save_npz(f"{folder}/{name}.npz", matrix)
        np.save(f"{folder}/y.npy", task.y)
        program = Path(__file__).with_name("celltypist_process.py")
        # No path of ours may reach it: it has other versions of the same packages.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            [str(python), str(program), folder], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"CellTypist: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
        return task.columns(np.load(f"{folder}/probabilities.npy"), np.load(f"{folder}/classes.npy"))


def celltypist_python() -> Path:
    """The Python of an environment in the cache folder that has CellTypist; made if it is not there yet.

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


def scanvi(task: Task) -> np.ndarray:
    """scVI, then scANVI, as in the tutorial of scvi-tools: counts of 2,000 highly variable features, 2 layers, 30 latent
    dimensions, on the CPU.

    scVI trains for its own number of epochs (up to 400), but at most 4,000 minibatches; scANVI for 20 epochs.
    """
    import anndata as ad
    import scvi
    import torch

    if task.counts is None or (len(task.counts.data) and task.counts.data.min() < 0):
        raise ValueError("scANVI needs counts, and these values cannot be brought back to any")
    scvi.settings.seed = task.seed
    torch.set_flush_denormal(True)  # its decoder's smallest numbers make x86 several times slower
    names = np.concatenate([task.y.astype(str), np.full(task.target.shape[0], UNKNOWN)])
    obs = pd.DataFrame({"batch": task.all_batches.astype(str), "type": pd.Categorical(names)})
    obs.index = obs.index.astype(str)
    cells = ad.AnnData(task.counts[:, highly_variable(task)], obs=obs)
    n = cells.n_obs
    epochs = min(max(1, min(round(20_000 / n * 400), 400)), max(1, MOST_STEPS * MINIBATCH // n))
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    scvi.model.SCVI.setup_anndata(cells, batch_key="batch", labels_key="type")
    unlabelled = scvi.model.SCVI(cells, n_layers=2, n_latent=30)
    unlabelled.train(max_epochs=epochs, **quiet)
    model = scvi.model.SCANVI.from_scvi_model(unlabelled, UNKNOWN, labels_key="type", adata=cells)
    model.train(max_epochs=20, n_samples_per_label=100, **quiet)
    soft = model.predict(soft=True).iloc[len(task.y) :]
    soft = soft[[name for name in soft.columns if name != UNKNOWN]]
    return task.columns(soft.to_numpy(), soft.columns.to_numpy())


def majority(task: Task) -> np.ndarray:
    """Control: the share of each type among the annotated cells, for every cell."""
    shares = np.bincount(task.y, minlength=len(task.classes)) / len(task.y)
    return np.tile(shares, (task.target.shape[0], 1))


def pooled_network(task: Task) -> np.ndarray:
    """The source classifier of METHOD `reference`, trained on all annotated batches at once and not aligned (at least 400
    steps; three seeds, averaged): what adapters and alignment must be better than."""
    import torch

    device, n_classes = torch.device("cpu"), len(task.classes)
    loss = Loss(class_weights(task.y, n_classes), device)
    epochs = max(15, -(-400 // -(-len(task.y) // MINIBATCH)))
    answers = []
    for seed in range(3 * task.seed, 3 * task.seed + 3):
        set_seeds(seed)
        model = Annotator(Encoder(task.x.shape[1]), Classifier(n_classes))
        optimiser = torch.optim.Adam(model.parameters(), lr=SOURCE_RATE)
        for _ in range(epochs):
            train_epoch(model, task.x, task.y, optimiser, loss)
        answers.append(classify(model.classifier, encode(model, task.target, device), device))
    return np.mean(answers, axis=0)


def random_labels(task: Task) -> np.ndarray:
    """Control: a type drawn for each cell by the shares of the types among the annotated cells."""
    drawn = np.random.default_rng(task.seed).choice(task.y, task.target.shape[0])
    return np.eye(len(task.classes))[drawn]


BASELINES: dict[str, Callable[[Task], np.ndarray]] = {
    "logistic regression": logistic_regression,
    "linear SVM": linear_svm,
    "kNN after Harmony": knn_after_harmony,
    "CellTypist": celltypist,
    "scANVI": scanvi,
    "pooled network": pooled_network,
    "random labels": random_labels,
    "majority": majority,
}
