"""Why this label: known markers drive the types they mark, and dot plots count what they say they count."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import nn

from jind_nb.core.labels import UNASSIGNED
from jind_nb.core.parameters import make_parameters
from jind_nb.data.cells import read_cells
from jind_nb.data.plan import Plan
from jind_nb.data.prepare import prepare
from jind_nb.data.roles import make_plan
from jind_nb.model.annotate import settings_of
from jind_nb.model.networks import Annotator
from jind_nb.model.predictions import Predictions
from jind_nb.model.reference import Classifier, Encoder
from jind_nb.report.plots import markers as plots_markers
from jind_nb.results import attribution, expression
from jind_nb.results.target import TargetResult, with_parents
from tests.helpers.learn import METHODS, learn

# Markers from the literature, as far as the sets hold them; how many features may come before them.
MARKERS = {
    "pbmc_10x_symphony": (
        "3pv1",
        {
            "B": ["MS4A1", "CD79A"], "NK": ["GNLY", "NKG7"], "Mono_CD14": ["CD14", "LYZ"], "Mono_CD16": ["FCGR3A"],
            "T_CD4": ["CD3D", "IL7R"], "T_CD8": ["CD8A"], "DC": ["FCER1A"],
        },
    ),
    "pancreas_3studies_small": ("Lawlor", {"alpha": ["GCG"], "beta": ["INS"], "ductal": ["KRT19"]}),
    "pancreas_wang_xin_baron": ("Wang", {"delta": ["SST"], "gamma": ["PPY"], "beta": ["IAPP"]}),
}  # fmt: skip
FIRST = {"reference": 10, "default": 25}  # CD3D is 21st of 1,767 for CD4 T cells: CD8 T cells have it too


def learned(prepared: ad.AnnData) -> nn.Module:
    """An encoder and a classifier after sixty steps over all annotated cells: enough for these sets, and quick."""
    annotated = prepared[prepared.obs["cell_type"].notna()]
    x = torch.from_numpy(annotated.X.toarray())
    y = torch.from_numpy(annotated.obs["cell_type"].cat.codes.to_numpy().astype(np.int64))
    torch.manual_seed(0)
    model = Annotator(Encoder(x.shape[1]), Classifier(len(annotated.obs["cell_type"].cat.categories)))
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    weights = 1 / torch.bincount(y).float()
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y, weights).backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def real(shared_file: Callable[[str], Path]) -> Callable[[str], tuple[ad.AnnData, Plan, nn.Module]]:
    @cache
    def make(name: str, method: str = "reference") -> tuple[ad.AnnData, Plan, nn.Module]:
        p = make_parameters(
            {
                "PATH": str(shared_file(name)), "BATCH_COL": "batch", "LABELS_COL": "celltype",
                "TARGET_DATASET_NAME": MARKERS[name][0], "OUTPUT_PATH": "unused", "MIN_CELL_TYPE_POPULATION": 5,
                "MARKERS": MARKERS[name][1],
            }
        )  # fmt: skip
        cells = read_cells(p)
        plan = make_plan(p, cells)
        prepared = prepare(p, cells, plan)
        if method == "default":
            return prepared, plan, learn(prepared, plan, settings_of(p)).model
        return prepared, plan, learned(prepared)

    return make


def result_of(prepared: ad.AnnData, plan: Plan, model: nn.Module) -> TargetResult:
    of_target = (prepared.obs["batch"] == plan.target).to_numpy()
    with torch.no_grad():
        probabilities = torch.softmax(model(torch.from_numpy(prepared.X[of_target].toarray())), 1).numpy()
    final = Predictions(plan.classes, probabilities, np.full(len(plan.classes), 0.6))
    n = int(of_target.sum())
    return TargetResult({"x": final}, np.arange(n).astype(str), np.zeros((n, 256)), None)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MARKERS)
def test_known_markers_are_among_the_first_features(
    real: Callable[..., tuple[ad.AnnData, Plan, nn.Module]], name: str, method: str
) -> None:
    """INS must drive beta cells; else no biologist would believe the table, and rightly."""
    prepared, plan, model = real(name, method)
    y = prepared.obs["cell_type"].cat.codes.to_numpy()
    found = attribution.attributions(model, prepared.X, y, len(plan.classes))
    ranks = (-found).argsort(axis=1).argsort(axis=1) + 1
    for cell_type, markers in MARKERS[name][1].items():
        for marker in markers:
            rank = ranks[plan.classes.index(cell_type), prepared.var_names.get_loc(marker)]
            assert rank <= FIRST[method], f"{marker} is only number {rank} for {cell_type}"


@pytest.mark.parametrize("method", METHODS)
def test_attributions_add_up_to_the_difference_in_the_output(
    real: Callable[..., tuple[ad.AnnData, Plan, nn.Module]], method: str
) -> None:
    """Shares of something that is not the whole would be no shares (the axiom of completeness)."""
    prepared, plan, model = real("pancreas_3studies_small", method)
    y = prepared.obs["cell_type"].cat.codes.to_numpy()
    found = attribution.attributions(model, prepared.X, y, len(plan.classes))
    start = torch.tensor(attribution.mean_cell(prepared.X, y)[None], dtype=torch.float32)
    for k in range(len(plan.classes)):
        rows = np.flatnonzero(y == k)
        chosen = rows[attribution.subsample(len(rows), attribution.CELLS_OF_A_TYPE, 0)]
        with torch.no_grad():
            logits = torch.cat([model(torch.from_numpy(prepared.X[chosen].toarray())), model(start)])
        others = [other for other in range(len(plan.classes)) if other != k]
        margin = (logits[:, k] - logits[:, others].mean(dim=1)).numpy()
        assert found[k].sum() == pytest.approx(margin[:-1].mean() - margin[-1], rel=0.01)


def test_an_exact_answer_is_found_where_there_is_one() -> None:
    """Of a linear model each feature's share is its weight times its distance from the baseline."""
    random = np.random.default_rng(0)
    x, y = sparse.csr_matrix(random.random((30, 5), dtype=np.float32)), np.arange(30) % 3
    model = nn.Linear(5, 3)
    found = attribution.attributions(model, x, y, 3, baseline=np.zeros(5))
    weights = model.weight.detach().numpy()
    for k in range(3):
        margin = 1.5 * (weights[k] - weights.mean(axis=0))
        np.testing.assert_allclose(found[k], margin * x[y == k].toarray().mean(axis=0), atol=1e-5)


def test_a_type_without_cells_is_left_out_of_the_table() -> None:
    random = np.random.default_rng(0)
    x, y = sparse.csr_matrix(random.random((20, 6), dtype=np.float32)), np.arange(20) % 2
    found = attribution.attributions(nn.Linear(6, 3), x, y, 3)
    assert np.isnan(found[2]).all()
    table = attribution.top_features(found, (x, y), ["B", "T", "rare"], pd.Index(list("abcdef")), 2)
    assert set(table["cell type"]) == {"B", "T"}


@pytest.mark.slow
def test_no_cells_at_all_is_said(real: Callable[[str], tuple[ad.AnnData, Plan, nn.Module]]) -> None:
    """With a saved model, and every cell Unassigned, there is nothing to explain."""
    prepared, plan, model = real("pancreas_3studies_small")
    target = prepared[prepared.obs["batch"] == plan.target].copy()
    result = result_of(target, plan, model)
    nothing = Predictions(plan.classes, result.final.probabilities, np.full(3, 1.01))
    explanation = attribution.attribute_types(
        model, target, TargetResult({"x": nothing}, result.cells, result.latent, None), plan
    )
    assert "nothing to explain" in attribution.attribution_table(explanation).iloc[0, 0]
    assert not explanation.sections


def test_a_saved_model_is_explained_by_the_targets_own_cells(
    real: Callable[[str], tuple[ad.AnnData, Plan, nn.Module]],
) -> None:
    """Its run has no annotated cells; without the target's there would be nothing to show."""
    prepared, plan, model = real("pancreas_3studies_small")
    target = prepared[prepared.obs["batch"] == plan.target].copy()
    result = result_of(target, plan, model)
    explanation = attribution.attribute_types(model, target, result, plan)
    assert explanation.sections["beta"][0] == "INS"
    (dots,) = expression.dot_plots((target.X, target.var_names), explanation.sections, target, result, plan)
    assert dots.title.startswith("Lawlor, by prediction")


@pytest.mark.slow
def test_the_table_names_presence_and_absence(real: Callable[[str], tuple[ad.AnnData, Plan, nn.Module]]) -> None:
    prepared, plan, model = real("pbmc_10x_symphony")
    explanation = attribution.attribute_types(model, prepared, result_of(prepared, plan, model), plan)
    table, x = explanation.features, prepared.X.toarray()
    labels = prepared.obs["cell_type"].astype(object).to_numpy()
    for row in table.to_dict("records"):
        values = x[labels == row["cell type"], prepared.var_names.get_loc(row["feature"])]
        assert row["mean"] == pytest.approx(values.mean(), abs=1e-5)
        assert row["cells with it"] == pytest.approx((values > 0).mean())
        assert row["by absence"] == (row["mean"] <= row["mean in others"])
    assert (table.groupby("cell type")["share"].sum() <= 1).all()
    for cell_type, features in explanation.sections.items():
        assert not table[(table["cell type"] == cell_type) & table["feature"].isin(features)]["by absence"].any()
    shown = attribution.attribution_table(explanation)
    assert list(dict.fromkeys(shown.index)) == plan.classes


# --- dot plots -------------------------------------------------------------------------------------------------------


def test_means_and_shares_are_those_of_pandas() -> None:
    random = np.random.default_rng(0)
    x = random.poisson(0.5, (50, 4)).astype(np.float32)
    groups = random.choice(["B", "T", None], 50)
    mean, share, cells = expression.means_and_shares(sparse.csr_matrix(x), groups, ["T", "B", "none"])
    frame = pd.DataFrame(x).groupby(groups)
    np.testing.assert_allclose(mean[:2], frame.mean().loc[["T", "B"]])
    np.testing.assert_allclose(share[:2], (pd.DataFrame(x) > 0).groupby(groups).mean().loc[["T", "B"]])
    assert cells.tolist() == [(groups == "T").sum(), (groups == "B").sum(), 0]
    assert np.isnan(mean[2]).all()


def test_annotated_cells_and_target_have_the_same_features_and_colours(
    real: Callable[[str], tuple[ad.AnnData, Plan, nn.Module]],
) -> None:
    """Two pictures on different scales cannot be compared, which is what they are for."""
    prepared, plan, model = real("pbmc_10x_symphony")
    result = with_parents(result_of(prepared, plan, model), {"T_CD4": "T", "T_CD8": "T"})
    values = expression.marker_values(prepared)
    labels, target = expression.dot_plots(values, MARKERS["pbmc_10x_symphony"][1], prepared, result, plan)
    assert labels.sections == target.sections
    assert labels.color_range == target.color_range
    assert list(labels.mean) == list(target.mean)
    assert list(labels.mean.index) == plan.classes == list(target.mean.index[: len(plan.classes)])
    assert target.cells.sum() == len(result.names)
    assert target.cells.get(UNASSIGNED, 0) == (result.names == UNASSIGNED).sum()
    assert labels.mean.loc["B", "MS4A1"] > 5 * labels.mean.loc["NK", "MS4A1"]
    assert target.mean.loc["B", "MS4A1"] > 5 * target.mean.loc["NK", "MS4A1"]


def test_types_on_several_pages_have_rows_where_their_features_are(
    real: Callable[[str], tuple[ad.AnnData, Plan, nn.Module]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows on each page made four pages of sixty types, mostly of dots that say nothing."""
    prepared, plan, model = real("pancreas_3studies_small")
    monkeypatch.setattr(expression, "COLUMNS", 1)
    names, sections = list(prepared.var_names), dict(zip(plan.classes, [["GCG"], ["INS"], ["SOX4"]], strict=True))
    plots = list(expression.dot_plots((prepared.X, names), sections, prepared, result_of(prepared, plan, model), plan))
    annotated = [list(dots.mean.index) for dots in plots if dots.title.startswith("Annotated")]
    assert annotated == [[name] for name in plan.classes]
    assert all(set(dots.mean.index) <= {*dots.sections, UNASSIGNED} for dots in plots)


@pytest.mark.parametrize("n", [1, 40, 41, 100, 5000])
def test_many_features_go_on_in_the_next_plot(n: int) -> None:
    pages = list(expression._pages({"a": [f"g{i}" for i in range(n)], "b": ["h"]}))
    assert all(sum(map(len, page.values())) <= expression.COLUMNS for page in pages)
    assert sum(sum(map(len, page.values())) for page in pages) == n + 1


@pytest.mark.slow
@pytest.mark.parametrize("n_types", [2, 3, 60])
def test_a_dot_plot_names_every_group_and_feature_apart_from_each_other(n_types: int) -> None:
    """Names that lie on each other cannot be read; a picture that is cut off at its edge cannot either."""
    random = np.random.default_rng(0)
    types = [f"a cell type of a long name {i}" for i in range(n_types)]
    features = [f"FEATURE{i}" for i in range(min(40, 2 * n_types))]
    sections = {types[i // 2]: features[i : i + 2] for i in range(0, len(features), 2)}
    share = pd.DataFrame(random.random((n_types, len(features))), types, features)
    share.iloc[0, 0] = 0.0
    cells = pd.Series(7, types)
    dots = expression.Dots("t, by prediction", sections, 3 * share, share, cells, (0.0, 3.0), "log1p", "features")
    figure = plots_markers.dot_plot(dots)
    figure.canvas.draw()
    axes = figure.axes[0]
    assert len(axes.collections[0].get_offsets()) == share.size - 1  # no cell with it: no dot
    for labels in (axes.get_yticklabels(), axes.get_xticklabels(), axes.texts):
        boxes = [label.get_window_extent() for label in labels]
        assert len({label.get_text() for label in labels}) == len(labels)
        for one, other in itertools.pairwise(boxes):
            assert not one.overlaps(other)
        assert all(
            box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes
        )
    (title,) = [text for text in figure.texts if "by prediction" in text.get_text()]
    assert not any(title.get_window_extent().overlaps(label.get_window_extent()) for label in axes.texts)
