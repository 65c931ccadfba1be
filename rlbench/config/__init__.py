"""The schema of a configuration, the ranges and options of its values, plugins, and settings of engines.

Imports only `base`. Loads no torch.
"""
