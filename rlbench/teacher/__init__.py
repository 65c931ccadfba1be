"""Teachers: asks a language model for lists, ratings and descriptions of items, and reads its answers strictly.

Imports `models` and the rooms above it. Loads torch only for a local model.
"""
