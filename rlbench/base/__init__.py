"""Files, errors, digests, git, progress and other small tools that know nothing of the task.

Imports nothing from the rest of the package.
"""
