"""Every picture of the notebooks and reports, each beside its alt text for readers who cannot see it."""
