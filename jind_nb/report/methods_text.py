"""The methods section for a paper: what a run did, as one paragraph with its references."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.labels import UNLIKE
from ..core.model_json import read_model_json
from ..core.text import percent, plural
from ..data.plan import Plan
from ..data.roles import CELLS_PER_BATCH
from ..model.annotate import METHODS
from ..model.state import AlignmentMode
from ..results.summary import alignment_reason
from ..results.target import TargetResult, target_calibration
from ..runs.folder import Run

JIND = "Goyal et al. 2022", "JIND: joint integration and discrimination for automated single-cell annotation, Bioinformatics", "doi:10.1093/bioinformatics/btac140"  # fmt: skip

JIND_MULTI = "Sancho-Zamora et al. 2025", "JIND-Multi, Computational and Structural Biotechnology Journal", "doi:10.1016/j.csbj.2025.06.043"  # fmt: skip

TEMPERATURE = "Guo et al. 2017", "On calibration of modern neural networks, ICML", "arXiv:1706.04599"

SELECTIVE = "Geifman & El-Yaniv 2017", "Selective classification for deep neural networks, NeurIPS", "arXiv:1705.08500"

GROUPED = "Dunn et al. 2023", "Distribution-free prediction sets for two-layer hierarchical models, Journal of the American Statistical Association", "doi:10.1080/01621459.2022.2060112"  # fmt: skip

LEIDEN = "Traag et al. 2019", "From Louvain to Leiden: guaranteeing well-connected communities, Scientific Reports", "doi:10.1038/s41598-019-41695-z"  # fmt: skip

GRADIENTS = "Sundararajan et al. 2017", "Axiomatic attribution for deep networks, ICML", "arXiv:1703.01365"

UMAP = "McInnes et al. 2018", "UMAP: uniform manifold approximation and projection for dimension reduction", "arXiv:1802.03426"  # fmt: skip

SCANPY = "Wolf et al. 2018", "SCANPY: large-scale single-cell gene expression data analysis, Genome Biology", "doi:10.1186/s13059-017-1382-0"  # fmt: skip

CITED = (JIND, JIND_MULTI, TEMPERATURE, SELECTIVE, GROUPED, LEIDEN, GRADIENTS, UMAP, SCANPY)

VERSIONS_NAMED = {"python": "Python", "torch": "PyTorch", "scikit-learn": "scikit-learn", "scanpy": "scanpy", "anndata": "anndata"}  # fmt: skip


@dataclass(frozen=True)
class Methods:
    """The paragraph and its references in order of citation: (authors and year, title and journal, address)."""

    paragraph: str
    references: list[tuple[str, str, str]]


def methods(
    run: Run, result: TargetResult, plan: Plan, training: Mapping[str, Any], versions: Mapping[str, str]
) -> Methods:
    """Describe what was done in this run, no more.

    Parameters
    ----------
    versions
        Of Python and packages, as in manifest.json.
    """
    method = read_model_json(run.models)["training"]["METHOD"]
    epochs = None if run.parameters.PRETRAINED_MODEL_PATH else run.parameters.EPOCHS
    sentences = [
        f"Cells of {plan.target} (n = {len(result.cells):,}) were annotated with jind-nb {versions.get('jind-nb', '')} "
        f"(METHOD {method}), after JIND ({JIND[0]}) and JIND-Multi ({JIND_MULTI[0]}).",
        *_learned_from(run, plan, training),
        METHODS[method].describe(result.latent.shape[1], epochs),
        *_alignment(run, result, training, method),
        *_rejection(run, result, training),
        *_options(run),
        f"The random seed was {run.parameters.SEED}. Versions: "
        + ", ".join(f"{words} {versions[name]}" for name, words in VERSIONS_NAMED.items() if name in versions)
        + ".",
    ]
    paragraph = " ".join(sentences)
    cited = [reference for reference in CITED if reference[0] in paragraph]
    return Methods(paragraph, sorted(cited, key=lambda reference: paragraph.index(reference[0])))


def _learned_from(run: Run, plan: Plan, training: Mapping[str, Any]) -> Iterator[str]:
    p, others = run.parameters, training["intermediates"]
    if not plan.cells:
        batches = f" and {plural(len(others), 'further batch', 'further batches')}" if others else ""
        yield f"A saved model was used, trained on the batch {training['source']}{batches}; nothing was trained here."
    else:
        cells = sum(sum(of_batch.values()) for of_batch in plan.cells.values())
        names = ", ".join([f"{training['source']} (source)", *others])
        yield (
            f"{plural(len(plan.classes), 'cell type was', 'cell types were')} learned from "
            f"{plural(1 + len(others), 'annotated batch', 'annotated batches')} ({names}; {cells:,} labelled cells)."
        )
        yield (
            f"Cell types with fewer than {p.MIN_CELL_TYPE_POPULATION:,} labelled cells in a batch were left out of that "
            f"batch, and at most {CELLS_PER_BATCH[p.METHOD]:,} labelled cells of a batch were used."
        )
    kept = plan.features["kept"]
    if not plan.cells:
        features = f"the model's {kept:,} features were used"
    elif kept == plan.features["in_file"]:
        features = f"all {kept:,} features were used"
    else:
        in_file = plan.features["in_file"]
        features = f"the {kept:,} of {in_file:,} features with the largest variance over all cells were used"
    yield f"Values were {plan.scale}; {features}."


def _alignment(run: Run, result: TargetResult, training: Mapping[str, Any], method: str) -> Iterator[str]:
    p = run.parameters
    is_given = p.ALIGN is not None or p.PRETRAINED_MODEL_PATH is not None
    why = "" if is_given or METHODS[method].ALWAYS_ALIGNS else f" {alignment_reason(training)}."
    if result.mode == AlignmentMode.ALIGNED:
        yield METHODS[method].describe_alignment(result.stages) + why
    else:
        yield f"The target was not aligned with the annotated batches.{why}"


def _rejection(run: Run, result: TargetResult, training: Mapping[str, Any]) -> Iterator[str]:
    calibration, p = target_calibration(training, result), run.parameters
    one = calibration is not None and calibration.n_annotated == 1
    where = "held-out cells of the annotated batch" if one else "annotated batches left out of training one at a time"
    if calibration is not None:
        n = "" if one else f" ({calibration.n_left_out} batches)"
        yield (
            f"Probabilities were calibrated by temperature scaling (T = {calibration.temperature:.2f}; {TEMPERATURE[0]}) on "
            f"{where}{n}."
        )
    if calibration is not None and calibration.threshold is not None:
        yield (
            f"A cell was left Unassigned if its highest probability was below {calibration.threshold:.3f}. This threshold was "
            f"chosen on them so that at most {percent(calibration.target_error or 0)} of the assigned cells of a new batch are "
            f"wrong (selective classification, {SELECTIVE[0]}, with batches as exchangeable units, {GROUPED[0]})."
        )
    else:
        cap = (
            f", and never required to exceed {calibration.threshold_cap:.2f}"
            if calibration is not None and calibration.threshold_cap is not None and calibration.threshold_cap <= 1
            else ""
        )
        yield (
            "A cell was left Unassigned if its highest probability was below its cell type's threshold, the value that "
            f"{percent(p.REJECTION)} of held-out annotated cells called this type do not reach{cap}."
        )
    if calibration is not None and calibration.novelty_threshold is not None:
        yield (
            f"A cell was also left Unassigned, as {UNLIKE!r}, if its cosine distance to the fifth nearest annotated cell was "
            f"above {calibration.novelty_threshold:.3f} (1 % of the {'held-out cells' if one else 'cells of left-out batches'} are)."
        )
    rejected = result.final.rejected & ~result.fell_back
    left = f"{percent(float(rejected.mean()))} of the target's cells were left Unassigned"
    expected = calibration.mean("error_among_assigned") if calibration is not None else None
    yield (
        f"{left}." if expected is None else f"{left}; on {where}, {percent(expected)} of the assigned cells were wrong."
    )


def _options(run: Run) -> Iterator[str]:
    p = run.parameters
    if p.PARENTS is not None:
        yield (
            "An ambiguous cell was given the most probable parent type if its cell types together reached the parent's own "
            "threshold of probability."
        )
    if p.CLUSTER_RESOLUTION is not None:
        yield f"The target's cells were clustered by the Leiden algorithm at resolution {p.CLUSTER_RESOLUTION:g} ({LEIDEN[0]}), for comparison only."  # fmt: skip
    yield (
        f"Features that speak for each type were found by integrated gradients ({GRADIENTS[0]}). Pictures of cells are UMAP "
        f"embeddings ({UMAP[0]}). Data were processed with scanpy and anndata ({SCANPY[0]})."
    )
