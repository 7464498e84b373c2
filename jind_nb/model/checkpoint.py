"""What a training has learned so far, kept after each batch: one that was killed or interrupted goes on there.

Only a METHOD that takes long keeps something (`Method.KEEPS_CHECKPOINTS`).
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import anndata as ad
import torch
from scipy import sparse

from ..core.code_hash import code_hash
from ..core.files import whole_file
from ..data.fingerprints import fingerprints
from ..data.plan import Plan
from .history import StageResult
from .state import Reference, Settings

log = logging.getLogger(__name__)


def key(prepared: ad.AnnData, plan: Plan, settings: Settings) -> str:
    """Return a hash of all that the training depends on: cells, their batches and types, settings and code."""
    values = {name: str(value) for name, value in vars(settings).items() if name != "method"}
    settled = values | {"method": settings.method.NAME}
    found = hashlib.sha256(json.dumps([plan.annotated, plan.source, plan.classes, settled, code_hash()]).encode())
    found.update(fingerprints(sparse.csr_matrix(prepared.X)).tobytes())
    for column in ("batch", "cell_type"):
        found.update(prepared.obs[column].cat.codes.to_numpy().tobytes())
    return found.hexdigest()


def keep(reference: Reference) -> None:
    """Write what has been learned of the batches so far, if the reference has a file for it."""
    if reference.checkpoint is None:
        return
    file, depends_on = reference.checkpoint
    stored = {
        "key": depends_on,
        "source": reference.source,
        "learned": reference.learned,
        "model": reference.model.state_dict(),
        "adapters": {
            name: None if adapter is None else adapter.state_dict() for name, adapter in reference.adapters.items()
        },
        "record": json.dumps(reference.record()),
    }
    with whole_file(file) as temporary:
        torch.save(stored, temporary)


def read(file: Path, depends_on: str) -> dict[str, Any] | None:
    """Return what a training kept that depended on the same; None if there is nothing."""
    if not file.exists():
        return None
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
        return stored if stored["key"] == depends_on else None
    except Exception:  # a damaged file fails in many ways, and costs no more than the time to train again
        return None


def restore(reference: Reference, stored: dict[str, Any]) -> None:
    """Bring a reference that has learned nothing to where the stored one was."""
    settings, n_features = reference.settings, next(iter(reference.batches.values())).x.shape[1]
    reference.model.load_state_dict(stored["model"])
    for name, weights in stored["adapters"].items():
        reference.adapters[name] = None
        if weights is not None:
            fresh = settings.method.empty_annotator(n_features, len(reference.classes), 0, has_adapter=True).adapter
            assert fresh is not None
            fresh.load_state_dict(weights)
            reference.adapters[name] = fresh.to(settings.device)
    record = json.loads(stored["record"])
    reference.learned, reference.candidates, reference.curves = (
        stored["learned"],
        record["candidates"],
        record["curves"],
    )
    reference.history = [StageResult(**row) for row in record["history"]]
    log.info("going on after %s, which an interrupted training had learned", ", ".join(reference.adapters))
