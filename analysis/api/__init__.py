"""What `import rlbench` offers to read runs and to draw them.

Imports `figures` and all that it imports.
"""
