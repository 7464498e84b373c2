"""What each METHOD asks of its data, which are prepared before the METHOD itself, a module of `model/`, is needed."""

from dataclasses import dataclass

from .coerce import AUTO


@dataclass(frozen=True)
class DataRules:
    """How the data of a METHOD are chosen."""

    most_cells: int  # labelled cells of a batch that are used for training
    fewest_cells: str | int  # MIN_CELL_TYPE_POPULATION where none is given
    leaves_out_features: bool  # those that the target lacks, in all batches
    rescales_to_median: bool  # cells are brought to the annotated batches' median count, and not to 10,000
    shares_training: bool  # several targets without labels have the model that was trained with the first of them


# A model that METHOD `default` shared would be measurably worse: its components are computed with the target's cells.
DATA_RULES = {
    "default": DataRules(10_000, AUTO, leaves_out_features=True, rescales_to_median=True, shares_training=False),
    "reference": DataRules(  # as it was published
        50_000, 100, leaves_out_features=False, rescales_to_median=False, shares_training=True
    ),
}
