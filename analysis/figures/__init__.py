"""Figures of curves and of ranks, and the style that all figures share.

Imports `collection` and `statistics`.
"""
