"""rlbench: a benchmark and experiment harness for GRPO variants on ranked-list generation."""

__version__ = "0.1.0"
