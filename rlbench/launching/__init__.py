"""Launchers of sweeps (local, Ray, SLURM), searches, and the rows and cells that they share.

Imports `running` and the rooms above it.
"""
