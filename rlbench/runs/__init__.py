"""The directory of a run: identity, status, attempts, budget, provenance, logs and processes.

Imports `models`, `tracking`, `data` and the rooms above them.
"""
