"""Registries of samplers and rollouts. A choice is one pure function; its keyword-only parameters are its options."""

from rlbench.objective.pieces import Place

weights = Place("weigh", ("reads_history",), section="sampler")
"""(History, Moment) -> (n,) weight of each prompt: its chance to be drawn next. Prompts of weight 0 are left out."""
keeps = Place("keep", section="sampler")
"""(totals (P, G), success (P, G)) -> (P,) bool: the groups that train. The others are drawn again."""
structures = Place("structure", ("check", "levels", "held"), section="rollout")
"""(prompts, size, desk) -> the members of each prompt's group (`rlbench.sampling.members`)."""
