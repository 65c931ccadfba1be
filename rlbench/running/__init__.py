"""One cell of a sweep, from its configuration to its result: checks, plan, memory estimate, stages.

Imports `training` and the rooms above it.
"""
