"""The pieces of the objective against slow loops in float64, and the properties that each promises."""

from dataclasses import replace

import pytest
import torch

from rlbench.lists.reader import TokenUnits, UnitLayout
from rlbench.objective import LossInputs, Objective
from rlbench.objective.inputs import Window
from rlbench.objective.objective import Rollout
from rlbench.objective.units import scatter_mean
from rlbench.rewards.batch import FEATURES, RewardBatch
from tests.conftest import composed

N, G, P, T = 4, 3, 2, 17
B = G * P


@pytest.fixture
def batch():
    """Random tensors for lists of N ranks. Unit ids grow along a row and end in EOS and padding."""
    generator = torch.Generator().manual_seed(3)
    units = UnitLayout(N)
    unit_ids, mask = torch.full((B, T), units.padding), torch.zeros(B, T)
    for row in range(B):
        length = 9 + row
        unit_ids[row, :length] = (torch.arange(length) * (N + 1) // length).clamp(max=units.overflow)
        unit_ids[row, 0] = units.other if row % 2 else 0
        unit_ids[row, length] = units.eos
        mask[row, : length + 1] = 1
    noise = [torch.randn(B, T, generator=generator, dtype=torch.float64) * 0.3 for _ in range(4)]
    return LossInputs(
        logps=-1 + noise[0],
        old_logps=-1 + noise[1],
        ref_logps=-1 + noise[2],
        advantages=noise[3] * 3 * mask,
        unit_ids=unit_ids,
        mask=mask,
        units=units,
    )


def objective(*overrides):
    """Return the objective of a command line, for lists of N ranks."""
    config = composed(*overrides)
    return Objective(config.algorithm, config.reward, N)


def rewards(gains, present=None, scores=None, success=None):
    """Return a batch of rewards from gains (B, N) of one term, or (B, M, N) of several."""
    gains = gains.unsqueeze(1) if gains.dim() == 2 else gains
    scores = torch.zeros(gains.shape[:2], dtype=gains.dtype) if scores is None else scores
    present = torch.ones(len(gains), gains.size(2), dtype=torch.bool) if present is None else present
    success = gains.sum((1, 2)) > 0 if success is None else success
    return RewardBatch(
        gains,
        scores,
        hits=gains[:, 0],
        n_truth=torch.full((len(gains),), 3),
        present=present,
        totals=gains.sum((1, 2)) + scores.sum(1),
        success=success,
        features=torch.zeros(len(gains), len(FEATURES)),
    )


def rollout(of_rewards):
    """Return a rollout of lists with one token per unit."""
    count, b = UnitLayout(N).count, len(of_rewards.gains)
    return Rollout(of_rewards, torch.ones(b, count), torch.zeros(b, count), torch.zeros(b), 0.0)


def window(inputs, accumulation=1):
    return Window(accumulation, inputs.mask.sum(), T)


def slow_loss(inputs, algorithm):
    """The loss as in the papers, one completion, unit and token at a time."""
    total, n_tokens = 0.0, int(inputs.mask.sum())
    for i in range(B):
        length = int(inputs.mask[i].sum())
        tokens = range(length)
        log_ratio = [(inputs.logps[i, t] - inputs.old_logps[i, t]).item() for t in tokens]
        unit = [int(inputs.unit_ids[i, t]) for t in tokens]
        losses = []
        for t in tokens:
            if algorithm.ratio == "token":
                members = [t]
            elif algorithm.ratio == "sequence":
                members = list(tokens)
            else:
                members = [s for s in tokens if unit[s] == unit[t]]
            w = torch.tensor(sum(log_ratio[s] for s in members) / len(members)).exp().item()
            a = inputs.advantages[i, t].item()
            clipped = min(max(w, 1 - algorithm.options["clip"]["low"]), 1 + algorithm.options["clip"]["high"])
            d = (inputs.ref_logps[i, t] - inputs.logps[i, t]).item()
            kl = torch.tensor(d, dtype=torch.float64).exp().item() - d - 1
            losses.append(-min(w * a, clipped * a) + algorithm.kl.beta * kl)
        if algorithm.aggregation == "sequence_mean":
            total += sum(losses) / length / B
        elif algorithm.aggregation in ("token_mean", "global_token_mean"):
            total += sum(losses) / n_tokens
        elif algorithm.aggregation == "constant":
            total += sum(losses) / (B * T)
        else:
            for k in set(unit):
                members = [losses[t] for t in tokens if unit[t] == k]
                total += sum(members) / len(members) / (B * N)
    return total


AGGREGATIONS = ["rank_mean", "sequence_mean", "token_mean", "global_token_mean", "constant"]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("ratio", ["token", "rank", "sequence"])
def test_loss_against_the_loop(batch, ratio, aggregation):
    chosen = objective("algorithm=rank_grpo", f"algorithm.ratio={ratio}", f"algorithm.aggregation={aggregation}")
    loss, _ = chosen.loss(batch, window(batch))
    assert loss.item() == pytest.approx(slow_loss(batch, chosen.algorithm), abs=1e-7)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("ratio", ["token", "rank", "sequence"])
def test_gradient_against_finite_differences(batch, ratio, aggregation):
    overrides = ["algorithm=rank_grpo", f"algorithm.ratio={ratio}", f"algorithm.aggregation={aggregation}"]
    chosen = objective(*overrides, "algorithm.options.clip.low=10", "algorithm.options.clip.high=10")

    def loss(logps):
        return chosen.loss(replace(batch, logps=logps), window(batch))[0]

    logps = batch.logps.clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (logps,), eps=1e-6, atol=1e-6)


def gradient(batch, *overrides, **changes):
    logps = batch.logps.clone().requires_grad_()
    loss, _ = objective(*overrides).loss(replace(batch, logps=logps, **changes), window(batch))
    loss.backward()
    return logps.grad


def test_on_policy_the_rank_ratio_under_token_mean_is_the_token_ratio(batch):
    """At mu = 1 the published Rank-GRPO is GRPO with per-rank advantages (facts 1.7)."""
    # All tokens of a rank have the same advantage.
    advantages = torch.randn(B, UnitLayout(N).count, dtype=torch.float64).gather(1, batch.unit_ids) * batch.mask
    same = {"old_logps": batch.logps, "ref_logps": None, "advantages": advantages}
    by_token = gradient(batch, "algorithm.ratio=token", "algorithm.aggregation=token_mean", **same)
    by_rank = gradient(batch, "algorithm.ratio=rank", "algorithm.aggregation=token_mean", **same)
    torch.testing.assert_close(by_rank, by_token, atol=1e-12, rtol=0)
    per_rank = gradient(batch, "algorithm.ratio=rank", "algorithm.aggregation=rank_mean", **same)
    assert (per_rank - by_token).abs().max() > 1e-3  # they differ under the paper's aggregation


def test_on_policy_gspo_is_grpo(batch):
    advantages = torch.randn(B, 1, dtype=torch.float64).expand(B, T) * batch.mask
    same = {"old_logps": batch.logps, "ref_logps": None, "advantages": advantages}
    torch.testing.assert_close(
        gradient(batch, "algorithm=gspo", **same), gradient(batch, "algorithm=grpo", **same), atol=1e-12, rtol=0
    )


def test_every_rank_weighs_the_same_however_long(batch):
    """Under rank_mean, the gradients of a rank's tokens have the same sum for a long and a short title."""
    units = UnitLayout(N)
    ids = torch.tensor([[0, 0, 0, 0, 0, 1, 2, 2, units.eos]])
    ones = torch.ones(1, 9, dtype=torch.float64)
    inputs = LossInputs(-ones, -ones, None, ones, ids, ones, units)
    one = gradient(inputs, "algorithm=rank_grpo")[0]
    assert [one[ids[0] == k].sum().item() for k in range(3)] == pytest.approx([-1 / N] * 3)


def test_advantages_of_one_hit_in_eight():
    """The paper's numbers for G = 8: one hit gives +2.474 and -0.353, two hits give +1.620 and -0.540."""
    for hits, wanted in ((1, [2.474, -0.353]), (2, [1.620, -0.540])):
        gains = torch.zeros(8, N)
        gains[:hits, 1] = 1.0
        found = objective("algorithm=rank_grpo").unit_advantages(rollout(rewards(gains)), 8)
        assert [found[0, 1].item(), found[-1, 1].item()] == pytest.approx(wanted, abs=1e-3)
        assert not found[:, [0, 2, 3]].any()


def units_of(ids, n_units):
    units = UnitLayout(N)
    ids = torch.tensor(ids)
    return TokenUnits(ids, ids == units.eos, torch.tensor(n_units))


def on_tokens(of_algorithm, advantages, tokens):
    """Convert advantages of credited units to advantages of tokens."""
    units = of_algorithm.token_units(tokens)
    return of_algorithm.token_advantages(of_algorithm.spread_advantages(advantages, units.n_units), units)


def test_sequence_credit_reaches_every_token_and_rank_credit_only_its_own():
    units = UnitLayout(N)
    tokens = units_of([[units.other, 0, 0, 1, units.overflow, units.eos, units.padding]] * 2, [2, 6])
    gains = torch.tensor([[1.0, 0, 0, 0], [0.0, 0, 0, 0]])
    grpo = objective("algorithm=grpo")
    of_list = grpo.unit_advantages(rollout(rewards(gains)), 2)
    assert of_list.shape == (2, 1)
    spread = on_tokens(grpo, of_list, tokens)
    assert (spread[0, :-1] == of_list[0]).all() and spread[0, -1] == 0
    rank = objective("algorithm=rank_grpo")
    of_rank = rank.unit_advantages(rollout(rewards(gains)), 2)
    assert of_rank.shape == (2, N) and not of_rank[:, 1:].any()
    spread = on_tokens(rank, of_rank, tokens)
    assert spread[0].tolist() == pytest.approx([0, of_rank[0, 0].item(), of_rank[0, 0].item(), 0, -0.1, -0.1, 0])
    assert spread[1, 5] == 0  # EOS of a list with enough films


def test_eos_joins_the_last_rank_of_a_whole_list_only():
    eos = UnitLayout(N).eos
    folded = objective("algorithm=rank_grpo").token_units(units_of([[0, 1, 2, 3, eos]] * 3, [N, N - 1, N + 1]))
    assert folded.unit_ids[:, -1].tolist() == [N - 1, eos, eos]


PUBLISHED = ["algorithm=rank_grpo", "algorithm.length_shaping={rule:published,early_stop:-0.1,overflow:-0.2,exact:0.3}"]
"""Three different numbers, so that the test can distinguish them."""


def test_length_shaping_of_the_published_code():
    """Facts 1.6: EOS has its own advantage, and all tokens past rank N, including EOS, have the overflow advantage."""
    units = UnitLayout(N)
    rule = objective(*PUBLISHED)
    tokens = units_of([[0, 1, 2, 3, units.eos]] * 3, [N, N - 1, N + 1])
    spread = on_tokens(rule, torch.full((3, N), 5.0), tokens)
    assert spread[:, -1].tolist() == pytest.approx([0.3, -0.1, -0.2])
    assert (rule.token_units(tokens).unit_ids[:, -1] == units.eos).all()
    # Under the published layout, EOS is in the unit of its line and keeps its own advantage.
    lines = TokenUnits(torch.tensor([[0, 1, 2, 3, 3]]), torch.tensor([[False] * 4 + [True]]), torch.tensor([N]))
    assert rule.token_units(lines).unit_ids[0].tolist() == [0, 1, 2, 3, 3]
    assert on_tokens(rule, torch.full((1, N), 5.0), lines)[0].tolist() == pytest.approx([5, 5, 5, 5, 0.3])


def test_without_length_shaping_special_units_have_no_advantage():
    units = UnitLayout(N)
    plain = objective(
        "algorithm=rank_grpo", "algorithm.length_shaping={rule:none,early_stop:0.0,overflow:0.0,exact:0.0}"
    )
    tokens = units_of([[units.other, 0, units.overflow, units.eos]], [2])
    assert on_tokens(plain, torch.full((1, N), 5.0), tokens)[0].tolist() == [0, 5, 0, 0]


def test_missing_ranks_count_as_nothing_or_not_at_all():
    gains = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 0]])
    present = torch.tensor([[True] * 4, [True, False, False, False], [True, True, False, False], [True] * 4])
    zero = objective("algorithm=rank_grpo", "algorithm.baseline=group_mean")
    excluded = objective("algorithm=rank_grpo", "algorithm.baseline=group_mean", "algorithm.missing_rank=excluded")
    batch = rewards(gains, present)
    assert zero.unit_advantages(rollout(batch), 4)[:, 1].tolist() == pytest.approx([0.75, -0.25, -0.25, -0.25])
    assert excluded.unit_advantages(rollout(batch), 4)[:, 1].tolist() == pytest.approx([2 / 3, 0, -1 / 3, -1 / 3])
    torch.testing.assert_close(
        zero.unit_advantages(rollout(batch), 4)[:, 0], excluded.unit_advantages(rollout(batch), 4)[:, 0]
    )
    # Sequence credit does not depend on ranks.
    lists = [objective("algorithm=grpo", f"algorithm.missing_rank={rule}") for rule in ("zero", "excluded")]
    assert torch.equal(*(one.unit_advantages(rollout(batch), 4) for one in lists))


def test_what_ranks_are_worth_is_the_same_under_every_credit():
    gains = torch.tensor([[1.0, 0.5, 0, 0.25], [0, 0, 0, 0]])
    batch = rewards(gains)
    for algorithm in ("grpo", "rank_grpo", "gspo"):
        of = objective(f"algorithm={algorithm}", "reward=log_decay")
        assert of.rank_returns(batch, 2).tolist() == [[1.75, 0.75, 0.25, 0.25], [0.0] * N]
    own = objective("algorithm=grpo").rank_returns(batch, 2)
    assert torch.equal(own, gains.to(own))


def test_a_term_that_scores_lists_counts_for_every_rank():
    gains, scores = torch.zeros(2, 1, N), torch.tensor([[3.0], [0.0]])
    batch = rewards(gains, scores=scores)
    assert objective("algorithm=rank_grpo").unit_returns(batch, 2)[:, 0].tolist() == [[3.0] * N, [0.0] * N]
    assert objective("algorithm=grpo").unit_returns(batch, 2)[:, 0].tolist() == [[3.0], [0.0]]


def test_scatter_mean_leaves_masked_tokens_out():
    x = torch.tensor([[1.0, 3.0, 100.0, 5.0]])
    out = scatter_mean(x, torch.tensor([[0, 0, 0, 2]]), torch.tensor([[1, 1, 0, 1]]), 4)
    assert out.tolist() == [[2.0, 0.0, 5.0, 0.0]]


def test_lists_that_are_worth_the_same_in_different_ways_are_equal():
    """Recall of 3 hits at different ranks: adding in another order must not create an advantage."""
    generator = torch.Generator().manual_seed(0)
    n, lists = 20, 8
    chosen = objective("algorithm=grpo", "reward=recall")
    for _ in range(50):
        hits = torch.zeros(lists, n, dtype=torch.float64)
        for row in range(lists):
            hits[row, torch.randperm(n, generator=generator)[:3]] = 1.0
        batch = rewards(hits / 7)
        found = chosen.unit_advantages(
            Rollout(batch, torch.ones(lists, n + 4), torch.zeros(lists, n + 4), torch.zeros(lists), 0.0), lists
        )
        assert found.dtype == torch.float32 and not found.any()


@pytest.mark.parametrize("reward", ["relevance", "guarded_gdpo", "power_mean"])
def test_advantages_have_the_dtype_of_the_model(reward):
    chosen = objective("algorithm=rank_grpo", f"reward={reward}")
    terms = len(chosen.reward.terms)
    gains = torch.rand(4, terms, N, dtype=torch.float64)
    assert chosen.unit_advantages(rollout(rewards(gains)), 2).dtype == torch.float32


def test_the_token_limit_and_not_the_batch_divides_under_constant_aggregation(batch):
    chosen = objective("algorithm=dr_grpo")
    loss = chosen.loss(batch, window(batch))[0]
    longer = chosen.loss(batch, Window(1, batch.mask.sum(), 4 * T))[0]
    assert longer.item() == pytest.approx(loss.item() / 4)


def test_a_kl_scaled_by_difficulty_by_hand(batch):
    """The factor scales each completion's KL, and not the surrogate."""
    chosen = objective("algorithm=grpo", "algorithm.kl.beta=0.5", "algorithm.kl.importance_weighted=false")
    scales = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0, 4.0])

    def of(scale):
        return chosen.loss(replace(batch, extras={"kl_scale": scale}), window(batch))[0].item()

    none, of_each = of(torch.zeros(B)), [of(torch.eye(B)[row]) for row in range(B)]
    wanted = none + sum(scale * (kl - none) for scale, kl in zip(scales.tolist(), of_each, strict=True))
    assert of(scales) == pytest.approx(wanted, abs=1e-9) and of(torch.ones(B)) != pytest.approx(none)
    assert chosen.loss(batch, window(batch))[0].item() == pytest.approx(of(torch.ones(B)), abs=1e-9)


def test_a_regulariser_counts_once_an_update(batch):
    """Its weight does not grow with the number of micro-batches in an update."""
    chosen = objective("algorithm=grpo", "+algorithm.regularisers.entropy_bonus=0.1")
    extras = {"entropy": torch.rand(B, T, dtype=torch.float64) * batch.mask}
    given = replace(batch, extras=extras)
    one, four = (chosen.loss(given, window(batch, steps))[0].item() for steps in (1, 4))
    assert four == pytest.approx(one / 4, abs=1e-12)
    term = -(extras["entropy"].sum() / batch.mask.sum()).item()
    without = objective("algorithm=grpo").loss(batch, window(batch))[0].item()
    assert one == pytest.approx(without + 0.1 * term, abs=1e-7)


def test_only_terms_that_ask_for_it_are_scaled_by_the_solve_rate():
    chosen = objective("algorithm=grpo")
    chosen.reward.terms = {
        "relevance": {"weight": 1.0},
        "tokens": {"weight": -1.0, "normaliser": 10.0, "scaled_by": "solve_rate"},
    }
    gains = torch.zeros(B, 2, N, dtype=torch.float64)
    gains[0, 0, 0] = gains[1, 0, 1] = 1.0
    scores = torch.stack([torch.zeros(B), torch.arange(B, dtype=torch.float64)], dim=1).double()
    success = torch.tensor([True, True, False, False, False, False])
    returns = chosen.unit_returns(rewards(gains, scores=scores, success=success), G)[:, :, 0]
    assert returns[:, 0].tolist() == [1, 1, 0, 0, 0, 0]
    rates = [2 / 3] * G + [1 / 3] * G  # an unsolved prompt counts as one success in G
    assert returns[:, 1].tolist() == pytest.approx([rate * row for row, rate in enumerate(rates)])
