"""Compare METHOD `default` with the usual classifiers on all twenty shared sets, in ordinary and in hard roles.

    python -m benchmarks.product.twenty_sets                # prints the tables of results/twenty_sets.csv
    python -m benchmarks.product.twenty_sets --run          # measures what is missing there first; goes on where it stopped
    python -m benchmarks.product.twenty_sets --run --sets pbmc_10x_symphony --methods "METHOD default" "components + softmax"

    python -m benchmarks.product.twenty_sets --bootstrap pancreas_baron_human_mouse_6donors
    python -m benchmarks.product.twenty_sets --run --methods CellTypist scANVI "METHOD reference" "pooled network"

Every method gets the same cells and values (benchmarks/problems.py). Of few features a competitor also gets the file's values as
they are, and what is better for it on a target counts; it also gets values per 10,000, and the total counts with which its mean is
better. C of the linear methods is chosen by leaving annotated batches out. Slow methods are
run once, on two targets of each set, with all other batches annotated. The numbers of METHOD `default` here are those of the shipped constants; those with constants that the other sets chose are
printed by benchmarks/research/members.py.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.svm import LinearSVC

from benchmarks.common import RESULTS, append_rows, measured_already, parser_of, print_table, read_rows, scores
from benchmarks.problems import NOT_COUNTED, SETS, Problem, problems, targets_of
from jind_nb.commands.compare import measure
from jind_nb.commands.compare.methods import BaselineInput, knn_after_harmony
from jind_nb.model.neighbours import nearest
from jind_nb.model.predictions import Predictions

OUTPUT = RESULTS / "twenty_sets.csv"
OURS = "METHOD default"
COMPONENTS = 50
CS = (0.1, 1.0, 10.0)
CS_OF_SVM = (0.01, 0.1, 1.0)
WORST = 10
NEVER_UNDER = ("logistic regression, C = 1", "components + softmax")  # that METHOD `default` must not be under
DRAWS = 500
PROBLEM = ["set", "target", "role"]
FLOOR = 0.005  # added to both AURC of a ratio, so that sets without errors do not decide alone

Classifier = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def softmax(c: float) -> Classifier:
    """Return a softmax regression: annotated values, types, target values -> probabilities and the types of their columns."""

    def classify(x: np.ndarray, y: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        model = LogisticRegression(C=c, max_iter=300).fit(x, y)
        return model.predict_proba(target), model.classes_

    return classify


def svm(c: float) -> Classifier:
    """Return a linear SVM; the softmax of its margins stands for probabilities."""

    def classify(x: np.ndarray, y: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        model = LinearSVC(C=c, max_iter=3000, random_state=0).fit(x, y)
        margins = model.decision_function(target)
        margins = np.stack([-margins, margins], axis=1) if margins.ndim == 1 else margins
        powers = np.exp(margins - margins.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True), model.classes_

    return classify


def with_c_of_batches(given: BaselineInput, way: Callable[[float], Classifier], cs: Sequence[float]) -> np.ndarray:
    """Choose C by the share of right cells in annotated batches left out in turn; 1 where there is a single one."""
    x, target = _rotated(given)
    names = list(dict.fromkeys(given.batch))
    best = 1.0
    if len(names) > 1:
        right = {c: np.mean([_right_when_left_out(x, given, name, way(c)) for name in names]) for c in cs}
        best = max(right, key=lambda c: right[c])
    return given.columns(*way(best)(x, given.y, target))


def _right_when_left_out(x: np.ndarray, given: BaselineInput, name: str, classify: Classifier) -> float:
    own = given.batch == name
    if len(np.unique(given.y[~own])) < 2:
        return 0.0
    probabilities, classes = classify(x[~own], given.y[~own], x[own])
    return float(np.mean(classes[probabilities.argmax(axis=1)] == given.y[own]))


def _rotated(given: BaselineInput) -> tuple[np.ndarray, np.ndarray]:
    """Return annotated and target values; where there are more features than cells, rotated onto as many axes as cells, which
    changes no linear method whose penalty is a sum of squares."""
    x = given.all_cells.toarray().astype(np.float64)
    if x.shape[1] > x.shape[0]:
        values, vectors = np.linalg.eigh(x @ x.T)
        kept = values > 1e-9 * values.max()
        x = vectors[:, kept] * np.sqrt(values[kept])
    return x[: len(given.y)], x[len(given.y) :]


def on_components(given: BaselineInput) -> np.ndarray:
    """Predict by a softmax regression on 50 components of all cells."""
    z = _components(given)
    return given.columns(*softmax(1.0)(z[: len(given.y)], given.y, z[len(given.y) :]))


def after_harmony(given: BaselineInput) -> np.ndarray:
    """Predict by a softmax regression on 50 components of all cells, after Harmony."""
    import harmonypy

    obs = pd.DataFrame({"batch": given.all_batches.astype(str)})
    z = harmonypy.run_harmony(_components(given), obs, "batch", random_state=0, ncores=1, verbose=False).Z_corr
    z = np.asarray(z)
    return given.columns(*softmax(1.0)(z[: len(given.y)], given.y, z[len(given.y) :]))


def _components(given: BaselineInput) -> np.ndarray:
    x = given.all_cells.toarray().astype(np.float64)
    z: np.ndarray = PCA(min(COMPONENTS, min(x.shape) - 1), random_state=0).fit_transform(x)
    return z


def by_rank_correlation(given: BaselineInput) -> np.ndarray:
    """Predict by the rank correlation with each type's annotated cells, its 80 % quantile: the idea of SingleR (Aran et al.
    2019, doi 10.1038/s41590-018-0276-y) without its fine-tuning. A softmax of the correlations stands for probabilities."""
    ranks = np.apply_along_axis(lambda cell: pd.Series(cell).rank().to_numpy(), 1, given.all_cells.toarray())
    ranks -= ranks.mean(axis=1, keepdims=True)
    annotated, target = ranks[: len(given.y)], ranks[len(given.y) :]
    types = np.unique(given.y)
    quantiles = []
    for k in types:
        of_type = annotated[given.y == k]
        cosines = nearest(target, of_type, len(of_type))[1]
        quantiles.append(np.quantile(cosines, 0.8, axis=1))
    powers = np.exp(np.stack(quantiles, axis=1) * 50)
    return given.columns(powers / powers.sum(axis=1, keepdims=True), types)


def boosted_trees(given: BaselineInput) -> np.ndarray:
    """Predict by LightGBM at its defaults, on the 2,000 features that vary most."""
    import lightgbm

    x = given.all_cells.toarray()
    x = x[:, np.argsort(-x.var(axis=0), kind="stable")[:2000]]
    model = lightgbm.LGBMClassifier(random_state=0, n_jobs=1, verbose=-1, n_estimators=100)
    model.fit(x[: len(given.y)], given.y)
    return given.columns(model.predict_proba(x[len(given.y) :]), model.classes_)


QUICK: dict[str, Callable[[BaselineInput], np.ndarray]] = {
    "logistic regression, C = 1": lambda given: given.columns(
        *softmax(1.0)(_rotated(given)[0], given.y, _rotated(given)[1])
    ),
    "logistic regression, C by batches": lambda given: with_c_of_batches(given, softmax, CS),
    "linear SVM, C by batches": lambda given: with_c_of_batches(given, svm, CS_OF_SVM),
    "components + softmax": on_components,
    "Harmony + softmax": after_harmony,
    "kNN after Harmony": knn_after_harmony,
    "rank correlation": by_rank_correlation,
    "LightGBM": boosted_trees,
}
AS_IS = ", values as they are"  # of few features
ALSO_AS_IS = ("logistic regression, C = 1", "components + softmax", "Harmony + softmax", "kNN after Harmony")
# What `jind-nb compare` calls the slow ones.
SLOW = {
    "CellTypist": "CellTypist",
    "scANVI": "scANVI",
    "pooled network": "pooled network",
    "METHOD reference": "reference",
}
SLOW_TARGETS_OF_A_SET = 2
PER_10_000 = ", values per 10,000"  # where METHOD `default` has another total
METHODS = (OURS, *QUICK, *(name + AS_IS for name in ALSO_AS_IS), *(name + PER_10_000 for name in QUICK), *SLOW)


def applies(method: str, problem: Problem) -> bool:
    """Whether a method is to be measured on a problem."""
    if method in SLOW:
        return problem.role == "all" and problem.target in targets_of(problem.set)[:SLOW_TARGETS_OF_A_SET]
    if method.endswith(PER_10_000):
        return problem.has_other_total
    return problem.is_panel or not method.endswith(AS_IS)


def answer(problem: Problem, method: str) -> tuple[np.ndarray, dict[str, float | None], float]:
    """Return a method's probabilities (cells of the target by types), what share it assigned and how many of these are wrong,
    and its CPU seconds."""
    began = time.process_time()
    decided: dict[str, float | None] = {"assigned": None, "wrong_among_assigned": None}
    if method == OURS:
        predictions = measure.jind(problem.prepared, problem.plan, problem.parameters)[0]
        return predictions.probabilities, _decided(predictions, problem.truth), time.process_time() - began
    if method in SLOW:
        predictions, cost = measure.annotate(problem.parameters, SLOW[method])
        decided = _decided(predictions, problem.truth) if method == "METHOD reference" else decided
        return predictions.probabilities, decided, cost["cpu_seconds"]
    if method.endswith(PER_10_000):
        given = problem.given_per_10_000
    else:
        given = problem.given_as_is if method.endswith(AS_IS) else problem.given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probabilities = QUICK[_name(method)](given)
    return probabilities, decided, time.process_time() - began


def _name(method: str) -> str:
    """Return a method's name without the values it got."""
    return method.removesuffix(AS_IS).removesuffix(PER_10_000)


def measure_one(problem: Problem, method: str) -> dict[str, object]:
    """Return a row: a method's numbers on a problem."""
    row: dict[str, object] = {"set": problem.set, "target": problem.target, "role": problem.role, "method": method}
    probabilities, decided, seconds = answer(problem, method)
    found = scores(problem.truth, problem.plan.classes, probabilities)
    numbers = {"macro_F1": found["macro_F1"], "AURC": found["AURC"], "accuracy": found["raw_accuracy"]}
    return row | numbers | decided | {"cpu_seconds": round(seconds, 2)}


def bootstrap(name: str) -> pd.DataFrame:
    """Return how much METHOD `default` is above two competitors in a set's macro-F1, the mean over its targets with all other
    batches annotated, with the middle 95 % over drawn cells: the same cells for both, each target's drawn anew with replacement."""
    easy = list(problems(name, hard=False))
    answers = {
        method: [np.array(problem.plan.classes)[answer(problem, method)[0].argmax(axis=1)] for problem in easy]
        for method in (OURS, *NEVER_UNDER)
    }
    rng = np.random.default_rng(0)
    draws = [[rng.integers(0, len(problem.truth), len(problem.truth)) for problem in easy] for _ in range(DRAWS)]
    whole = [np.arange(len(problem.truth)) for problem in easy]

    def mean_f1(method: str, rows: Sequence[np.ndarray]) -> float:
        of_targets = [
            f1_score(problem.truth[some], given[some], labels=sorted(set(problem.truth[some])), average="macro")
            for problem, given, some in zip(easy, answers[method], rows, strict=True)
        ]
        return float(np.mean(of_targets))

    ours, lines = [mean_f1(OURS, draw) for draw in draws], {}
    for method in NEVER_UNDER:
        apart = np.array(ours) - [mean_f1(method, draw) for draw in draws]
        low, high = np.quantile(apart, [0.025, 0.975])
        lines[method] = {"ours minus": mean_f1(OURS, whole) - mean_f1(method, whole), "from": low, "to": high}
    return pd.DataFrame(lines).T


def _decided(predictions: Predictions, truth: np.ndarray) -> dict[str, float | None]:
    kept = ~predictions.rejected
    wrong = float((predictions.raw[kept] != truth[kept]).mean()) if kept.any() else None
    return {"assigned": float(kept.mean()), "wrong_among_assigned": wrong}


def run(names: Sequence[str], methods: Sequence[str], *, hard: bool) -> None:
    """Measure what is missing, in hard roles too if `hard`; each row is kept as soon as it is done."""
    done = measured_already(OUTPUT, ["set", "target", "role", "method"])
    for name in names:
        for problem in problems(name, hard=hard):
            for method in methods:
                if (name, problem.target, problem.role, method) in done or not applies(method, problem):
                    continue
                try:
                    append_rows(OUTPUT, [measure_one(problem, method)])
                except ValueError as error:  # scANVI's, where there are no counts
                    print(f"{name}, {problem.target}, {method}: {error}")


def better_values(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with one for each competitor and problem: of few features with the values that are better for it there,
    and with the total that is better for it over all sets.

    `chosen_by_labels` is what it would be with the total that is better for each problem, which nobody can know.
    """
    rows = rows.assign(method=rows["method"].str.removesuffix(AS_IS)).sort_values("macro_F1", ascending=False)
    rows = rows.drop_duplicates([*PROBLEM, "method"])
    is_other = rows["method"].str.endswith(PER_10_000)
    both = rows[~is_other].merge(
        rows[is_other].assign(method=rows["method"].map(_name)),
        "left",
        [*PROBLEM, "method"],
        suffixes=("", " per 10,000"),
    )
    numbers = ["macro_F1", "AURC", "accuracy"]
    others = [f"{number} per 10,000" for number in numbers]
    for number, other in zip(numbers, others, strict=True):
        both[other] = both[other].fillna(both[number])  # the same values
    both["chosen_by_labels"] = both[["macro_F1", others[0]]].max(axis=1)
    easy = both[(both["role"] == "all") & ~both["set"].isin(NOT_COUNTED)]
    means = easy.groupby(["method", "set"])[["macro_F1", others[0]]].mean().groupby("method").mean()
    better = both["method"].map(means[others[0]] > means["macro_F1"]).fillna(value=False).astype(bool)
    both.loc[better, numbers] = both.loc[better, others].to_numpy()
    both.loc[better, "method"] += PER_10_000
    return both.drop(columns=[column for column in both if column.endswith(" per 10,000")])


def report(rows: pd.DataFrame) -> None:
    """Print the means over sets of the means over targets, in ordinary and hard roles, and where METHOD `default` loses."""
    rows = better_values(rows)
    slow, rows = rows[rows["method"].isin(SLOW)], rows[~rows["method"].isin(SLOW)]
    counted = rows[~rows["set"].isin(NOT_COUNTED)]
    for title, some in (("All annotated batches", counted["role"] == "all"), ("Hard roles", counted["role"] != "all")):
        of_sets = counted[some].groupby(["method", "set"])[["macro_F1", "AURC", "accuracy"]].mean()
        means = of_sets.groupby("method").mean().assign(sets=of_sets.groupby("method").size())
        print_table(f"{title}: mean over sets", means.sort_values("macro_F1", ascending=False))
        wide = of_sets["macro_F1"].unstack("method")
        print_table(f"{title}: macro-F1 of each set", wide)
        if OURS not in wide:
            continue
        others = [name for name in wide if name != OURS and wide[name].notna().sum() == wide[OURS].notna().sum()]
        best = wide[others].mean().idxmax()
        print(f"\nBest competitor: {best}; METHOD default is {wide[OURS].mean() - wide[best].mean():+.3f} above it.")
        aurc = of_sets["AURC"].unstack("method")
        best_aurc = aurc[others].mean().idxmin()
        ratio = np.exp(np.log((aurc[OURS] + FLOOR) / (aurc[best_aurc] + FLOOR)).mean())
        print(f"AURC: {ratio:.2f} times that of {best_aurc} (geometric mean over sets).")
        by_labels = counted[some].groupby(["method", "set"])["chosen_by_labels"].mean().groupby("method").mean()[others]
        print(f"With each target's better total, by its labels: {by_labels.idxmax()} {by_labels.max():.3f}.")
        best_total = counted[some].groupby(["set", "method"])["chosen_by_labels"].mean().unstack("method")
        for name in others:
            if _name(name) in NEVER_UNDER:
                apart = wide[OURS] - best_total[name]
                print(f"METHOD default minus {name} with that: at least {apart.min():+.4f} ({apart.idxmin()}).")
    wide = rows.pivot_table(index=["set", "target", "role"], columns="method", values="macro_F1")
    others = [name for name in wide if name != OURS]
    if OURS in wide and others:
        apart = pd.DataFrame(
            {"ours": wide[OURS], "best there": wide[others].max(axis=1), "which": wide[others].idxmax(axis=1)}
        )
        apart["minus"] = apart["ours"] - apart["best there"]
        print_table(
            "Where it loses: the worst ten problems, against the best method of each", apart.nsmallest(WORST, "minus")
        )
    if len(slow):
        report_slow(slow, rows)
    decided = rows[(rows["method"] == OURS) & rows["assigned"].notna()]
    shares = ["assigned", "wrong_among_assigned"]
    print_table("METHOD default: share assigned, wrong among them", decided.groupby("set")[shares].mean())
    counted = decided[~decided["set"].isin(NOT_COUNTED)]
    of_roles = counted.groupby(["role", "set"])[["macro_F1", *shares]].mean().groupby("role").mean()
    print_table("METHOD default by role: mean over sets", of_roles)


def report_slow(slow: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Print the slow methods beside METHOD `default`, each on the targets that it was run on."""
    lines = {}
    for method, of_method in slow[~slow["set"].isin(NOT_COUNTED)].groupby("method"):
        both = of_method.merge(rows[rows["method"] == OURS], on=PROBLEM, suffixes=("", " of ours"))
        of_sets = both.groupby("set")[["macro_F1", "macro_F1 of ours", "AURC", "AURC of ours"]].mean()
        cpu = both[["cpu_seconds", "cpu_seconds of ours"]].mean()
        lines[method] = {"sets": len(of_sets), "targets": len(both)} | of_sets.mean().to_dict() | cpu.to_dict()
    print_table("Slow methods beside METHOD default on the same targets: mean over sets", pd.DataFrame(lines).T)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--run", action="store_true", help="measure what is missing in the results first")
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--methods", nargs="*", default=[OURS, *QUICK], choices=METHODS)
    parser.add_argument(
        "--easy", action="store_true", help="measure with all annotated batches only, not in hard roles"
    )
    parser.add_argument(
        "--bootstrap",
        nargs="+",
        default=[],
        metavar="SET",
        help="print by how much ours leads there, with the interval over drawn cells",
    )
    options = parser.parse_args()
    for name in options.bootstrap:
        print_table(f"{name}: macro-F1 of METHOD default minus that of others", bootstrap(name))
    if options.bootstrap:
        return
    if options.run:
        run(options.sets, options.methods, hard=not options.easy)
    report(read_rows(OUTPUT))


if __name__ == "__main__":
    main()
