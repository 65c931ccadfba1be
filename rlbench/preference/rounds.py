"""Rounds: the updates of each round, and the prompts for which it draws lists."""

import math
from dataclasses import dataclass

from rlbench.config.schema import PreferenceConfig, RLConfig


@dataclass(frozen=True)
class Round:
    """One round. Updates are counted from 0.

    Attributes:
        number: from 0.
        first: lists are drawn before this update.
        preference: first update that compares lists; the reference is the policy before it. Earlier updates of the
            round train on the chosen lists alone.
        end: first update of the next round.
        prompts: numbers of the prompts, counted over all rounds.
    """

    number: int
    first: int
    preference: int
    end: int
    prompts: range


def prompts_drawn(method: PreferenceConfig, rl: RLConfig) -> int:
    """Number of prompts for which lists are drawn; by default, as many as the rollouts of policy optimisation use."""
    rollouts = math.ceil(rl.updates / rl.num_iterations)
    return method.prompts or rollouts * rl.completions_per_update // rl.group_size


def make_rounds(method: PreferenceConfig, rl: RLConfig) -> list[Round]:
    """Rounds of nearly equal numbers of updates and prompts; each has at least one update and one prompt,
    so there may be fewer than `method.rounds`."""
    prompts = prompts_drawn(method, rl)
    count = min(method.rounds, rl.updates, prompts)
    rounds = []
    for number in range(count):
        first, end = (rl.updates * n // count for n in (number, number + 1))
        supervised = min(round((end - first) * method.sft_share), end - first - 1)
        of_prompts = range(prompts * number // count, prompts * (number + 1) // count)
        rounds.append(Round(number, first, first + supervised, end, of_prompts))
    return rounds
