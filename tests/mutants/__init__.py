"""Planted bugs. `make mutants` puts each one into the code, alone, and runs the tests that should notice it."""
