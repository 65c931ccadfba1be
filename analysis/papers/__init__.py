"""Tables and figures of the paper beside our runs, with a verdict for each of its claims.

Imports `tables` and the rooms above it.
"""
