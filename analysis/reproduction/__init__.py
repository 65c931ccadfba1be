"""Our results next to the paper's, for `python -m analysis.reproduce`. The rule is in docs/reproduction.md."""
