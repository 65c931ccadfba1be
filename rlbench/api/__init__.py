"""The functions and classes that `import rlbench` offers, for scripts and notebooks."""
