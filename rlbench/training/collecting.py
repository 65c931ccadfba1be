"""Chooses the prompts of a rollout and draws their groups, for all samplers and structures of `rlbench.sampling`.

All processes make the same choices: they draw with equal random numbers and share what their groups show.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather_object

from rlbench.config.options import filled, with_defaults
from rlbench.config.schema import RolloutConfig, SamplerConfig
from rlbench.sampling.drawing import draw
from rlbench.sampling.history import History, Moment
from rlbench.sampling.making import AskedPrompt, MadePrompt, conversation_of
from rlbench.sampling.members import Member, TreeLevel
from rlbench.sampling.places import keeps, makers, structures, weights
from rlbench.sampling.replay import Buffer, KeptGroup
from rlbench.sampling.structures import levels_of
from rlbench.training.desk import TrainerDesk
from rlbench.training.experts import ASKS_ANOTHER, Advice

if TYPE_CHECKING:
    from rlbench.training.trainer import RankedListTrainer

STREAM = 17
"""Separates the random numbers of prompts from others with the same seed."""
MAKES = 19
"""The same for the random numbers of makers."""
Row = dict[str, Any]
"""A prompt as the dataset has it (`rlbench.training.rl.PROMPT_COLUMNS`)."""


@dataclass(frozen=True)
class Processes:
    """This process and the number of all."""

    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class Candidate:
    """A drawn group with its rewards.

    Attributes:
        prompt: place of its prompt in the dataset.
        members: its lists.
        totals: their total rewards.
        success: whether each succeeds.
        row: the prompt that a maker has made; None for the dataset's.
        entropy: mean entropy of its tokens; NaN if it was not recorded.
    """

    prompt: int
    members: list[Member]
    totals: list[float]
    success: list[bool]
    row: Row | None = None
    entropy: float = math.nan

    @property
    def solved(self) -> float:
        """Share of the lists that succeed."""
        return float(np.mean(self.success))


@dataclass
class GroupCosts:
    """What the groups of a rollout cost, over all processes.

    Attributes:
        tokens: tokens drawn. A beginning that several members share counts once.
        groups: groups drawn.
        refused: groups drawn that do not train.
        without_weight: prompts drawn although their weight is 0.
        refused_used: refused groups that train all the same, because rounds ran out.
        asked: prompts for which an expert was asked.
        silent: those without an answer.
    """

    tokens: int = 0
    groups: int = 0
    refused: int = 0
    without_weight: int = 0
    refused_used: int = 0
    asked: int = 0
    silent: int = 0


@dataclass(frozen=True)
class Collected:
    """The groups of an update: P prompts with G members each.

    Attributes:
        prompts: (P,) places of the prompts in the dataset.
        groups: their members.
        spent: what they cost.
        rows: prompts that a maker has made; None for those of the dataset.
        success: whether each member of a fresh group succeeds; replayed groups are left out.
        replayed: number of groups at the end that come from earlier rollouts.
    """

    prompts: list[int]
    groups: list[list[Member]]
    spent: GroupCosts
    rows: list[Row | None]
    success: list[list[bool]]
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
        template: the dataset's template of prompts, or None.
        advice: the expert, for a rollout that asks one.
    """

    sampler: SamplerConfig
    rollout: RolloutConfig
    dataset: Any
    group_size: int
    list_length: int
    seed: int
    processes: Processes = field(default_factory=Processes)
    template: str | None = None
    advice: Advice | None = None

    def __post_init__(self) -> None:
        self.history = History(len(self.dataset), self._texts, lambda: self.dataset["context_id"])
        self.buffer = Buffer(self.sampler.capacity)
        self.successes = Buffer(self.sampler.successes)
        self.choose(self.sampler, self.rollout)

    def choose(self, sampler: SamplerConfig, rollout: RolloutConfig) -> None:
        """Take other options of the same sampler and rollout."""
        self.sampler, self.rollout = sampler, rollout
        self._weigh = weights.chosen(sampler.weigh, sampler.options)
        reference = weights[sampler.weigh].facts.get("reference")
        self._reference = filled(reference, sampler.options.get(sampler.weigh, {})) if reference else None
        self.records_entropy = bool(weights[sampler.weigh].facts.get("entropy"))
        self._keep = keeps.chosen(sampler.keep, sampler.options)
        self._maker = Maker(sampler) if sampler.make != "none" else None
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
        self._refer(moment, rng, trainer, spent)

        def add(found: Sequence[Candidate]) -> None:
            found = self._rescued(found, rng, trainer)
            for group, is_kept in zip(found, self._kept(found), strict=True):
                (kept if is_kept else refused).append(group)

        makes_after = self._maker is not None and self._maker.when == "after"
        for number in range(self.sampler.rounds):
            missing = fresh - len(kept)
            asked = -(-missing // 2) if makes_after else missing
            found = self._round(asked, offered if number == 0 else (), taken, moment, rng, trainer, spent)
            if not found:
                break
            add(found)
            if makes_after:
                add(self._made_after(found, fresh - len(kept), moment, trainer, spent))
        missing = fresh - len(kept) - len(refused)  # if a maker has made too few prompts
        add(self._round(missing, (), taken, moment, rng, trainer, spent))
        used = (kept + refused)[:fresh]
        spent.refused_used = max(fresh - len(kept), 0)
        spent.refused = spent.groups - len(used) + spent.refused_used
        prompts = [group.prompt for group in used] + [group.prompt for group in replayed]
        groups = [group.members for group in used] + [group.members for group in replayed]
        rows = [group.row for group in used] + [None] * len(replayed)
        return Collected(prompts, groups, spent, rows, [group.success for group in used], len(replayed))

    def _round(
        self,
        missing: int,
        offered: Sequence[int],
        taken: list[int],
        moment: Moment,
        rng: np.random.Generator,
        trainer: "RankedListTrainer",
        spent: GroupCosts,
    ) -> list[Candidate]:
        """Choose at least `missing` prompts that are not taken, and draw their groups; no group if none is left."""
        each = -(-missing // self.processes.count)
        count = min(each * self.processes.count, len(self.history) - len(taken))
        if missing <= 0 or not count:
            return []
        if offered and self.sampler.weigh == "uniform":
            chosen = [prompt for prompt in offered if prompt not in taken][:count]
        else:
            weighed = self._weigh(self.history, moment)
            drawn, without = draw(weighed, count, rng, np.array(taken, dtype=np.int64))
            chosen = drawn.tolist()
            spent.without_weight += without
        taken += chosen
        mine = self._mine(chosen)
        rows: list[Row | None] = [None] * len(mine)
        tokens = 0
        if self._maker is not None and self._maker.when == "before":
            rows, tokens = self._made(mine, self.history.solved[mine].tolist(), moment, trainer)
        return self._drawn(mine, rows, tokens, moment, trainer, spent)

    def _mine(self, items: Sequence[Any]) -> list[Any]:
        """This process's part of what all processes have."""
        each = -(-len(items) // self.processes.count)
        return list(items[self.processes.index * each : (self.processes.index + 1) * each])

    def _refer(self, moment: Moment, rng: np.random.Generator, trainer: "RankedListTrainer", spent: GroupCosts) -> None:
        """Draw groups for the reference prompts of a sampler that has them, if they are due."""
        if self._reference is None:
            return
        places = self._reference(self.history, moment, rng)
        if len(places):
            mine = self._mine(places.tolist())
            found = self._drawn(mine, [None] * len(mine), 0, moment, trainer, spent)
            self.history.reference = np.array([group.prompt for group in found], dtype=np.int64)
            self.history.reference_solved = np.array([group.solved for group in found])

    def _kept(self, found: Sequence[Candidate]) -> list[bool]:
        """Which groups train."""
        if not found:
            return []
        totals = torch.tensor([group.totals for group in found], dtype=torch.float64)
        kept: list[bool] = self._keep(totals, torch.tensor([group.success for group in found])).tolist()
        return kept

    def _drawn(
        self,
        mine: list[int],
        rows: Sequence[Row | None],
        tokens: int,
        moment: Moment,
        trainer: "RankedListTrainer",
        spent: GroupCosts,
    ) -> list[Candidate]:
        """Draw groups, and return those of all processes.

        Args:
            mine: this process's prompts.
            rows: what a maker has made of them; None for the dataset's.
            tokens: what the maker has drawn for that.
        """
        differs = self._maker is not None and not self._maker.same_question
        of_desk = [
            self.dataset[prompt] if row is None else row | {ASKS_ANOTHER: differs}
            for prompt, row in zip(mine, rows, strict=True)
        ]
        desk = TrainerDesk(trainer, of_desk, mine)
        found = []
        if mine:
            groups, rewards = desk.groups(self._structure, self.group_size)
            totals = rewards.totals.view(-1, self.group_size).tolist()
            success = rewards.success.view(-1, self.group_size).tolist()
            entropies = [_mean_recorded(group) for group in groups]
            found = [Candidate(*one) for one in zip(mine, groups, totals, success, rows, entropies, strict=True)]
        own = (found, np.array([tokens + desk.tokens, desk.asked, desk.silent]))
        every = gather_object([own]) if self.processes.count > 1 else [own]
        drawn, asked, silent = np.sum([counts for _, counts in every], axis=0).tolist()
        spent.tokens, spent.asked, spent.silent = spent.tokens + drawn, spent.asked + asked, spent.silent + silent
        everyone = [group for groups, _ in every for group in groups]
        spent.groups += len(everyone)
        self._learn([group for group in everyone if group.row is None], moment)
        return everyone

    def _made(
        self, prompts: list[int], solved: Sequence[float], moment: Moment, trainer: "RankedListTrainer"
    ) -> tuple[list[Row | None], int]:
        """What the maker makes of prompts, None for nothing, and the tokens that it draws."""
        assert self._maker is not None
        rows = [self.dataset[prompt] for prompt in prompts]
        desk = TrainerDesk(trainer, rows, prompts)
        asked = []
        for place, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
            random = np.random.default_rng([self.seed, MAKES, moment.update, prompt])
            _, text, _ = conversation_of(row["prompt"][_asking(row)]["content"], self.template)
            possible = desk.possible(place)
            asked.append(AskedPrompt(text, row["ground_truth"], possible, row["seen_titles"], solved[place], random))
        made = self._maker.make(asked, desk) if asked else []
        return [one and self._row(row, one) for row, one in zip(rows, made, strict=True)], desk.tokens

    def _row(self, row: Row, made: MadePrompt) -> Row:
        """A prompt with another conversation in its last message of the user."""
        place = _asking(row)
        before, _, after = conversation_of(row["prompt"][place]["content"], self.template)
        messages = [dict(message) for message in row["prompt"]]
        messages[place]["content"] = f"{before}{made.conversation}{after}"
        truth = row["ground_truth"] if made.truth is None else made.truth
        return row | {
            "prompt": messages,
            "ground_truth": truth,
            "seen_titles": row["seen_titles"] if made.seen is None else made.seen,
        }

    def _made_after(
        self, found: Sequence[Candidate], most: int, moment: Moment, trainer: "RankedListTrainer", spent: GroupCosts
    ) -> list[Candidate]:
        """Groups of prompts that the maker makes from prompts whose groups have just been drawn; at most `most`."""
        assert self._maker is not None
        wanted = self._maker.wants(np.array([group.solved for group in found]))
        chosen = [group for group, yes in zip(found, wanted.tolist(), strict=True) if yes][: max(most, 0)]
        if not chosen:
            return []
        mine = self._mine(chosen)
        prompts = [group.prompt for group in mine]
        rows, tokens = self._made(prompts, [group.solved for group in mine], moment, trainer)
        return self._drawn(prompts, rows, tokens, moment, trainer, spent)

    def _rescued(
        self, found: Sequence[Candidate], rng: np.random.Generator, trainer: "RankedListTrainer"
    ) -> Sequence[Candidate]:
        """The same groups, where a random member of each one that fails gives way to its prompt's latest success."""
        if not self.sampler.successes:
            return found
        return [self._with_success(group, rng, trainer) for group in found]

    def _with_success(self, group: Candidate, rng: np.random.Generator, trainer: "RankedListTrainer") -> Candidate:
        kept = self.successes.of(group.prompt)
        if kept is None or group.row is not None or any(group.success):
            return group
        place, row = int(rng.integers(self.group_size)), self.dataset[group.prompt]
        rewards = TrainerDesk(trainer, [row], [group.prompt]).score([row], kept.members)
        members, totals, success = list(group.members), list(group.totals), list(group.success)
        (members[place],) = kept.members
        totals[place], success[place] = rewards.totals.item(), bool(rewards.success.item())
        return replace(group, members=members, totals=totals, success=success)

    def _texts(self) -> list[str]:
        return [" ".join(message["content"] for message in prompt) for prompt in self.dataset["prompt"]]

    def _learn(self, found: Sequence[Candidate], moment: Moment) -> None:
        self.history.learn(
            [group.prompt for group in found],
            [group.solved for group in found],
            [float(np.mean(group.totals)) for group in found],
            moment.update,
            [group.entropy for group in found] if self.records_entropy else None,
        )

    def remember(self, collected: Collected, behaviour: Sequence[Sequence[float]]) -> None:
        """Keep what later updates may need of the fresh groups of an update.

        For replay these are groups that neither succeed nor fail as a whole, and the latest success of each prompt.
        Groups of prompts that a maker has made are left out.

        Args:
            collected: the groups.
            behaviour: log-probabilities of each member's tokens under the policy that drew it.
        """
        for place in range(len(collected.groups) - collected.replayed):
            if collected.rows[place] is not None:
                continue
            prompt, group = collected.prompts[place], collected.groups[place]
            own = behaviour[place * self.group_size : (place + 1) * self.group_size]
            members = [
                replace(member, recorded=[], behaviour=list(logps)) for member, logps in zip(group, own, strict=True)
            ]
            if self.sampler.capacity and 0 < self.history.solved[prompt] < 1:
                self.buffer.add(KeptGroup(prompt, members))
            new = zip(members, group, collected.success[place], strict=True)
            won = [kept for kept, member, yes in new if yes and member.behaviour is None and not member.edited]
            if self.sampler.successes and won:
                self.successes.add(KeptGroup(prompt, won[-1:]))

    def state(self) -> dict[str, np.ndarray]:
        """What it remembers, as arrays for a checkpoint."""
        seen = {f"history/{name}": np.array(values) for name, values in self.history.state().items()}
        seen |= {f"buffer/{name}": values for name, values in self.buffer.state().items()}
        if self.sampler.successes:
            seen |= {f"successes/{name}": values for name, values in self.successes.state().items()}
        return seen

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Restore the state of a checkpoint."""
        parts: dict[str, dict[str, Any]] = {"history": {}, "buffer": {}, "successes": {}}
        for name, values in state.items():
            part, _, key = name.partition("/")
            parts[part][key] = values
        self.history.restore({name: values.tolist() for name, values in parts["history"].items()})
        self.buffer.restore(parts["buffer"])
        if parts["successes"]:
            self.successes.restore(parts["successes"])


class Maker:
    """The maker of a sampler.

    Args:
        sampler: names it, with its options.

    Attributes:
        when: "before" or "after" (`rlbench.sampling.making`).
        make: (asked prompts, desk) -> a new prompt for each, or None.
        same_question: whether the answers to a prompt also answer what is made of it.
    """

    def __init__(self, sampler: SamplerConfig):
        piece = makers[sampler.make]
        self.when: str = piece.facts["when"]
        self.make = makers.chosen(sampler.make, sampler.options)
        self.same_question = bool(piece.facts.get("same_question"))
        self._wants = piece.facts["wants"]
        self._options = with_defaults(piece.options, sampler.options.get(sampler.make, {}))

    def wants(self, solved: np.ndarray) -> np.ndarray:
        """(n,) bool: the groups from whose prompts to make new ones, by their shares of successes; for "after"."""
        wanted: np.ndarray = self._wants(solved, **self._options)
        return wanted


def _asking(row: Row) -> int:
    """Place of the last message of the user."""
    return max(place for place, message in enumerate(row["prompt"]) if message["role"] == "user")


def _mean_recorded(group: Sequence[Member]) -> float:
    """Mean of what was recorded at the tokens of a group; NaN if a member has no record."""
    if not all(member.recorded for member in group):
        return math.nan
    return float(np.mean(list(chain.from_iterable(member.recorded for member in group))))


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
