"""Every picture of the notebooks and reports, each beside the text that tells it to readers who cannot see it."""
