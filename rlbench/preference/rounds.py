"""Which updates belong to which round, and for which prompts it draws lists."""

import math
from dataclasses import dataclass

from rlbench.config import PreferenceConfig, RLConfig


@dataclass(frozen=True)
class Round:
    """One round; updates are counted from 0, `end` is the first of the next round.

    Attributes:
        number: from 0.
        first: lists are drawn before this update.
        preference: updates from here on compare lists, and the reference is the policy before this one; those before
            it are of the chosen lists alone.
        end: updates up to here.
        prompts: numbers of the prompts, counted over all rounds.
    """

    number: int
    first: int
    preference: int
    end: int
    prompts: range


def prompts_drawn(method: PreferenceConfig, rl: RLConfig) -> int:
    """How many prompts lists are drawn for; where it is not said, those of policy optimisation's rollouts."""
    rollouts = math.ceil(rl.updates / rl.num_iterations)
    return method.prompts or rollouts * rl.completions_per_update // rl.group_size


def make_rounds(method: PreferenceConfig, rl: RLConfig) -> list[Round]:
    """Rounds of as many updates and prompts as can be, at most one an update and one a prompt."""
    prompts = prompts_drawn(method, rl)
    count = min(method.rounds, rl.updates, prompts)
    rounds = []
    for number in range(count):
        first, end = (rl.updates * n // count for n in (number, number + 1))
        supervised = min(round((end - first) * method.sft_share), end - first - 1)
        of_prompts = range(prompts * number // count, prompts * (number + 1) // count)
        rounds.append(Round(number, first, first + supervised, end, of_prompts))
    return rounds
