"""Chooses the prompts of a rollout and draws their groups, for all samplers and structures of `rlbench.sampling`.

All processes make the same choices: they draw with equal random numbers and share what their groups show.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather_object

from rlbench.config.schema import RolloutConfig, SamplerConfig
from rlbench.sampling.drawing import draw
from rlbench.sampling.history import History, Moment
from rlbench.sampling.members import Member, TreeLevel
from rlbench.sampling.places import keeps, structures, weights
from rlbench.sampling.replay import Buffer, KeptGroup
from rlbench.sampling.structures import levels_of
from rlbench.training.desk import TrainerDesk

if TYPE_CHECKING:
    from rlbench.training.trainer import RankedListTrainer

STREAM = 17
"""Separates the random numbers of prompts from others with the same seed."""


@dataclass(frozen=True)
class Processes:
    """This process and the number of all."""

    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class Candidate:
    """A drawn group with its rewards."""

    prompt: int
    members: list[Member]
    totals: list[float]
    success: list[bool]


@dataclass
class GroupCosts:
    """What the groups of a rollout cost, over all processes.

    Attributes:
        tokens: tokens drawn. A beginning that several members share counts once.
        groups: groups drawn.
        refused: groups drawn that do not train.
        without_weight: prompts drawn although their weight is 0.
        refused_used: refused groups that train all the same, because rounds ran out.
    """

    tokens: int = 0
    groups: int = 0
    refused: int = 0
    without_weight: int = 0
    refused_used: int = 0


@dataclass(frozen=True)
class Collected:
    """The groups of an update: P prompts with G members each.

    Attributes:
        prompts: (P,) places of the prompts in the dataset.
        groups: their members.
        spent: what they cost.
        replayed: number of groups at the end that come from earlier rollouts.
    """

    prompts: list[int]
    groups: list[list[Member]]
    spent: GroupCosts
    replayed: int = 0

    @property
    def members(self) -> list[Member]:
        """All members, group by group."""
        return list(chain.from_iterable(self.groups))


@dataclass
class Collector:
    """The sampler and the rollout of a run, with what they remember.

    Attributes:
        sampler: which prompts, and which groups train.
        rollout: how members are drawn.
        dataset: n prompts, as rows.
        group_size: G.
        list_length: N.
        seed: the run's seed.
        processes: this process among all.
    """

    sampler: SamplerConfig
    rollout: RolloutConfig
    dataset: Any
    group_size: int
    list_length: int
    seed: int
    processes: Processes = field(default_factory=Processes)

    def __post_init__(self) -> None:
        self.history = History(len(self.dataset))
        self.buffer = Buffer(self.sampler.capacity)
        self.choose(self.sampler, self.rollout)

    def choose(self, sampler: SamplerConfig, rollout: RolloutConfig) -> None:
        """Take other options of the same sampler and rollout."""
        self.sampler, self.rollout = sampler, rollout
        self._weigh = weights.chosen(sampler.weigh, sampler.options)
        self._keep = keeps[sampler.keep].function
        self._structure = structures.chosen(rollout.structure, rollout.options)
        self.levels = levels_of(rollout, self.group_size, self.list_length)

    def collect(self, moment: Moment, offered: Sequence[int], trainer: "RankedListTrainer") -> Collected:
        """The groups of the next rollout.

        Args:
            moment: position in the run.
            offered: (P,) prompts that are next in the order of the epoch. The sampler `uniform` takes them first.
            trainer: draws and scores lists on this process.
        """
        rng = np.random.default_rng([self.seed, STREAM, moment.update])
        wanted, spent = len(offered), GroupCosts()
        replayed = self.buffer.draw(round(self.sampler.replay * wanted), rng)
        fresh = wanted - len(replayed)
        kept: list[Candidate] = []
        refused: list[Candidate] = []
        taken = [group.prompt for group in replayed]
        for number in range(self.sampler.rounds):
            missing = fresh - len(kept)
            each = -(-missing // self.processes.count)
            count = min(each * self.processes.count, len(self.history) - len(taken))
            if missing <= 0 or not count:
                break
            if number == 0 and self.sampler.weigh == "uniform":
                chosen = [prompt for prompt in offered if prompt not in taken][:count]
            else:
                weighed = self._weigh(self.history, moment)
                drawn, without = draw(weighed, count, rng, np.array(taken, dtype=np.int64))
                chosen = drawn.tolist()
                spent.without_weight += without
            taken += chosen
            found = self._drawn(chosen, each, trainer, spent)
            self._learn(found, moment)
            is_kept = self._keep(
                torch.tensor([group.totals for group in found], dtype=torch.float64),
                torch.tensor([group.success for group in found]),
            ).tolist()
            kept += [group for group, yes in zip(found, is_kept, strict=True) if yes]
            refused += [group for group, yes in zip(found, is_kept, strict=True) if not yes]
        used = (kept + refused)[:fresh]
        spent.refused_used = max(fresh - len(kept), 0)
        spent.refused = spent.groups - len(used) + spent.refused_used
        prompts = [group.prompt for group in used] + [group.prompt for group in replayed]
        groups = [group.members for group in used] + [group.members for group in replayed]
        return Collected(prompts, groups, spent, len(replayed))

    def _drawn(self, prompts: list[int], each: int, trainer: "RankedListTrainer", spent: GroupCosts) -> list[Candidate]:
        """Groups of these prompts, each process drawing `each` of them."""
        first = self.processes.index * each
        mine = prompts[first : first + each]
        desk = TrainerDesk(trainer, [self.dataset[prompt] for prompt in mine], mine)
        found = []
        if mine:
            groups, rewards = desk.groups(self._structure, self.group_size)
            totals = rewards.totals.view(-1, self.group_size).tolist()
            success = rewards.success.view(-1, self.group_size).tolist()
            found = [Candidate(*one) for one in zip(mine, groups, totals, success, strict=True)]
        every = gather_object([(found, desk.tokens)]) if self.processes.count > 1 else [(found, desk.tokens)]
        spent.tokens += sum(cost for _, cost in every)
        everyone = [group for groups, _ in every for group in groups]
        spent.groups += len(everyone)
        return everyone

    def _learn(self, found: Sequence[Candidate], moment: Moment) -> None:
        self.history.learn(
            [group.prompt for group in found],
            [float(np.mean(group.success)) for group in found],
            [float(np.mean(group.totals)) for group in found],
            moment.update,
        )

    def remember(self, collected: Collected, behaviour: Sequence[Sequence[float]]) -> None:
        """Keep the fresh groups of an update for replay, except those that succeed or fail as a whole.

        Args:
            collected: the groups.
            behaviour: log-probabilities of each member's tokens under the policy that drew it.
        """
        for place in range(len(collected.groups) - collected.replayed):
            own = behaviour[place * self.group_size : (place + 1) * self.group_size]
            members = [
                Member(member.ids, behaviour=list(logps), edited=member.edited)
                for member, logps in zip(collected.groups[place], own, strict=True)
            ]
            solved = self.history.solved[collected.prompts[place]]
            if 0 < solved < 1:
                self.buffer.add(KeptGroup(collected.prompts[place], members))

    def state(self) -> dict[str, np.ndarray]:
        """What it remembers, as arrays for a checkpoint."""
        seen = {f"history/{name}": np.array(values) for name, values in self.history.state().items()}
        return seen | {f"buffer/{name}": values for name, values in self.buffer.state().items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Restore the state of a checkpoint."""
        parts: dict[str, dict[str, Any]] = {"history": {}, "buffer": {}}
        for name, values in state.items():
            part, _, key = name.partition("/")
            parts[part][key] = values
        self.history.restore({name: values.tolist() for name, values in parts["history"].items()})
        self.buffer.restore(parts["buffer"])


def level_of_tokens(unit_ids: torch.Tensor, list_length: int, levels: Sequence[TreeLevel]) -> torch.Tensor:
    """(B, T) the level of each token. A token outside the ranks belongs to the rank before it; an EOS to the next rank.

    Args:
        unit_ids: (B, T) unit of each token (`rlbench.lists.reader.UnitLayout`).
        list_length: N.
        levels: levels in the order of ranks.
    """
    ranks = torch.where(unit_ids <= list_length, unit_ids, -1).cummax(1).values
    ranks = torch.where(unit_ids == list_length + 2, ranks + 1, ranks).clamp(min=0)
    firsts = torch.tensor([level.first for level in levels], device=unit_ids.device)
    return torch.searchsorted(firsts, ranks, right=True) - 1
