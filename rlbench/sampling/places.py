"""Registries of samplers and rollouts. A choice is one pure function; its keyword-only parameters are its options."""

from rlbench.objective.pieces import Place

weights = Place("weigh", ("reads_history",), section="sampler")
"""(History, Moment) -> (n,) weight of each prompt: its chance to be drawn next. Prompts of weight 0 are left out.

Facts that a piece may add: `entropy` = True, if it reads `History.entropy`; `reference`, a function (History, Moment,
Generator, options) -> prompts whose groups are drawn before the weights are computed; `check`, a function (names of the
prompts, options) -> a sentence that says why the data do not fit, or ""."""
keeps = Place("keep", section="sampler")
"""(totals (P, G), success (P, G)) -> (P,) bool: the groups that train. The others are drawn again."""
makers = Place("make", ("when", "wants"), section="sampler")
"""(asked prompts, desk) -> a new prompt for each, or None (`rlbench.sampling.making`).

A fact that a piece may add: `same_question` = True, if the answers to a prompt also answer what is made of it."""
structures = Place("structure", ("check", "levels", "held"), section="rollout")
"""(prompts, size, desk) -> the members of each prompt's group (`rlbench.sampling.members`)."""
