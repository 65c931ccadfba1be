"""Rounds: the updates of each round, and the prompts for which it draws lists."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlbench.config.schema import PreferenceConfig, RLConfig

PROMPTS, LISTS, TUPLES = range(3)
"""Streams of random numbers of a seed."""


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


@dataclass(frozen=True)
class TupleOrder:
    """The order in which a run uses the tuples of its rounds.

    Each phase of a round uses all tuples once in random order, then all again in another order. Both phases have the
    same number of lists per update. In the phase that compares lists, a position is one tuple. In the other phase, it
    is as many chosen lists as a tuple has lists, each from a different tuple.

    Attributes:
        per_update: tuples per update.
        of_tuple: lists per tuple.
        seed: the run's seed.
        order: makes an order of a number of items from numbers.
    """

    per_update: int
    of_tuple: int
    seed: int
    order: Callable[..., list[int]]

    def at(self, places: Sequence[int], one: Round, compares: bool, count: int) -> list[int]:
        """Indices of the tuples at some positions of the run.

        Args:
            places: positions counted over the whole run, `per_update` for each update.
            one: the round.
            compares: whether the positions lie in the phase that compares lists.
            count: tuples of the round.
        """
        first = one.preference if compares else one.first
        offset, width = first * self.per_update, 1 if compares else self.of_tuple
        numbers = [(place - offset) * width + i for place in places for i in range(width)]
        turns = [divmod(number, count) for number in numbers]
        return [self.order(count, self.seed, TUPLES, one.number, int(compares), turn)[place] for turn, place in turns]
