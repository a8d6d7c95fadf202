"""Evaluation of features by probes: the split of labelled rows, choices on validation, scores."""
