"""Stage 1 of the Rank-GRPO paper (arXiv 2510.20150): demonstrations from a teacher by Remap, Reflect and Adjust."""
