"""Labeling by a person: the log of decisions, the images that come next, the page, and other tools' formats."""
