"""Cell-type labels from several annotated batches to an unannotated target batch."""

__version__ = "0.1.0"
