"""Preference optimisation without a model: losses, tuples, rounds, the store, and refusals."""

import json
import math
from dataclasses import asdict
from itertools import product

import pytest
import torch

from rlbench.base.errors import BadInput
from rlbench.base.seeding import order, stream_seed
from rlbench.config.schema import ALGORITHMS, POLICY_OPTIMISATION
from rlbench.preference.losses import mean_negative_log_likelihood, softmax_dpo
from rlbench.preference.rounds import make_rounds, prompts_drawn
from rlbench.preference.store import Drawn, Preference, Store, preferences
from rlbench.preference.tuples import below, best_and_worst
from rlbench.running.checks import check_config
from rlbench.running.cli import check_overrides, groups, methods
from rlbench.runs.directory import locate
from rlbench.runs.identity import stage_config
from tests.conftest import composed

# Losses.


def slow_s_dpo(chosen: float, rejected: list[float], beta: float) -> float:
    """-log sigma(-log sum_l exp(beta (r_l - r_w))), as in the paper."""
    inner = -math.log(sum(math.exp(beta * (other - chosen)) for other in rejected))
    return -math.log(1 / (1 + math.exp(-inner)))


def slow_dpo(chosen: float, rejected: float, beta: float) -> float:
    return -math.log(1 / (1 + math.exp(-(beta * chosen - beta * rejected))))


@pytest.mark.parametrize(("negatives", "beta"), list(product((1, 2, 5), (0.1, 1.0))))
def test_the_loss_is_that_of_the_paper(negatives, beta):
    generator = torch.Generator().manual_seed(negatives)
    chosen = 4 * torch.randn(6, generator=generator, dtype=torch.float64)
    rejected = 4 * torch.randn(6, negatives, generator=generator, dtype=torch.float64)
    found = softmax_dpo(chosen, rejected, beta).tolist()
    tuples = zip(chosen.tolist(), rejected.tolist(), strict=True)
    assert found == pytest.approx([slow_s_dpo(w, row, beta) for w, row in tuples])
    if negatives == 1:
        pairs = zip(chosen.tolist(), rejected[:, 0].tolist(), strict=True)
        assert found == pytest.approx([slow_dpo(w, other, beta) for w, other in pairs])


def test_its_gradient():
    """With respect to r_l: beta times its share of 1 + sum exp, so hard negatives weigh more.

    For r_w: minus their sum.
    """
    chosen = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([[0.1, 2.0, -1.0]], dtype=torch.float64, requires_grad=True)
    softmax_dpo(chosen, rejected, 0.5).sum().backward()
    terms = [math.exp(0.5 * (other - 0.3)) for other in (0.1, 2.0, -1.0)]
    shares = [0.5 * term / (1 + sum(terms)) for term in terms]
    assert rejected.grad.tolist() == [pytest.approx(shares)] and shares[1] > shares[0] > shares[2]
    assert chosen.grad.item() == pytest.approx(-sum(shares))


def test_large_margins_stay_finite():
    ratios = torch.tensor([3000.0, -3000.0], dtype=torch.float64, requires_grad=True)
    loss = softmax_dpo(ratios, torch.zeros(2, 3), 1.0)
    assert loss.tolist() == pytest.approx([0.0, 3000 + math.log(3)])
    loss.sum().backward()
    assert ratios.grad.tolist() == pytest.approx([0.0, -1.0])


def test_a_list_counts_as_much_whatever_its_length():
    found = mean_negative_log_likelihood(torch.tensor([-6.0, -6.0]), torch.tensor([3, 2]))
    assert found.tolist() == [2.0, 3.0]


# Tuples.


def test_the_best_against_the_worst():
    assert best_and_worst([0.0, 2.0, 1.0, 3.0], 1, 1) == [(3, [0])]
    assert best_and_worst([0.0, 2.0, 1.0, 3.0], 1, 9) == [(3, [0]), (1, [2])]
    assert best_and_worst([0.0, 2.0, 1.0, 3.0], 3, 9) == [(3, [0, 2, 1])]
    assert best_and_worst([1.0, 1.0, 1.0], 1, 1) == []
    assert best_and_worst([0.0, 1.0, 1.0, 1.0], 2, 1) == []  # only one list has a lower score
    assert best_and_worst([0.0, 0.0, 1.0, 1.0], 1, 9) == [(2, [1]), (3, [0])]


def test_lists_below_a_demonstration():
    assert below(1.0, [2.0, 0.0, 1.0, 0.5, 0.0], 1, 2) == [[1], [3]]
    assert below(1.0, [2.0, 0.0, 1.0, 0.5, 0.0], 2, 9) == [[1, 3]]
    assert below(0.0, [0.0, 0.0], 1, 9) == []


@pytest.mark.parametrize(("negatives", "most"), list(product((1, 2, 3), (1, 2, 4))))
def test_the_chosen_list_is_always_worth_more(negatives, most):
    generator = torch.Generator().manual_seed(0)
    made = 0
    for _ in range(200):
        rewards = torch.randint(0, 3, (8,), generator=generator).double().tolist()
        for best, worst in best_and_worst(rewards, negatives, most):
            assert len(set(worst)) == negatives and all(rewards[best] > rewards[place] for place in worst)
        places = [p for best, worst in best_and_worst(rewards, negatives, most) for p in (best, *worst)]
        assert len(places) == len(set(places)) <= most * (1 + negatives)
        made += len(places)
    assert made > 200


# Rounds.


def rounds_of(*overrides):
    config = composed("algorithm=sprec", *overrides)
    assert not check_config(config)
    return make_rounds(config.algorithm, config.trainer.rl), config


def test_rounds_share_updates_and_prompts():
    rounds, config = rounds_of("algorithm.rounds=3", "trainer.rl.updates=100")
    assert [(one.first, one.preference, one.end) for one in rounds] == [(0, 11, 33), (33, 44, 66), (66, 77, 100)]
    assert [one.prompts for one in rounds] == [range(0, 133), range(133, 266), range(266, 400)]
    assert prompts_drawn(config.algorithm, config.trainer.rl) == 400  # 50 rollouts of 64 lists, 8 per prompt


def test_a_round_has_an_update_that_compares():
    rounds, _ = rounds_of("algorithm.rounds=99", "algorithm.sft_share=0.9", "trainer.rl.updates=4")
    assert [(one.first, one.preference, one.end) for one in rounds] == [(0, 0, 1), (1, 1, 2), (2, 2, 3), (3, 3, 4)]
    rounds, _ = rounds_of("algorithm.rounds=1", "algorithm.sft_share=0.9", "trainer.rl.updates=4")
    assert [(one.first, one.preference, one.end) for one in rounds] == [(0, 3, 4)]


@pytest.mark.parametrize("name", methods("preference"))
def test_the_budget_is_that_of_policy_optimisation(name):
    """Prompts and lists number the same as in GRPO with the same settings (tests/integration counts GRPO's)."""
    config = composed(f"algorithm={name}", "trainer.rl.updates=7", "trainer.rl.num_iterations=2")
    rounds = make_rounds(config.algorithm, config.trainer.rl)
    assert sum(len(one.prompts) for one in rounds) == 4 * 64 // 8 and rounds[-1].end == 7


# The store.


def row(number: int) -> Preference:
    return Preference(f"c{number}", [1, 2], [3, number], [[4], [5, 6]], 2.0, [1.0, 0.5])


def test_what_is_written_is_read(tmp_path):
    store = Store(tmp_path)
    store.write(0, 0, [row(1)], Drawn(2, 16, 30, 1, {"hits": 4.0}))
    store.write(0, 1, [row(2), row(3)], Drawn(2, 16, 20, 0, {"hits": 12.0}))
    store.write(0, 2, [], Drawn(1, 8, 5, 1, {"hits": 0.0}))
    table, drawn = store.read(0, 3)
    assert preferences(table, [2, 0]) == [row(3), row(1)] and len(table) == 3
    assert row(3).lists == [[3, 3], [4], [5, 6]]
    assert (drawn.prompts, drawn.completions, drawn.generated_tokens, drawn.without_tuple) == (5, 40, 55, 2)
    assert drawn.means() == {"hits": 0.4}
    store.write_reference(0, 0, [[[-1.5, -2.0], [-1.0]]])
    assert store.read_reference(0, 1)["logps"].to_pylist() == [[[-1.5, -2.0], [-1.0]]]


def test_what_later_policies_made_is_dropped(tmp_path):
    rounds, _ = rounds_of("algorithm.rounds=2", "trainer.rl.updates=100")  # boundaries: 0, 17, 50, 67, 100
    assert [(one.first, one.preference) for one in rounds] == [(0, 17), (50, 67)]

    def left(update):
        store = Store(tmp_path / str(update))
        for number in (0, 1):
            store.write(number, 0, [row(number)], Drawn(1))
            store.write_reference(number, 0, [])
        store.rewind(rounds, update)
        return sorted(f"{path.parent.name[-1]}{path.name[0]}" for path in store.folder.rglob("*.parquet"))

    assert left(0) == left(16) == ["0p"]
    assert left(17) == left(49) == ["0p", "0r"]
    assert left(50) == left(66) == ["0p", "0r", "1p"]
    assert left(67) == ["0p", "0r", "1p", "1r"]


def test_streams_are_apart():
    seeds = {stream_seed(seed, kind, one) for seed in range(5) for kind in range(3) for one in range(5)}
    assert len(seeds) == 75 and all(0 <= seed < 2**63 for seed in seeds)
    assert sorted(order(9, 1, 2)) == list(range(9)) and order(9, 1, 2) == order(9, 1, 2) != order(9, 1, 3)


# Configuration.


def test_families():
    assert {"dpo", "s_dpo", "sprec"} <= set(methods("preference"))
    assert sorted([*methods("preference"), *methods(POLICY_OPTIMISATION)]) == groups()["algorithm"]
    assert set(ALGORITHMS) == {POLICY_OPTIMISATION, "preference"}


def test_other_families_keep_their_hashes():
    """A config without `family` hashes as it did before families existed."""
    assert "family" not in asdict(composed("algorithm=grpo").algorithm)
    identity = stage_config(composed("algorithm=dpo"), "rl")["algorithm"]
    assert identity["family"] == "preference" and json.dumps(identity)
    config = composed("algorithm=s_dpo")
    assert config.label == "s_dpo-relevance" and locate(config, "sft") == locate(composed("algorithm=grpo"), "sft")


@pytest.mark.parametrize("name", methods("preference"))
def test_shipped_configs_are_sound(name):
    assert check_config(composed(f"algorithm={name}")) == []


def problem(*overrides) -> str:
    found = check_config(composed("algorithm=dpo", *overrides))
    assert len(found) == 1, found
    return found[0]


def test_what_is_refused():
    assert "did you mean 'sampled'" in problem("algorithm.chosen=sample").lower()
    for key in ("negatives", "tuples_per_prompt", "prompts", "rounds"):
        assert problem(f"algorithm.{key}=0").startswith(f"algorithm.{key} = 0 must be at least 1")
    assert "must be a positive number" in problem("algorithm.beta=0")
    assert "algorithm.sft_share = 1.0 must lie in [0, 1)" in problem("algorithm.sft_share=1")
    assert "gives too few lists per prompt for a tuple" in problem("algorithm.negatives=7", "trainer.rl.group_size=4")
    uneven = check_config(composed("algorithm=dpo", "algorithm.negatives=2"))
    assert len(uneven) == 2 and all("not a multiple of the 3 lists of a tuple" in p and "use 66" in p for p in uneven)
    assert "samples its lists with plain generate" in problem("generation=continuous")
    assert "orders lists by the sum of their terms" in problem("reward=guarded_gdpo")
    assert "scaled_by" in problem("reward=alp")


def test_settings_of_the_other_family_are_named():
    for name, key, owner in [("dpo", "ratio", "policy_optimisation"), ("grpo", "beta", "preference")]:
        with pytest.raises(BadInput) as error:
            check_overrides([f"algorithm={name}", f"algorithm.{key}=1"])
        assert len(error.value.problems) == 1
        assert f"algorithm.{key} is a setting of the {owner} family" in error.value.problems[0]
        with pytest.raises(BadInput, match=rf"algorithm\.{key} is a setting of the {owner} family"):
            composed(f"algorithm={name}", f"++algorithm.{key}=1")


def test_in_a_sweep_of_both_families_too():
    for swept in ("grpo,dpo,sprec", "dpo,grpo"):
        with pytest.raises(BadInput, match="algorithm.ratio is a setting of the policy_optimisation family") as error:
            check_overrides(["-m", f"algorithm={swept}", "algorithm.ratio=token"])
        assert len(error.value.problems) == 1
    check_overrides(["-m", "algorithm=grpo,gspo", "algorithm.ratio=token"])
    check_overrides(["-m", "algorithm=dpo,s_dpo", "algorithm.beta=0.1"])
