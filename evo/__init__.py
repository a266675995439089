"""Evolutionary search over code diffs, with a judge that the candidate cannot reach."""

__version__ = "0.1.0"
