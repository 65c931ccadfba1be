"""Rewards of a list and its ranks: weighted terms, their discounted tail sums (returns), and their combination."""
