"""Reward terms, success rules, and their combination into rewards of ranks and lists.

Imports `lists` and the rooms above it.
"""
