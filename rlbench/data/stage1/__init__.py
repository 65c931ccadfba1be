"""Stage 1 of ConvRec-R1: demonstrations that stay inside the catalogue.

Imports `data` and the rooms above it.
"""
