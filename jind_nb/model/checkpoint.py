"""What METHOD `reference` has learned so far, kept after each batch: a training that was killed or interrupted goes on there.

METHOD `default` keeps nothing: all it would save are seconds.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from scipy import sparse

from ..core.code_hash import code_hash
from ..core.files import whole_file
from ..data.fingerprints import fingerprints
from ..data.plan import Plan
from .history import StageResult
from .networks import Adapter

if TYPE_CHECKING:
    import anndata as ad

    from .training import Reference, Settings

log = logging.getLogger(__name__)


def key(prepared: ad.AnnData, plan: Plan, settings: Settings) -> str:
    """A hash of all that the training depends on: cells, their batches and types, settings and code."""

    settled = {name: str(value) for name, value in asdict(settings).items()}
    found = hashlib.sha256(json.dumps([plan.annotated, plan.source, plan.classes, settled, code_hash()]).encode())
    found.update(fingerprints(sparse.csr_matrix(prepared.X)).tobytes())
    for column in ("batch", "cell_type"):
        found.update(prepared.obs[column].cat.codes.to_numpy().tobytes())
    return found.hexdigest()


def keep(reference: Reference) -> None:
    """Writes what has been learned of the batches so far, if the reference has a file for it."""
    if reference.unfinished is None:
        return
    file, depends_on = reference.unfinished
    stored = {
        "key": depends_on,
        "source": reference.source,
        "learned": reference.learned,
        "model": reference.model.state_dict(),
        "adapters": {
            name: None if adapter is None else adapter.state_dict() for name, adapter in reference.adapters.items()
        },
        "story": json.dumps(reference.story()),
    }
    with whole_file(file) as temporary:
        torch.save(stored, temporary)


def read(file: Path, depends_on: str) -> dict[str, Any] | None:
    """What was kept by a training that depended on the same; None if there is none."""
    if not file.exists():
        return None
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
        return stored if stored["key"] == depends_on else None
    except Exception:  # a damaged file fails in many ways, and costs no more than the time to train again
        return None


def restore(reference: Reference, stored: dict[str, Any]) -> None:
    """Puts a reference that knows only its batches where the stored one was."""
    device, n_features = reference.settings.device, next(iter(reference.batches.values())).x.shape[1]
    reference.model.load_state_dict(stored["model"])
    for name, weights in stored["adapters"].items():
        reference.adapters[name] = None
        if weights is not None:
            adapter = Adapter(n_features).to(device)
            adapter.load_state_dict(weights)
            reference.adapters[name] = adapter
    story = json.loads(stored["story"])
    reference.learned, reference.candidates, reference.curves = stored["learned"], story["candidates"], story["curves"]
    reference.history = [StageResult(**row) for row in story["history"]]
    log.info("going on after %s, which an interrupted training had learned", ", ".join(reference.adapters))
