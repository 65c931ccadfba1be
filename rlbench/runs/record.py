"""The form of a run's files, for those that write and those that read them. Loads no torch."""

SCHEMA = 2
"""Version of the form. Readers refuse results of another version."""
