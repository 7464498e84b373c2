"""What values are recognised as, and that one scale comes out whatever scale went in.

A wrong guess here is silent: the run finishes and the labels are wrong (19 % right instead of 79 % on real cells).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from jind_nb.data.recognise import recognise
from jind_nb.data.scale import common_scale, scale_for_model, to_common_scale
from jind_nb.errors import InputError

Transform = Callable[[np.ndarray], np.ndarray]


def csr(values: np.ndarray) -> sparse.csr_matrix:
    return sparse.csr_matrix(values.astype(np.float32))


def per_cell(counts: np.ndarray, total: float) -> np.ndarray:
    """Counts (or any linear values) scaled so that every cell has the given total."""
    return total * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9)


def log_counts(counts: np.ndarray) -> np.ndarray:
    return np.log1p(per_cell(counts, 1e4))


def z_scores(counts: np.ndarray) -> np.ndarray:
    logs = log_counts(counts)
    return (logs - logs.mean(axis=0)) / (logs.std(axis=0) + 1e-9)


def poisson(seed: int = 0, cells: int = 60, genes: int = 80) -> np.ndarray:
    """Counts of cells of different depth and genes of different abundance."""
    random = np.random.default_rng(seed)
    rate = (
        random.gamma(0.7, 2.0, genes) * random.lognormal(0, 0.5, (cells, 1)) * random.lognormal(0, 0.7, (cells, genes))
    )
    return random.poisson(rate + 0.05).astype(float)


SCALES: dict[str, tuple[str, Transform]] = {
    "counts": ("counts", lambda x: x),
    "counts per 10,000": ("linear", lambda x: per_cell(x, 1e4)),
    "TPM": ("linear", lambda x: per_cell(x, 1e6)),
    "proportions": ("linear", lambda x: per_cell(x, 1)),
    "log1p of counts per 10,000": ("log1p", lambda x: np.log1p(per_cell(x, 1e4))),
    "log1p of CPM": ("log1p", lambda x: np.log1p(per_cell(x, 1e6))),
    "log2 of counts per 10,000": ("log2", lambda x: np.log2(1 + per_cell(x, 1e4))),
    "log2 of TPM": ("log2", lambda x: np.log2(1 + per_cell(x, 1e6))),
    "log10 of counts per 10,000": ("log10", lambda x: np.log10(1 + per_cell(x, 1e4))),
    "log1p of counts": ("log1p", np.log1p),
    "log2 of counts": ("log2", lambda x: np.log2(1 + x)),
}


@pytest.mark.parametrize("name", SCALES)
def test_every_usual_scale_is_recognised_and_comes_back_to_the_same_values(name: str) -> None:
    """Two studies on different scales must look alike where their cells are alike."""
    kind, transform = SCALES[name]
    counts = poisson()
    found = recognise(csr(transform(counts)))
    assert found.value_type == kind, found
    assert found.clear
    assert found.because
    evidence = {"counts": recognise(csr(counts)), "other": found}
    scale = common_scale(evidence, "auto")
    np.testing.assert_allclose(
        to_common_scale(csr(transform(counts)), found, scale).toarray(), log_counts(counts), rtol=2e-3, atol=2e-4
    )


@given(
    seed=st.integers(0, 10_000),
    base=st.sampled_from([("log1p", np.e), ("log2", 2.0), ("log10", 10.0)]),
    total=st.floats(10, 1e6),
)
@settings(max_examples=60)
def test_any_logarithm_of_any_target_sum_is_recognised(seed: int, base: tuple[str, float], total: float) -> None:
    counts = poisson(seed)
    found = recognise(csr(np.log1p(per_cell(counts, total)) / np.log(base[1])))
    assert found.value_type == base[0], found
    assert found.total == pytest.approx(total, rel=1e-3)
    rescaled = common_scale({"a": found, "counts": recognise(csr(counts))}, "auto")
    values = csr(np.log1p(per_cell(counts, total)) / np.log(base[1]))
    np.testing.assert_allclose(
        to_common_scale(values, found, rescaled).toarray(), log_counts(counts), rtol=2e-3, atol=5e-4
    )


@given(seed=st.integers(0, 10_000), name=st.sampled_from(list(SCALES)))
@settings(max_examples=40)
def test_the_order_of_cells_and_features_does_not_matter(seed: int, name: str) -> None:
    random = np.random.default_rng(seed)
    values = SCALES[name][1](poisson(seed))
    one = recognise(csr(values))
    other = recognise(csr(values[random.permutation(len(values))][:, random.permutation(values.shape[1])]))
    assert (one.value_type, one.clear) == (other.value_type, other.clear)
    assert one.total == pytest.approx(other.total)


@pytest.mark.parametrize("name", [name for name, (kind, _) in SCALES.items() if kind.startswith("log")])
def test_the_base_is_told_from_a_subset_of_the_genes(name: str) -> None:
    """Files of a few thousand variable genes are common: the totals of their cells tell nothing."""
    kind, transform = SCALES[name]
    assert recognise(csr(transform(poisson(genes=240))[:, ::3])).value_type == kind


@pytest.mark.parametrize("odd", [0.5, 7.25, 1e-3])
def test_one_fraction_does_not_make_a_batch_of_counts_anything_else(odd: float) -> None:
    """The reference program then normalises no batch at all."""
    counts = poisson()
    counts[3, 5] = odd
    found = recognise(csr(counts))
    assert found.value_type == "counts"
    assert "1 is not" in found.because


def test_a_few_fractions_among_small_counts_are_no_logarithms() -> None:
    """Accessibility counts hardly pass 3: their size says nothing."""
    counts = np.random.default_rng(0).poisson(0.05, (200, 500)).astype(float)
    counts[0, :3] = 0.5
    assert recognise(csr(counts)).value_type == "counts"
    assert recognise(csr(np.minimum(counts, 1).round())).value_type == "counts"


def test_expected_counts_with_many_fractions_are_linear_even_where_small() -> None:
    counts = np.minimum(poisson(), 30)
    counts[::2] *= 0.93
    found = recognise(csr(counts))
    assert found.value_type == "linear"
    assert "as in no logarithm" in found.because


@pytest.mark.parametrize("decimals", [1, 2, 3])
def test_logarithms_rounded_on_the_way_through_a_text_file(decimals: int) -> None:
    found = recognise(csr(np.round(log_counts(poisson(genes=400)), decimals)))
    assert found.value_type == "log1p"
    assert found.total == pytest.approx(1e4, rel=0.01)


def test_a_logarithm_whose_base_nothing_tells_is_called_unclear() -> None:
    """A subset of TPM: neither counts nor equal totals are left to see."""
    random = np.random.default_rng(0)
    tpm = per_cell(random.lognormal(0, 2, (50, 300)) * (random.random((50, 300)) < 0.6), 1e5)
    subset = recognise(csr(np.log1p(tpm[:, ::5])))
    assert (subset.value_type, subset.clear) == ("log1p", False)
    assert "nothing tells their base" in subset.because


def test_values_of_no_known_scale_are_called_so() -> None:
    counts = poisson()
    assert recognise(csr(z_scores(counts))).value_type == "z-scored"
    assert recognise(csr(np.log1p(counts) - 0.3)).value_type in ("centred", "z-scored")
    assert recognise(csr(counts - 2)).value_type == "negative counts"
    assert recognise(csr(np.random.default_rng(0).random((50, 80)))).value_type == "unknown"
    assert recognise(csr(np.random.default_rng(0).gamma(2, 1, (50, 80)))).value_type == "unknown"
    assert recognise(csr(np.zeros((3, 4)))).value_type == "counts"


def test_a_change_of_base_is_undone_where_all_batches_share_it() -> None:
    """log2 of counts per 10,000 in all batches gives what log1p of them gives, to the last bits."""
    counts = poisson()
    values = csr(np.log2(1 + per_cell(counts, 1e4)))
    found = recognise(values)
    scale = common_scale({"a": found, "b": found}, "auto")
    assert (scale.rescaled, scale.total) == (False, pytest.approx(1e4))
    np.testing.assert_allclose(to_common_scale(values, found, scale).toarray(), log_counts(counts), rtol=1e-5)


def test_logarithms_of_one_scale_stay_as_they_are_bit_for_bit() -> None:
    values = csr(log_counts(poisson()))
    found = recognise(values)
    scale = common_scale({"a": found, "b": recognise(csr(log_counts(poisson(1))))}, "auto")
    np.testing.assert_array_equal(to_common_scale(values, found, scale).toarray(), values.toarray())


def test_logarithms_of_different_target_sums_are_brought_together() -> None:
    counts = poisson()
    one, other = (csr(np.log1p(per_cell(counts, total))) for total in (1e4, 1e6))
    evidence = {"a": recognise(one), "b": recognise(other)}
    scale = common_scale(evidence, "auto")
    assert scale.rescaled
    np.testing.assert_allclose(
        to_common_scale(one, evidence["a"], scale).toarray(),
        to_common_scale(other, evidence["b"], scale).toarray(),
        rtol=1e-3,
    )


def test_z_scores_are_taken_where_all_batches_have_them_and_refused_beside_others() -> None:
    z, counts = recognise(csr(z_scores(poisson()))), recognise(csr(poisson()))
    assert common_scale({"a": z, "b": recognise(csr(z_scores(poisson(1))))}, "auto").values == "as they are"
    with pytest.raises(InputError, match=r"'a' holds z-scored values.*'b' holds counts \(from 1 to .*LAYER"):
        common_scale({"a": z, "b": counts}, "auto")
    with pytest.raises(InputError, match="one scale"):
        common_scale({"a": z, "b": recognise(csr(50 * z_scores(poisson())))}, "auto")
    assert common_scale({"a": z, "b": counts}, "as_is").values == "as they are"


@pytest.mark.parametrize("name", SCALES)
def test_a_new_file_on_any_scale_comes_to_the_models(name: str) -> None:
    counts = poisson()
    trained = common_scale({"a": recognise(csr(counts))}, "auto")
    values = csr(SCALES[name][1](counts))
    scale, warnings = scale_for_model("c", recognise(values), "auto", trained)
    assert not warnings
    np.testing.assert_allclose(
        to_common_scale(values, recognise(values), scale).toarray(), log_counts(counts), rtol=2e-3, atol=2e-4
    )


def test_counts_come_to_the_scale_of_a_model_of_logarithms() -> None:
    """A model of log1p CPM must not see log1p of counts per 10,000: every value would be a hundredth."""
    counts = poisson()
    trained = common_scale({"a": recognise(csr(np.log1p(per_cell(counts, 1e6))))}, "auto")
    scale, _ = scale_for_model("c", recognise(csr(counts)), "auto", trained)
    brought = to_common_scale(csr(counts), recognise(csr(counts)), scale).toarray()
    np.testing.assert_allclose(brought, np.log1p(per_cell(counts, 1e6)), rtol=1e-3)


def test_counts_for_a_model_of_logarithms_of_unknown_totals_are_warned_of() -> None:
    subset = recognise(csr(log_counts(poisson(genes=240))[:, ::3]))
    trained = common_scale({"a": subset}, "auto")
    assert trained.total is None
    assert scale_for_model("c", subset, "auto", trained) == (trained, [])
    scale, (warning,) = scale_for_model("c", recognise(csr(poisson())), "auto", trained)
    assert scale.total == 1e4
    assert "may not be quite the same scale" in warning


@pytest.mark.parametrize("wanted", ["counts", "log1p", "as_is"])
def test_what_the_user_said_the_values_are_holds_for_a_new_file_too(wanted: str) -> None:
    values = csr(log_counts(poisson()))
    found = recognise(values)
    trained = common_scale({"a": found}, wanted)
    expected = to_common_scale(values, found, trained).toarray()
    scale, _ = scale_for_model("c", found, "auto", trained)
    np.testing.assert_array_equal(to_common_scale(values, found, scale).toarray(), expected)


def test_a_model_of_centred_values_takes_only_such() -> None:
    z = recognise(csr(z_scores(poisson())))
    trained = common_scale({"a": z}, "auto")
    assert scale_for_model("c", z, "auto", trained)[0].values == "as they are"
    with pytest.raises(InputError, match=r"^PATH: the values of 'c' are counts.*z-scored"):
        scale_for_model("c", recognise(csr(poisson())), "auto", trained)
    with pytest.raises(InputError, match=r"^PATH: the values of 'c' are z-scored"):
        scale_for_model("c", z, "auto", common_scale({"a": recognise(csr(poisson()))}, "auto"))


# --- real cells ------------------------------------------------------------------------------------------------------

KINDS = {
    "cellbench_6batches": {"counts"},
    "pancreas_3studies_small": {"counts", "linear"},
    "pancreas_baron_human_mouse_6donors": {"counts"},
    "pancreas_wang_xin_baron": {"counts", "linear"},
    "pbmc_10x_symphony": {"counts"},
    "pbmc_adt_cite_asap_4batches": {"counts"},
    "pbmc_onek1k_40donors": {"counts"},
    "scatac_granja_bmmc_2donors": {"counts"},
    "scatac_hematopoiesis_3batches": {"counts"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_batch_of_the_real_sets_is_recognised(name: str, shared_file: Callable[[str], Path]) -> None:
    adata = ad.read_h5ad(shared_file(name))
    kinds = {
        batch: recognise(sparse.csr_matrix(adata.X[rows])).value_type
        for batch, rows in adata.obs.groupby("batch").indices.items()
    }
    assert set(kinds.values()) == KINDS[name], kinds
    if "linear" in KINDS[name]:
        assert {batch for batch, kind in kinds.items() if kind == "linear"} <= {"Lawlor", "Wang", "Xin"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pbmc_10x_symphony", "cellbench_6batches", "scatac_hematopoiesis_3batches"])
def test_real_cells_on_any_scale_come_back_to_the_same_values(name: str, shared_file: Callable[[str], Path]) -> None:
    adata = ad.read_h5ad(shared_file(name))
    first = adata.obs["batch"].to_numpy() == adata.obs["batch"].iloc[0]
    counts = adata.X[first].toarray().astype(float)[:400]
    plain = {"a": recognise(csr(counts))}
    for kind, transform in SCALES.values():
        values = csr(transform(counts))
        found = recognise(values)
        assert found.value_type == kind
        brought = to_common_scale(values, found, common_scale(plain | {"b": found}, "auto")).toarray()
        np.testing.assert_allclose(brought, log_counts(counts), rtol=5e-3, atol=1e-3)


def test_real_cells_scaled_without_centring_are_no_logarithms(shared_file: Callable[[str], Path]) -> None:
    """Inverted as logarithms, they would give nonsense; nothing negative warns of them."""
    adata = ad.read_h5ad(shared_file("pbmc_10x_symphony"))
    logs = log_counts(adata.X.toarray().astype(float))
    assert recognise(csr(logs / (logs.std(axis=0) + 1e-9))).value_type == "unknown"
