"""Questions with numbers of their own: effects of the settings of a sweep, and which method learns faster.

Imports `tables` and the rooms above it.
"""
