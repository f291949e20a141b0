"""Metrics of predicted frames, free-running validation, and intervals."""
