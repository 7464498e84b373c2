"""The stages of a run, in order, and what each does in words."""

STAGES = ("1_preprocess", "2_train", "3_align", "4_evaluate")

OF_A_TARGET = STAGES[2:]  # done for each of several targets

STAGE_WORDS = {
    "1_preprocess": "reading and preparing",
    "2_train": "learning from the annotated batches",
    "3_align": "aligning the target",
    "4_evaluate": "writing predictions",
    "report": "writing the report",
}

UNCHANGED = "unchanged, reused"
