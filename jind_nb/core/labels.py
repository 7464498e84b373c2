"""The words that every table, picture and file uses for a rejected cell and for why a cell was kept or rejected."""

UNASSIGNED = "Unassigned"

CONFIDENT, AMBIGUOUS, UNLIKE = REASONS = ("confident", "ambiguous", "unlike reference")

OUTSIDE = "not in TYPES"  # the reason where a cell is more probably of none of the types that may be given

NO_VALUES = "no values"  # the reason where a cell has no value in any feature that is used

DOUBLET = "doublet"  # the reason where a cell seems to be two that were read as one (DOUBLETS)

PARENT_ONLY = "parent only"  # the reason where a cell was given its type's parent
