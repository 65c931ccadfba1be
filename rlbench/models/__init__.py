"""Weights, tokenizers, chat templates and decoding settings of models.

Imports `data` and the rooms above it.
"""
