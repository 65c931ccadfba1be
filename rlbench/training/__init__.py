"""SFT, RL and preference optimisation: the trainer, callbacks, checkpoints and safety rules.

Imports `evaluation` and the rooms above it.
"""
