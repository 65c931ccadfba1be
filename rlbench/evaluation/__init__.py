"""Greedy and sampled lists of a split, and the metrics of each record.

Imports `runs`, `objective` and the rooms above them.
"""
