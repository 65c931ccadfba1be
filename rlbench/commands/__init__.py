"""The commands that look at one group of completions, or make demonstrations.

Imports `running` and the rooms above it.
"""
