"""The words that every table, picture and file uses for a rejected cell and for why a cell was kept or rejected."""

UNASSIGNED = "Unassigned"

CONFIDENT, AMBIGUOUS, UNLIKE = REASONS = ("confident", "ambiguous", "unlike reference")

PARENT_ONLY = "parent only"  # the reason where a cell was given its type's parent
