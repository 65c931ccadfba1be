"""Groups whose members share beginnings: how they are drawn, and their advantages, against loops."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from rlbench.config.schema import RolloutConfig
from rlbench.lists.reader import UnitLayout
from rlbench.objective import Objective, Rollout
from rlbench.rewards.batch import FEATURES, RewardBatch
from rlbench.running.checks import check_config
from rlbench.sampling.members import MODE, PLAN, Beginning, Member, ReadList, TreeLevel
from rlbench.sampling.structures import edited, expert, flat, levels_of, modes, perturbed, planned, prefix, tree
from rlbench.training.collecting import level_of_tokens
from tests.conftest import composed

N = 6
END = -1


class Writer:
    """Draws lists of N ranks with two tokens each: a new number, and the rank."""

    def __init__(self, ends_after: dict[int, int] | None = None):
        self.numbers, self.calls, self.ends_after = 100, [], ends_after or {}

    def draw(self, starts: Sequence[Beginning], until: int | None) -> list[Member]:
        self.calls.append((len(starts), until))
        found = []
        for start in starts:
            ids = list(start.written.ids)
            while not (ids and ids[-1] == END) and len(ids) // 2 < (until or N):
                self.numbers += 1
                ids += [self.numbers, len(ids) // 2]
            ended = ids if until or ids[-1] == END else [*ids, END]
            found.append(replace(start.written, ids=ended))
        return found

    def begin(self, words: str) -> Member:
        return Member([-ord(letter) for letter in words])

    def line(self, starts: Sequence[Beginning], most: int) -> list[Member]:
        """Every line has `most` tokens."""
        self.calls.append((len(starts), "line"))
        made = []
        for start in starts:
            self.numbers += most
            made.append(replace(start.written, ids=[*start.written.ids, *range(self.numbers - most, self.numbers)]))
        return made


def shared(a: Member, b: Member) -> int:
    """Number of ranks that two members have in common."""
    same = 0
    while same < min(len(a.ids), len(b.ids)) and a.ids[same] == b.ids[same]:
        same += 1
    return same // 2


def test_flat_members_share_nothing() -> None:
    groups = flat(2, 3, Writer())
    assert [len(group) for group in groups] == [3, 3]
    assert all(shared(a, b) == 0 for group in groups for a in group for b in group if a is not b)


def test_endings_share_their_beginning() -> None:
    desk = Writer()
    groups = prefix(2, 6, desk, answers=3, ranks=2)
    assert desk.calls == [(4, 2), (12, None)]
    for group in groups:
        for i, a in enumerate(group):
            for j, b in enumerate(group):
                if i != j:
                    assert shared(a, b) == (2 if i // 3 == j // 3 else 0)


def test_leaves_share_the_path_to_their_last_common_node() -> None:
    desk = Writer()
    groups = tree(2, 8, desk, branch=2, every=2)
    assert desk.calls == [(4, 2), (8, 4), (16, None)]
    for group in groups:
        for i in range(8):
            for j in range(8):
                if i != j:
                    assert shared(group[i], group[j]) == (4 if i // 2 == j // 2 else 2 if i // 4 == j // 4 else 0)


def test_half_of_a_group_thinks_first() -> None:
    desk = Writer()
    groups = modes(3, 4, desk, thinks="T", answers="L", most=2)
    assert desk.calls == [(6, "line"), (12, None)]
    for group in groups:
        assert [member.mode for member in group] == [1, 1, 0, 0]
        assert [member.segments for member in group] == [(MODE, PLAN, PLAN)] * 2 + [(MODE, MODE)] * 2
        assert [member.ids[0] for member in group] == [-ord("T")] * 2 + [-ord("L")] * 2
        assert group[2].ids[1] == -ord("\n") and len({tuple(member.ids) for member in group}) == 4


def test_every_member_has_a_plan_of_its_own() -> None:
    desk = Writer()
    groups = planned(2, 3, desk, words="P:", most=3)
    assert desk.calls == [(6, "line"), (6, None)]
    plans = [tuple(member.ids[:5]) for group in groups for member in group]
    assert len(set(plans)) == 6 and {plan[:2] for plan in plans} == {(-ord("P"), -ord(":"))}
    assert {member.segments for group in groups for member in group} == {(PLAN,) * 5}


def some_rollout(prompts: int, size: int) -> Rollout:
    random = torch.Generator().manual_seed(4)
    b, units = prompts * size, UnitLayout(N).count
    gains = torch.rand(b, 1, N, generator=random, dtype=torch.float64)
    rewards = RewardBatch(
        gains=gains,
        scores=torch.zeros(b, 1, dtype=torch.float64),
        hits=(gains[:, 0] > 0.5).double(),
        n_truth=torch.full((b,), 3.0),
        present=torch.ones(b, N, dtype=torch.bool),
        totals=gains.sum((1, 2)),
        success=gains.sum((1, 2)) > 3,
        features=torch.rand(b, len(FEATURES), generator=random),
    )
    return Rollout(rewards, torch.full((b, units), 2.0), -torch.rand(b, units, generator=random), torch.rand(b), 0.0)


def objective(algorithm: str, reward: str = "log_decay") -> Objective:
    config = composed(f"algorithm={algorithm}", f"reward={reward}")
    return Objective(config.policy_optimisation, config.reward, N)


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def slow_advantages(returns: torch.Tensor, size: int, level: TreeLevel) -> torch.Tensor:
    """(R - mean) / (std + 1e-4) of the nodes of a level, by loops over prompts, nodes and columns."""
    found = torch.zeros_like(returns)
    for first in range(0, len(returns), size):
        values = {}
        for node in range(size // level.leaves):
            rows = range(first + node * level.leaves, first + (node + 1) * level.leaves)
            values[node] = sum(returns[row] for row in rows) / level.leaves
        for node, value in values.items():
            family = node // level.compared
            others = torch.stack([values[n] for n in values if n // level.compared == family])
            advantage = (value - others.mean(0)) / (others.std(0) + 1e-4)
            for leaf in range(level.leaves):
                found[first + node * level.leaves + leaf] = advantage
    return found


LEVELS = [TreeLevel(*one) for one in ((1, 8, 0), (4, 2, 0), (2, 4, 3), (2, 2, 3), (1, 2, 4))]


@pytest.mark.parametrize("algorithm", ["grpo", "rank_grpo"])
@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_advantages_of_a_level_by_loops(algorithm: str, level: TreeLevel) -> None:
    method, rollout = objective(algorithm), some_rollout(3, 8)
    returns = method.weighted(method.unit_returns(rollout.rewards, 8))
    found = method.unit_advantages(rollout, 8, level.leaves, level.compared)
    torch.testing.assert_close(found, slow_advantages(returns, 8, level))


@pytest.mark.parametrize("algorithm", ["grpo", "rank_grpo", "rs_grpo", "rloo"])
def test_with_one_answer_thoughts_have_the_advantages_of_grpo(algorithm: str) -> None:
    """GRPO-MA with M = 1 (variants, identity 3)."""
    method, rollout = objective(algorithm), some_rollout(3, 4)
    levels = levels_of(RolloutConfig("prefix", "prefix", options={"prefix": {"answers": 1, "ranks": 2}}), 4, N)
    plain = method.unit_advantages(rollout, 4)
    for level in levels:
        torch.testing.assert_close(method.unit_advantages(rollout, 4, level.leaves, level.compared), plain)


@pytest.mark.parametrize("algorithm", ["canon", "unlikely", "opo", "rapo_scale", "gopo", "max_rl"])
def test_every_baseline_takes_nodes(algorithm: str) -> None:
    found = objective(algorithm).unit_advantages(some_rollout(3, 8), 8, 2, 4)
    assert found.isfinite().all() and torch.equal(found[::2], found[1::2]) and found.abs().sum() > 0


def test_levels_of_a_tree() -> None:
    chosen = RolloutConfig("tree", "tree", options={"tree": {"branch": 2, "every": 2}})
    assert levels_of(chosen, 8, N) == (TreeLevel(4, 2, 0), TreeLevel(2, 2, 2), TreeLevel(1, 2, 4))
    chosen = RolloutConfig("prefix", "prefix", options={"prefix": {"answers": 4, "ranks": 3}})
    assert levels_of(chosen, 8, N) == (TreeLevel(4, 2, 0), TreeLevel(1, 8, 3))


def test_levels_of_tokens() -> None:
    """A preamble belongs to rank 1, a blank line to the rank before it, EOS to the rank that it replaces."""
    u = UnitLayout(N)
    rows = [
        [u.other, 0, 0, 1, u.other, 2, 3, u.overflow, u.eos],
        [0, 1, u.eos, u.padding, u.padding, u.padding, u.padding, u.padding, u.padding],
        [0, 1, 2, u.eos, u.padding, u.padding, u.padding, u.padding, u.padding],
    ]
    levels = (TreeLevel(4, 2, 0), TreeLevel(2, 2, 2), TreeLevel(1, 2, 3))
    found = level_of_tokens(torch.tensor(rows), N, levels)
    assert found[0].tolist() == [0, 0, 0, 0, 0, 1, 2, 2, 2]
    assert found[1, :3].tolist() == [0, 0, 1]
    assert found[2, :4].tolist() == [0, 0, 1, 2]


REFUSED = {
    "rollout=prefix trainer.rl.group_size=8 rollout.options.prefix.answers=3": "at least two prefixes of 3 answers",
    "rollout=prefix rollout.options.prefix.ranks=10": "must be less than dataset.list_length = 10",
    "rollout=tree rollout.options.tree.branch=3": "must be a power of it, such as 27",
    "rollout=tree rollout.options.tree.every=5": "would be behind rank 10",
    "rollout=tree generation.constraint=catalogue": "cannot be continued from its middle or edited",
    "rollout=modes trainer.rl.group_size=2": "an even trainer.rl.group_size",
    "rollout=expert +rollout.options.expert.source=endpoint": "expert.url is missing; give the URL of an endpoint",
    "rollout=expert +rollout.options.expert={source:endpoint,model:''}": "expert.model is missing",
    "rollout=expert +rollout.options.expert={source:endpoint,url:x,model:m}": "expert.url = x must be a URL such as",
    "rollout=expert +rollout.options.expert={source:truth,url:'http://a/v1'}": "source = truth asks no endpoint",
    "rollout=expert +rollout.options.expert={source:oracle,model:m,key_env:HOME}": "model = m and rollout.options",
    "rollout=expert +rollout.options.expert={source:endpoint,url:'http://a/v1'}": "model is missing",
    "rollout=expert +rollout.options.expert={source:endpoint,url:'http://a/v1',model:m,key_env:NO_SUCH}": "NO_SUCH",
    "rollout=expert +rollout.options.expert.source=oracle dataset=redial": "best lists of redial are unknown",
    "sampler=rapo rollout=tree": "members are drawn one by one",
    "sampler=mix": "shares is missing",
    "sampler=uniform sampler.make=hnt": "Did you mean 'hint'?",
    "rollout=tree +rollout.options.tree.brnch=3": "rollout.options.tree.brnch is unknown",
    "rollout.ranks=11": "rollout.ranks = 11 is more than dataset.list_length = 10",
    "sampler=dynamic sampler.rounds=1": "has no effect with sampler.rounds = 1",
    "sampler=pool sampler.rounds=3": "refuses no group",
    "sampler=dots sampler.replay=.5": "needs a buffer",
    "sampler=dots sampler.capacity=9": "no effect with sampler.replay = 0",
    "sampler.weigh=unifrom": "Did you mean 'uniform'?",
    "sampler=pool algorithm=dpo": "sampler = pool has no effect on algorithm=dpo",
    "algorithm=dpo trainer.rl.token_budget=5000": "draws all lists before its first update",
    "sampler=pool generation.prefill=repeated": "generation.prefill=shared",
}


@pytest.mark.parametrize("words", REFUSED)
def test_refusals(words: str) -> None:
    problems = check_config(composed(*words.split()))
    assert len(problems) == 1 and REFUSED[words] in problems[0]


def test_problems_of_all_sections_are_found_together() -> None:
    words = "algorithm=dpo sampler=dots rollout=tree schedule=siri_stair reward=rival reward.gamma=nan"
    found = "\n".join(check_config(composed(*words.split(), "algorithm.loss=logistc")))
    wanted = ("reward.gamma = nan", "reward.terms.reward_model", "sampler = dots has", "rollout = tree has")
    assert all(said in found for said in (*wanted, "schedule = siri_stair has no effect", "algorithm.loss")), found
    found = "\n".join(check_config(composed("sampler.weigh=unifrom", "reward.gamma=nan")))
    assert "reward.gamma = nan" in found and "Did you mean 'uniform'?" in found


class Editor:
    """A desk on which lists are numbers: N entries, of which those up to `relevant` are hits of prompt 0."""

    lines = {1: "a", 2: "b", 3: "c", 4: "d", 5: "e"}

    def __init__(self, drawn: list[list[int]], relevant: set[int]):
        self.drawn, self.relevant, self.number_of = drawn, relevant, {v: k for k, v in self.lines.items()}
        self.seed = 0

    def draw(self, starts: Sequence[Beginning], until: int | None) -> list[Member]:
        return [Member(self.drawn[place % len(self.drawn)]) for place in range(len(starts))]

    def read(self, prompt: int, members: Sequence[Member]) -> list[ReadList]:
        return [
            ReadList(
                [self.lines[i] for i in member.ids],
                [i in self.relevant for i in member.ids],
                [self.lines[i] for i in sorted(self.relevant - set(member.ids))],
            )
            for member in members
        ]

    def write(self, lines: Sequence[str]) -> Member:
        return Member([self.number_of[line] for line in lines])

    def totals(self, prompt: int, members: Sequence[Member]) -> list[float]:
        return [sum(i in self.relevant for i in member.ids[:1]) + len(member.ids) / 100 for member in members]

    def catalogue(self) -> Sequence[str]:
        return list(self.lines.values())

    def random(self, prompt: int) -> np.random.Generator:
        self.seed += 1
        return np.random.default_rng([self.seed, prompt])


def test_an_edit_is_one_of_three() -> None:
    """[1, 2] with 1 relevant and 3 missing: replace 2 by 3, delete 2, or add 3; with equal chances."""
    desk, found = Editor([[1, 2]], {1, 3}), Counter()
    for _ in range(300):
        ((_, _, *copies),) = edited(1, 4, desk)
        assert all(copy.edited for copy in copies)
        found.update(tuple(copy.ids) for copy in copies)
    assert set(found) == {(1, 3), (1,), (1, 2, 3)}
    assert chisquare(list(found.values())).pvalue > 0.01


def test_perfect_lists_are_not_edited() -> None:
    ((*drawn, a, b),) = edited(1, 4, Editor([[1, 3]], {1, 3}))
    assert [m.ids for m in drawn] == [a.ids, b.ids] and not (a.edited or b.edited)


def test_two_edits_correct_two_entries() -> None:
    """With two missing items and no wrong entry to delete, two edits add both."""
    ((_, _, a, _),) = edited(1, 4, Editor([[1]], {1, 2, 3}), edits=2)
    assert sorted(a.ids) == [1, 2, 3]


def test_middling_members_give_way_to_better_ones() -> None:
    """Only members between the lowest and the highest reward, and only for a higher reward."""
    desk = Editor([[4], [4, 1], [1, 4], [1, 4, 5]], {1})
    ((lowest, middle, high, highest),) = perturbed(1, 4, desk, tries=20, most=1)
    assert lowest.ids == [4] and high.ids == [1, 4] and highest.ids == [1, 4, 5]
    assert middle.edited and middle.ids[0] == 1
    ((_, same, _, _),) = perturbed(1, 4, Editor([[4], [4, 5], [1, 4], [1, 4, 5]], set()), tries=5, most=1)
    assert not same.edited or same.ids[0] != 4


class Adviser(Editor):
    """Its expert answers for every second prompt."""

    def advice(self, prompt: int) -> list[str]:
        return ["c", "a"] if prompt % 2 else []


@pytest.mark.parametrize("source", ["demonstration", "oracle", "endpoint"])
def test_groups_stay_as_they_are_without_an_answer(source: str) -> None:
    silent, answered = expert(2, 3, Adviser([[4, 5]], {1, 3}), source=source)
    assert [member.ids for member in silent] == [[4, 5]] * 3 and not any(member.edited for member in silent)
    assert [member.ids for member in answered] == [[4, 5], [4, 5], [3, 1]] and answered[2].edited


def test_the_expert_knows_the_truth() -> None:
    desk = Editor([[4, 5]], {1, 3})
    ((*others, last),) = expert(1, 3, desk)
    assert last.edited and last.ids == [1, 3] and all(other.ids == [4, 5] for other in others)
    asked = [expert(1, 2, desk, chance=0.25)[0][-1].edited for _ in range(400)]
    assert 60 < sum(asked) < 140
