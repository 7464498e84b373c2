"""report.html of `jind-nb predict --report`: what a saved model says of a new file, as far as the model knows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from markupsafe import Markup

from ..core.labels import UNASSIGNED
from ..core.model_json import read_model_json
from ..data.plan import Plan
from ..model.calibration import Calibration
from ..model.state import AlignmentMode, KnownLatents
from ..model.store import load_shared
from ..results import new_groups
from ..results.embedding import points_of
from ..results.predicted import Predicted, batches_table, flagged_table, reasons_counted
from ..results.summary import FEW_CELLS, expected_error_sentence, summarise_prediction
from ..results.tables import (
    composition_to_read,
    count_types,
    describe_stage,
    hover_table,
    left_out_caption,
    left_out_confusion,
    left_out_table,
    left_out_title,
    noticed_table,
)
from . import html as report_html
from . import page
from .chapter import PointData, figure_html, scrolling_html
from .plots import confusion, style
from .plots.embedding import pictures_of_target
from .plots.target import (
    answer_pictures,
    calibration_note,
    confidence_histogram,
    histogram_alt,
    reliability_alt,
    reliability_curves,
)

NOTICED_CAPTION = (
    "If a type were new: how many of its cells would be unlike the reference, had no other annotated batch had it"
)

MOST_LISTED = 30  # cells without a type

# Parameters that say something about a prediction.
SHOWN = (
    "LAYER", "GENE_COL", "FEATURE_TYPES", "NORMALISATION", "TYPES", "ALIGN", "DOUBLETS", "METHOD", "SEED", "REJECTION", "TARGET_ERROR",
)  # fmt: skip


def write_prediction_html(predicted: Predicted, facts: Mapping[str, Any]) -> str:
    """Write report.html, one file that needs no network, and return its text.

    Parameters
    ----------
    facts
        `model` and `input` as in manifest.json.

    Raises
    ------
    InputError
        If the model cannot be read.
    """
    folder = Path(facts["model"]["path"])
    description, (_, known) = read_model_json(folder), load_shared(folder, torch.device("cpu"))
    plan = _plan(predicted, known)
    types = count_types(_answers(predicted), plan).assign(training_cells=known.counts)
    types = types.sort_values("assigned", ascending=False, kind="stable")
    values = description["calibration"].get(AlignmentMode.UNALIGNED)
    calibration = None if values is None else Calibration.from_json(values)
    points, flagged = PointData(), flagged_table(predicted.table)
    several = len(set(predicted.batches)) > 1
    html = page.render(
        "prediction.html.j2",
        name=plan.target,
        n_cells=len(predicted.table),
        summary=summarise_prediction(predicted, types, plan, calibration),
        known_types=plan.classes,
        features=predicted.features,
        model=description,
        facts=facts,
        path=folder,
        pictures=_answer_pictures(predicted, plan, known, types, points),
        table=_table(composition_to_read(types, has_parents="level" in predicted.table), "Each cell type in the file"),
        batches=_table(batches_table(predicted), "Each batch of the file") if several else None,
        reasons=_table(reasons_counted(predicted.table), "Why cells were assigned or not"),
        flagged=_table(flagged.head(MOST_LISTED), "Cells without a type, the least sure first"),
        groups=_groups(predicted),
        alignment_notes=predicted.alignment_notes,
        n_flagged=len(flagged),
        n_listed=min(len(flagged), MOST_LISTED),
        all_cells=page.all_cells(predicted.run),
        n_annotated=len(description["training"]["cells"]),
        n_held_out=None if calibration is None else sum(row["cells"] for row in calibration.batches),
        few_cells=FEW_CELLS,
        held_out=None if calibration is None else expected_error_sentence(calibration),
        trust=_trust(calibration, predicted.classes),
        learned_from=_table(_learned_from(description), "What the model learned from"),
        parameters=page.by_name(page.parameters_in_words(predicted.run, SHOWN), ["parameter", "value"], "Parameters"),
        point_data=points.content,
    )
    return page.write(html, predicted.run)


def _plan(predicted: Predicted, known: KnownLatents) -> Plan:
    """Return what the pictures need of a plan: the annotated batches' cells are those that the model keeps."""
    batches, classes = np.array(known.batches, dtype=object), np.array(known.classes, dtype=object)
    cells = pd.crosstab(classes[known.y], batches[known.batch]).to_dict()
    name = Path(predicted.run.parameters.paths[0]).name
    return Plan(name, None, known.batches, predicted.classes, cells=cells)


def _answers(predicted: Predicted) -> pd.DataFrame:
    table = predicted.table
    return pd.DataFrame(
        {
            "raw": table["raw_predictions"].to_numpy(dtype=object),
            "level": predicted.level,
            "reason": table["reason"].to_numpy(dtype=object),
            "confidence": table["confidence"].to_numpy(),
        }
    )


def _table(table: pd.DataFrame, caption: str) -> Markup:
    return scrolling_html(report_html.table_html(table, caption, has_download=True))


def _groups(predicted: Predicted) -> Markup | None:
    """Return the groups of cells that are unlike all annotated ones; None where there are none."""
    if predicted.groups is None:
        return None
    groups = predicted.groups
    return _table(new_groups.to_read(groups.table), new_groups.title(groups, predicted.table["reason"]))


def _answer_pictures(
    predicted: Predicted, plan: Plan, known: KnownLatents, types: pd.DataFrame, points: PointData
) -> dict[str, Markup]:
    """Return the pictures of page one, and those that show where the new cells lie and how sure the model is of them."""
    table, target = predicted.table, plan.target
    cells = pd.DataFrame(
        {
            "name": table.index.to_numpy(dtype=object), "label": None, "raw": table["raw_predictions"].to_numpy(dtype=object),
            "confidence": table["confidence"].to_numpy(), "reason": table["reason"].to_numpy(dtype=object),
            "cell type": table["predictions"].to_numpy(dtype=object),
            "group": None if predicted.groups is None else predicted.groups.of_cells,
        }
    )  # fmt: skip
    stages = {"answer": (predicted.latent, cells["cell type"].to_numpy())}
    here = describe_stage(points_of(stages, known, target, predicted.run.parameters.SEED), cells)
    hover = hover_table(here)
    umap, bars = answer_pictures(here, types, plan, predicted.answers)
    first = [style.described(*umap, hover), style.described(*bars)]
    where = pictures_of_target(here, target, plan.annotated, predicted.answers)
    more = [style.described(picture, alt, hover) for picture, alt, _ in where]
    confidence, rejected = cells["confidence"].to_numpy(), (cells["cell type"] == UNASSIGNED).to_numpy()
    histogram = confidence_histogram(confidence, rejected, target)
    more.append(style.described(histogram, histogram_alt(confidence, rejected, target)))
    return {"first": page.pair(first, points), "more": page.pair(more, points)}


def _trust(calibration: Calibration | None, classes: list[str]) -> Markup | None:
    """Return what became of the annotated batches that were left out when the model was made; None where none was."""
    if calibration is None:
        return None
    curves = reliability_curves(calibration, "")
    assert not isinstance(curves, str)  # a sentence only without a calibration
    pictures = [style.described(curves, reliability_alt(calibration, None))]
    if (counts := left_out_confusion(calibration, classes)) is not None:
        title = left_out_title(calibration)
        matrix = confusion.share_matrix(counts, title, classes)
        pictures.insert(0, style.described(matrix, confusion.share_matrix_alt(counts, title)))
    caption = left_out_caption(calibration, "Each annotated batch, left out and annotated like a new file")
    shown = Markup("").join(figure_html(png, about) for png, about in pictures)
    note = calibration_note(calibration)
    noticed = _table(noticed_table(calibration, classes), NOTICED_CAPTION) if calibration.noticed else Markup("")
    return (
        _table(left_out_table(calibration), caption)
        + shown
        + (Markup("<p>{}</p>").format(note) if note else "")
        + noticed
    )


def _learned_from(description: Mapping[str, Any]) -> pd.DataFrame:
    training = description["training"]
    table = pd.DataFrame({"cells": training["cells"], "of them held out of training": training["held_out"]})
    return table.rename_axis("batch")
