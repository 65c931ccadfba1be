"""Ours beside the paper's: `python -m analysis.reproduce` shows it, docs/reproduction.md says by which rule."""
