"""Deliberate bugs: each is put into a copy of the checkout, and the tests named beside it must fail there.

    python -m tests.helpers.deliberate_bugs [--checkout FOLDER] [--python PYTHON] [--jobs N] [--only WORDS] [--after N] [--trust] [--with-tests FILE] [--list]

A bug is a short snippet that occurs exactly once in `jind_nb/**/*.py`, and what stands there instead. Tests are named by
their function, and are looked for in `tests/` wherever they have moved. First all the tests are run on the unchanged copy,
and must pass: a test that fails anyway catches nothing. Exit status 1 if a bug is not caught, 2 if one cannot be put in.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

AT_THE_TOP = {".git", ".venv", "runs", "screenshots"}  # `jind_nb/runs` is a part of the package
SECONDS = 300  # for the tests of one bug; all of them together, without a bug, may take five times as long


def not_copied(checkout: Path) -> Callable[[str, list[str]], set[str]]:
    def of(folder: str, names: list[str]) -> set[str]:
        everywhere = {name for name in names if name == "__pycache__" or name.endswith("_cache")}
        return everywhere | (AT_THE_TOP & set(names) if Path(folder) == checkout else set())

    return of


@dataclass(frozen=True)
class Bug:
    """One mistake somebody could make."""

    name: str
    lost: str  # by a user, if it went unnoticed
    old: str  # exactly once in the package
    new: str
    tests: tuple[str, ...]  # functions, also with [parameters]


BUGS = [
    # --- values and their scale ---------------------------------------------------------------------------------------
    Bug(
        "one fraction makes a batch of counts something else",
        "normalisation is switched off by one odd value: 19 % of the cells right instead of 79 %",
        "WHOLE_IN_COUNTS = 0.99",
        "WHOLE_IN_COUNTS = 1.0",
        ("test_one_fraction_does_not_make_a_batch_of_counts_anything_else",),
    ),
    Bug(
        "only natural logarithms are inverted",
        "log2 and log10 batches are normalised a second time beside batches of counts, in silence",
        'return batch.is_logarithm and scale.normalisation != "counts"',
        'return batch.value_type == "log1p" and scale.normalisation != "counts"',
        ("test_every_usual_scale_is_recognised_and_comes_back_to_the_same_values",),
    ),
    Bug(
        "z-scores beside counts pass for one scale",
        "a scaled batch and a batch of counts are trained on together: labels at random",
        "return bool(sd) and max(sd) <= SAME_SPREAD * min(sd) and max(means) - min(means) <= max(sd)",
        "return bool(sd)",
        ("test_z_scores_are_taken_where_all_batches_have_them_and_refused_beside_others",),
    ),
    Bug(
        "cells of a block that holds values of two kinds come back in another order",
        "each cell has another cell's values, and so another cell's label",
        'return sparse.vstack(parts, format="csr")[np.argsort(np.concatenate(rows), kind="stable")]',
        'return sparse.vstack(parts, format="csr")',
        ("test_each_batch_is_normalised_by_what_its_own_values_are",),
    ),
    # --- features -----------------------------------------------------------------------------------------------------
    Bug(
        "Ensembl ids of different versions are different genes",
        "two studies of different Ensembl releases lose most of the genes they share",
        '(found[1] + (found[3] or "")).upper()',
        '(found[1] + (found[2] or "") + (found[3] or "")).upper()',
        ("test_spellings_of_one_feature",),
    ),
    Bug(
        "a saved model's features in the order of the file",
        "every gene's value goes to another gene's weight: `predict` gives labels at random",
        "return features.match(wanted, names)[0], pd.DataFrame(",
        "return np.sort(features.match(wanted, names)[0]), pd.DataFrame(",
        ("test_a_saved_model_gets_its_own_features_in_its_own_order",),
    ),
    Bug(
        "upper and lower case are taken as alike for a single odd gene",
        "two rows of one file (C1orf1, C1ORF1) are taken for the same gene",
        "(found >= 0).sum() > 1.1 * (best >= 0).sum()",
        "(found >= 0).sum() > (best >= 0).sum()",
        ("test_case_is_ignored_only_where_it_finds_more",),
    ),
    Bug(
        "variance between blocks of cells is left out",
        "on a large file other genes are kept than on a small one",
        "self.variance = (spread + apart**2 * (self.cells * more.cells / n)) / n",
        "self.variance = spread / n",
        ("test_moments_of_parts_are_those_of_the_whole",),
    ),
    # --- rejection ----------------------------------------------------------------------------------------------------
    Bug(
        "class thresholds are one held-out cell too low",
        "more doubtful cells are named than REJECTION says",
        "math.floor(theta * len(of_k)) + 1",
        "math.floor(theta * len(of_k))",
        ("test_thresholds_are_those_worked_out_by_hand", "test_thresholds_agree_with_the_definition_read_aloud"),
    ),
    Bug(
        "a cell just at its threshold is rejected",
        "the very cells that define a threshold are left Unassigned",
        "rejected: np.ndarray = self.confidence < self.thresholds[",
        "rejected: np.ndarray = self.confidence <= self.thresholds[",
        ("test_a_cell_exactly_at_its_threshold_is_kept",),
    ),
    Bug(
        "cells unlike the reference are named all the same",
        "a cell type that no annotated batch has gets the name of another",
        "for also in (self.unlike, self.outside, self.empty, self.doublet):\n            rejected",
        "for also in (self.outside, self.empty, self.doublet):\n            rejected",
        ("test_a_cell_unlike_the_reference_is_rejected_however_confident_and_says_so",),
    ),
    # --- calibration --------------------------------------------------------------------------------------------------
    Bug(
        "thresholds from held-out cells that were not calibrated",
        "confidence is calibrated and its thresholds are not: far too many or too few cells Unassigned",
        "by = tempered(held_out, rule.temperature)",
        "by = held_out",
        ("test_without_a_threshold_of_its_own_a_rule_takes_class_wise_ones_from_held_out_cells_at_its_temperature",),
    ),
    Bug(
        "the temperature is applied the wrong way round",
        "an overconfident model is made surer still",
        "np.log(probabilities.astype(np.float64)) / temperature",
        "np.log(probabilities.astype(np.float64)) * temperature",
        (
            "test_a_temperature_changes_how_sure_cells_are_but_not_of_what",
            "test_the_temperature_that_makes_probabilities_honest_is_found",
        ),
    ),
    Bug(
        "types that the left-out model could not know cool it",
        "one batch with a type of its own makes all confidences too low",
        "(_mixed(b, mode, weights)[b.could_be_known].astype(np.float64), b.y[b.could_be_known])",
        "(_mixed(b, mode, weights).astype(np.float64), b.y)",
        ("test_cells_of_types_the_model_could_not_know_do_not_cool_it",),
    ),
    Bug(
        "what is told of a left-out batch rests on that batch too",
        "calibration looks better in the report than it is in a new batch",
        "others = [other for other in left_out if other is not batch]",
        "others = left_out",
        ("test_what_is_told_of_a_left_out_batch_rests_on_the_others",),
    ),
    Bug(
        "TARGET_ERROR's threshold is the mean over batches, not the highest",
        "the error that was asked for is kept in half of the new batches only",
        "threshold = max(lowest_threshold(confidence, right, target_error) for confidence, right in batches)",
        "threshold = float(np.mean([lowest_threshold(confidence, right, target_error) for confidence, right in batches]))",
        (
            "test_all_assigned_left_out_cells_together_keep_the_target_error",
            "test_target_error_holds_in_as_many_new_batches_as_promised",
        ),
    ),
    # --- who learns from what -----------------------------------------------------------------------------------------
    Bug(
        "a left-out batch is left in",
        "the model is measured on cells it was trained on: the expected error is far too low",
        "kept = {name: cells for name, cells in reference.batches.items() if name not in group}",
        "kept = dict(reference.batches)",
        ("test_no_model_annotates_a_batch_it_was_trained_on",),
    ),
    Bug(
        "the target's labels are read before evaluation",
        "a user who checks on labelled data sees an accuracy that no unlabelled target has",
        "cells[column] = cells[column].astype(object).mask(of_target, None)",
        "cells[column] = cells[column].astype(object)",
        ("test_the_targets_labels_change_nothing_before_evaluation",),
    ),
    Bug(
        "held-out cells train METHOD default's classifier",
        "thresholds come from cells that the model knows: too few cells are rejected",
        "training, of_training = cells.latent[~cells.held_out], cells.y[~cells.held_out]",
        "rows = ~cells.held_out | (cells.y == 0)\n        training, of_training = cells.latent[rows], cells.y[rows]",
        ("test_no_stage_trains_on_held_out_cells",),
    ),
    Bug(
        "the source's held-out cells train its network",
        "the epoch kept is the one that knows its own test by heart",
        "x, y = cells.x[~cells.held_out], cells.y[~cells.held_out]\n    curve",
        "x, y = cells.x, cells.y\n    curve",
        ("test_the_source_s_held_out_cells_never_train",),
    ),
    Bug(
        "Unassigned of an earlier run is learned as a cell type",
        "rejected cells come back as a type of their own",
        "parameters.is_unlabeled(label) or _is_rejected(label)",
        "parameters.is_unlabeled(label)",
        ("test_our_word_for_a_rejected_cell_is_never_a_type",),
    ),
    # --- alignment ----------------------------------------------------------------------------------------------------
    Bug(
        "a batch is moved away from the annotated ones instead of to them",
        "alignment doubles the batch effect",
        "cells @ (there - means) / (cells.sum() + SHRINKAGE)",
        "cells @ (means - there) / (cells.sum() + SHRINKAGE)",
        ("test_a_known_shift_is_found_whatever_the_compositions",),
    ),
    Bug(
        "types that the others lack have a say in the shift",
        "a target with a type of its own is moved to the origin, its known types with it",
        "cells = np.where(cells_there > 0, cells, 0.0)",
        "cells = np.asarray(cells)",
        ("test_a_batch_with_no_type_in_common_is_not_moved", "test_a_known_shift_is_found_whatever_the_compositions"),
    ),
    Bug(
        "members answer for the moved target only",
        "a target that alignment moved wrongly is annotated wrong, whatever left-out batches taught",
        "unmoved = model.classifier.of_members(here - model.adapter.b)",
        "unmoved = model.classifier.of_members(here)",
        ("test_members_answer_for_cells_as_they_are_and_as_they_were_moved",),
    ),
    Bug(
        "members get their weights from cells held out of the only batch",
        "the member that knows a batch by heart decides about a new one",
        "if batch.is_new and len(rows):",
        "if len(rows):",
        ("test_held_out_cells_of_the_only_batch_teach_no_weights",),
    ),
    Bug(
        "the weights that left-out batches taught are not used",
        "every target is annotated with the weights of other data sets",
        "weights = rule.weights or known.method.prior_weights()",
        "weights = known.method.prior_weights()",
        (
            "test_without_alignment_only_the_sum_of_a_member_s_two_weights_counts",
            "test_a_target_is_annotated_with_the_weights_that_left_out_batches_taught",
        ),
    ),
    Bug(
        "neighbours need not be mutual",
        "three cells of a rare type are outvoted by the common type beside them",
        "return some[near], cosine >= farthest[near] - ROUNDING",
        "return some[near], cosine >= -2",
        ("test_three_cells_of_a_rare_type_among_hundreds_keep_their_answer",),
    ),
    Bug(
        "alignment overwrites the shared model",
        "the saved model is no longer the one that was trained and measured",
        "return Annotator(copy.deepcopy(self.encoder), copy.deepcopy(self.classifier), adapter)",
        "return Annotator(self.encoder, self.classifier, adapter)",
        ("test_changing_a_copy_leaves_the_annotated_batches_model_as_it_was",),
    ),
    # --- reuse --------------------------------------------------------------------------------------------------------
    Bug(
        "a stage after a changed one is reused",
        "yesterday's predictions of another seed under today's parameters",
        "json_hash([stage, key, matters,",
        "json_hash([stage, matters,",
        ("test_a_changed_parameter_changes_what_it_matters_to", "test_other_code_changes_everything"),
    ),
    Bug(
        "a changed EPOCHS does not train again",
        "the user trains longer, and gets the old model back",
        '"2_train": ("USE_GPU", "EPOCHS", "REJECTION", "TARGET_ERROR"),\n    "3_align": ("ALIGN", "DOUBLETS"),',
        '"2_train": ("USE_GPU", "REJECTION", "TARGET_ERROR"),\n    "3_align": ("ALIGN", "DOUBLETS", "EPOCHS"),',
        ("test_a_changed_parameter_changes_what_it_matters_to",),
    ),
    Bug(
        "an input counts by its name",
        "new cells in a file of the old name get the old cells' labels",
        'values["PATH"] = [(file.name, hash_) for file, hash_ in inputs.items()]',
        'values["PATH"] = [file.name for file in inputs]',
        ("test_input_counts_by_content",),
    ),
    Bug(
        "what a stage depended on is not looked at",
        "results of other parameters, code or input are taken for this run's",
        'if of_stage.get("key") != key or of_stage.get("pdf_missing"):',
        'if of_stage.get("pdf_missing"):',
        (
            "test_the_target_in_the_models_file_does_not_repeat_training",
            "test_an_unfinished_run_does_not_displace_a_finished_one",
        ),
    ),
    Bug(
        "a file that was changed afterwards is reused",
        "a damaged or hand-edited file finds its way into results",
        'if any(_file_signature(run, stage, name) != wanted for name, wanted in of_stage["files"].items()):',
        'if not all((run.folder / name).exists() for name in of_stage["files"]):',
        ("test_a_changed_file_repeats_its_stage_and_all_after",),
    ),
    Bug(
        "a file counts by its size",
        "a flipped bit or an edited digit is taken for this run's result",
        'return {"bytes": file.stat().st_size, "sha256": sha256(file)}',
        'return {"bytes": file.stat().st_size}',
        ("test_another_value_in_as_many_bytes_repeats_its_stage",),
    ),
    Bug(
        "edited code is not noticed",
        "after an update or an edit a rerun gives yesterday's results",
        'sources = sorted([*PACKAGE.rglob("*.py"), *(PACKAGE / "templates").glob("*")])',
        'sources = sorted([*PACKAGE.glob("*.py"), *(PACKAGE / "templates").glob("*")])',
        ("test_an_edited_module_changes_everything",),
    ),
    # --- saved models -------------------------------------------------------------------------------------------------
    Bug(
        "a model file's hash is not compared",
        "a damaged download annotates a patient's cells",
        "if sha256(path) != hashes.get(name):",
        "if name not in hashes:",
        (
            "test_a_damaged_model_is_told_of_by_name[default-one bit of the weights]",
            "test_a_damaged_model_is_told_of_by_name[default-weights cut short]",
        ),
    ),
    Bug(
        "every batch's file holds the source's model",
        "a saved batch's own adapter is lost, and nobody notices until it is needed",
        "_save(_as_stored(reference.annotator(batch)), folder / files[batch])",
        "_save(_as_stored(reference.annotator(reference.source)), folder / files[batch])",
        ("test_every_batch_has_a_file_of_a_safe_name_that_model_json_maps",),
    ),
    Bug(
        "a file's name in model.json may lead out of the folder",
        "a model from elsewhere reads any file of its user's",
        "path = folder / Path(name).name\n    try:",
        "path = folder / name\n    try:",
        ("test_a_file_name_in_model_json_cannot_lead_out_of_the_folder",),
    ),
    Bug(
        "the model's own target is answered in the order it was stored in",
        "`predict` on a shuffled file gives each cell another cell's label",
        "cells = order[np.searchsorted(there, fingerprints(x), sorter=order)]",
        "cells = np.searchsorted(there, fingerprints(x), sorter=order)",
        ("test_the_model_s_own_target_is_known_again_cell_by_cell_and_annotated_as_in_its_run",),
    ),
    Bug(
        "what left-out batches taught is not read back",
        "the command line's target is annotated without calibration",
        'rules={mode: Calibration.from_json(values).rule for mode, values in description["calibration"].items()},',
        "rules={},",
        ("test_the_rules_of_left_out_batches_come_back_with_the_model",),
    ),
    # --- metrics, levels, tables --------------------------------------------------------------------------------------
    Bug(
        "ties help average precision",
        "a model that says 0.5 of everything looks perfect",
        "order = np.lexsort((is_type, -score))",
        "order = np.lexsort((~is_type, -score))",
        ("test_average_precision_is_that_worked_out_by_hand",),
    ),
    Bug(
        "a rejected cell of an unknown type counts as wrong",
        "a model that knows its limits looks worse than one that names everything",
        "np.where(unknown, ~kept, kept & right)",
        "(kept & right)",
        ("test_a_cell_of_a_type_no_annotated_batch_has_is_right_only_when_rejected",),
    ),
    Bug(
        "cells unlike the reference fall back to a parent",
        "a cell of a type nobody annotated is called a T cell",
        "falls = (predictions.reasons == AMBIGUOUS) & confident & shared",
        "falls = predictions.rejected & confident & shared",
        ("test_a_cell_unlike_the_reference_stays_unassigned",),
    ),
    Bug(
        "a type's probabilities replace the column of its name",
        "a cell type called `labels` overwrites the true labels",
        "column in taken - {name} or column in reserved or column in table.columns or",
        "column in taken - {name} or column in table.columns and column not in reserved or",
        ("test_type_named_like_a_column_keeps_both",),
    ),
    Bug(
        "text is written to the workbook as Excel takes it",
        "a cell type called =cmd() runs when the table is opened",
        "sheet.write_string(row, column, text, style)",
        "sheet.write(row, column, text, style)",
        ("test_any_text_is_a_cell_of_text",),
    ),
    Bug(
        "names in notes are HTML",
        "a name in somebody's data runs a script in the reader's browser",
        "Markup('<p class=\"note\">{}</p>\\n').format(note)",
        "Markup('<p class=\"note\">%s</p>\\n' % note)",
        ("test_a_table_of_notes_is_sentences",),
    ),
    Bug(
        "what is told of points can end its script",
        "a cell's name runs in the report that is mailed around",
        r'separators=(",", ":")).replace("<", "\\u003c")',
        r'separators=(",", ":"))',
        ("test_points_are_told_once_and_cannot_end_their_script",),
    ),
    # --- files --------------------------------------------------------------------------------------------------------
    Bug(
        "what another training had learned is gone on with",
        "a training that was interrupted with other cells or settings ends as a mixture of both",
        'return stored if stored["key"] == depends_on else None',
        "return stored",
        ("test_what_another_training_learned_is_not_gone_on_with",),
    ),
    Bug(
        "a lock holds also where its folder was removed and made anew",
        "two runs write into one folder: one's model with the other's predictions",
        "return os.path.samestat(self.file.stat(), os.fstat(self.descriptor))",
        "return self.file.exists()",
        ("test_lock_sees_that_its_folder_was_replaced",),
    ),
    Bug(
        "a folder is not locked",
        "two runs at once in one folder",
        "_wait_for_orphans(lock, folder)\n    try:",
        "pass\n    try:",
        ("test_lock_is_taken_once_and_leaves_no_trace",),
    ),
    Bug(
        "a file is there before it is whole",
        "half a table under its final name after a full disk",
        "    finally:\n        temporary.unlink(missing_ok=True)",
        "    finally:\n        temporary.exists() and temporary.replace(path)",
        ("test_half_a_file_never_has_its_name",),
    ),
    Bug(
        "earlier results are deleted once the new ones are begun",
        "a killed run has cost the results of the one before",
        "(moving / run.log.name).touch()",
        "(moving / run.log.name).touch()\n    shutil.rmtree(previous, ignore_errors=True)  # by which",
        ("test_moving_aside_may_be_killed_at_any_step",),
    ),
    Bug(
        "a batch called A and one called a share a file",
        "on a Mac's disk one batch's results overwrite the other's",
        "while name.casefold() in taken:",
        "while name in names.values():",
        ("test_odd_batch_names_stay_inside_the_folder",),
    ),
]


# --- putting them in ---------------------------------------------------------------------------------------------------


class CannotError(Exception):
    """The bug or its test is not where it was."""


def put_in(bug: Bug, package: Path) -> str:
    """Changes the one file that holds the snippet; its name."""
    holds = {file: file.read_text("utf-8").count(bug.old) for file in sorted(package.rglob("*.py"))}
    found = [file for file, n in holds.items() if n]
    if sum(holds.values()) != 1:
        where = ", ".join(f"{file.relative_to(package)} ({holds[file]} times)" for file in found) or "nowhere"
        raise CannotError(f"the snippet must be there once and is: {where}\n    {bug.old}")
    (file,) = found
    text = file.read_text("utf-8").replace(bug.old, bug.new)
    ast.parse(text)
    file.write_text(text, "utf-8")
    return str(file.relative_to(package.parent))


def node_ids(test: str, checkout: Path) -> list[str]:
    """Where a test is now, with its parameters if it was named with any."""
    name, bracket, parameters = test.partition("[")
    pattern = re.compile(rf"^\s*def {re.escape(name)}\(", re.M)
    found = [
        file for file in sorted((checkout / "tests").rglob("test_*.py")) if pattern.search(file.read_text("utf-8"))
    ]
    if len(found) != 1:
        raise CannotError(f"the test {name} is in {len(found)} files: {[str(file.name) for file in found]}")
    return [f"{found[0].relative_to(checkout)}::{name}{bracket}{parameters}"]


def pytest(checkout: Path, python: str, tests: list[str], seconds: int = SECONDS) -> tuple[int, str]:
    """The exit status and the end of what it said; 1 is a test that failed."""
    own = {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "JIND_NB_STRICT": ""}
    command = [python, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly", "--no-header", *tests]
    try:
        done = subprocess.run(
            command, cwd=checkout, env=os.environ | own, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return 124, f"no end after {seconds} s"
    return done.returncode, (done.stdout + done.stderr)[-3000:]


def copied(checkout: Path, to: Path, more: list[Path]) -> Path:
    shutil.copytree(checkout, to, ignore=not_copied(checkout), symlinks=True)
    for file in more:
        shutil.copy(file, to / "tests")
    where = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1]); import jind_nb; print(jind_nb.__file__)", str(to)],
        capture_output=True, text=True, check=True, cwd=to,
    ).stdout  # fmt: skip
    assert where.startswith(str(to)), where
    return to


def attempt(bug: Bug, checkout: Path, python: str, root: Path, more: list[Path]) -> tuple[str, str]:
    """`caught`, `NOT caught` or `CANNOT`, and the reason."""
    folder = Path(tempfile.mkdtemp(dir=root))
    try:
        tree = copied(checkout, folder / "tree", more)
        where = put_in(bug, tree / "jind_nb")
        tests = [node for test in bug.tests for node in node_ids(test, tree)]
        status, said = pytest(tree, python, tests)
    except (CannotError, SyntaxError) as error:
        return "CANNOT", str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if status == 1:
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+::[^\n]{0,110})", said, re.M)
        return "caught", f"{where}: {failed[0] if failed else said[-200:]}"
    if status == 0:
        return "NOT caught", f"{where}: all of {', '.join(bug.tests)} pass"
    return "CANNOT", f"pytest ended with {status}:\n{said}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, default=Path.cwd())
    parser.add_argument("--python", default=None, help="default: the checkout's .venv, else this one")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="", help="bugs whose name has these words")
    parser.add_argument(
        "--with-tests", type=Path, action="append", default=[], help="a file of tests the checkout has not yet"
    )
    parser.add_argument("--after", type=int, default=0, help="leave out so many of the first bugs")
    parser.add_argument("--trust", action="store_true", help="do not run the tests without a bug first")
    parser.add_argument("--list", action="store_true", help="only see that every snippet and test is there")
    chosen = parser.parse_args()
    checkout = chosen.checkout.resolve()
    own = checkout / ".venv" / "bin" / "python"
    python = chosen.python or (str(own) if own.exists() else sys.executable)
    bugs = [bug for bug in BUGS[chosen.after :] if chosen.only.casefold() in bug.name.casefold()]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="jind-nb-bugs-") as folder:
        root = Path(folder)
        tree = copied(checkout, root / "unchanged", chosen.with_tests)
        lost = 0
        for bug in bugs:
            try:
                [node_ids(test, tree) for test in bug.tests]
                probe = root / "probe"
                shutil.copytree(tree / "jind_nb", probe / "jind_nb")
                put_in(bug, probe / "jind_nb")
            except (CannotError, SyntaxError) as error:
                lost += 1
                print(f"CANNOT      {bug.name}: {error}", flush=True)
            finally:
                shutil.rmtree(root / "probe", ignore_errors=True)
        if chosen.list or lost:
            print(f"{len(bugs)} bugs, {lost} cannot be put in")
            return 2 if lost else 0
        every = sorted({node for bug in bugs for test in bug.tests for node in node_ids(test, tree)})
        status, said = (0, "") if chosen.trust else pytest(tree, python, every, 5 * SECONDS)
        if status:
            print(f"The tests do not pass without any bug (status {status}):\n{said}")
            return 2
        chosen.trust or print(
            f"without a bug the {len(every)} tests pass ({time.monotonic() - begun:.0f} s)", flush=True
        )
        outcomes: dict[str, str] = {}
        with ThreadPoolExecutor(chosen.jobs) as pool:
            for bug, (outcome, why) in zip(
                bugs, pool.map(lambda b: attempt(b, checkout, python, root, chosen.with_tests), bugs), strict=True
            ):
                outcomes[bug.name] = outcome
                print(f"{outcome:11s} {bug.name}\n            {why}", flush=True)
    counts = {outcome: list(outcomes.values()).count(outcome) for outcome in ("caught", "NOT caught", "CANNOT")}
    print(", ".join(f"{n} {outcome}" for outcome, n in counts.items()), f"in {time.monotonic() - begun:.0f} s")
    return 1 if counts["NOT caught"] else 2 if counts["CANNOT"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
