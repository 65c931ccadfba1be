"""The pieces of the algebra against slow loops in float64, and the properties that each promises."""

from dataclasses import replace

import pytest
import torch

from rlbench.lists import UnitLayout
from rlbench.objective import LossInputs, Objective
from rlbench.objective.aggregation import Window
from rlbench.objective.baselines import BASELINES, group_std
from rlbench.objective.units import scatter_mean
from tests.conftest import composed

N, G, P, T = 4, 3, 2, 17
B = G * P


@pytest.fixture
def batch():
    """Random tensors of lists of N ranks: unit ids grow along a row and end in EOS and padding."""
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
    )


def window(inputs, accumulation=1):
    return Window(accumulation, inputs.mask.sum(), T)


def slow_loss(inputs, algorithm):
    """The loss as the papers write it, one completion, unit and token after the other."""
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
            clipped = min(max(w, 1 - algorithm.surrogate.low), 1 + algorithm.surrogate.high)
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
    algorithm = composed(
        "algorithm=rank_grpo", f"algorithm.ratio={ratio}", f"algorithm.aggregation={aggregation}"
    ).algorithm
    loss, _ = Objective(algorithm, 0.0, N).loss(batch, window(batch))
    assert loss.item() == pytest.approx(slow_loss(batch, algorithm), abs=1e-7)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("ratio", ["token", "rank", "sequence"])
def test_gradient_against_finite_differences(batch, ratio, aggregation):
    overrides = ["algorithm=rank_grpo", f"algorithm.ratio={ratio}", f"algorithm.aggregation={aggregation}"]
    objective = Objective(
        composed(*overrides, "algorithm.surrogate.low=10", "algorithm.surrogate.high=10").algorithm, 0.0, N
    )

    def loss(logps):
        return objective.loss(replace(batch, logps=logps), window(batch))[0]

    logps = batch.logps.clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (logps,), eps=1e-6, atol=1e-6)


def gradient(batch, *overrides, **changes):
    objective = Objective(composed(*overrides).algorithm, 0.0, N)
    logps = batch.logps.clone().requires_grad_()
    loss, _ = objective.loss(replace(batch, logps=logps, **changes), window(batch))
    loss.backward()
    return logps.grad


def test_on_policy_the_rank_ratio_under_token_mean_is_the_token_ratio(batch):
    """At mu = 1 the published Rank-GRPO is GRPO with per-rank advantages (facts 1.7)."""
    # The advantage of a rank is the same for all its tokens.
    advantages = torch.randn(B, UnitLayout(N).count, dtype=torch.float64).gather(1, batch.unit_ids) * batch.mask
    same = {"old_logps": batch.logps, "ref_logps": None, "advantages": advantages}
    by_token = gradient(batch, "algorithm.ratio=token", "algorithm.aggregation=token_mean", **same)
    by_rank = gradient(batch, "algorithm.ratio=rank", "algorithm.aggregation=token_mean", **same)
    torch.testing.assert_close(by_rank, by_token, atol=1e-12, rtol=0)
    per_rank = gradient(batch, "algorithm.ratio=rank", "algorithm.aggregation=rank_mean", **same)
    assert (per_rank - by_token).abs().max() > 1e-3  # with the paper's aggregation they differ


def test_on_policy_gspo_is_grpo(batch):
    advantages = torch.randn(B, 1, dtype=torch.float64).expand(B, T) * batch.mask
    same = {"old_logps": batch.logps, "ref_logps": None, "advantages": advantages}
    torch.testing.assert_close(
        gradient(batch, "algorithm=gspo", **same), gradient(batch, "algorithm=grpo", **same), atol=1e-12, rtol=0
    )


def test_every_rank_weighs_the_same_however_long(batch):
    """rank_mean: the gradients of a rank's tokens sum to the same for a long and a short title."""
    units = UnitLayout(N)
    ids = torch.tensor([[0, 0, 0, 0, 0, 1, 2, 2, units.eos]])
    ones = torch.ones(1, 9, dtype=torch.float64)
    inputs = LossInputs(-ones, -ones, None, ones, ids, ones)
    one = gradient(inputs, "algorithm=rank_grpo")[0]
    assert [one[ids[0] == k].sum().item() for k in range(3)] == pytest.approx([-1 / N] * 3)


def test_advantages_of_one_hit_in_eight():
    """The paper's numbers: one hit among G = 8 gives +2.474 and -0.353, two give +1.620 and -0.540."""
    one = group_std(torch.tensor([1.0, *[0.0] * 7]).view(1, 8, 1)).flatten()
    assert one[:2].tolist() == pytest.approx([2.474, -0.353], abs=1e-3)
    two = group_std(torch.tensor([1.0, 1.0, *[0.0] * 6]).view(1, 8, 1)).flatten()
    assert [two[0].item(), two[2].item()] == pytest.approx([1.620, -0.540], abs=1e-3)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_permute_with_the_group_and_keep_columns_apart(name):
    returns = torch.rand(P, 5, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = torch.tensor([3, 1, 4, 0, 2])
    advantages = BASELINES[name](returns)
    torch.testing.assert_close(BASELINES[name](returns[:, order]), advantages[:, order])
    changed = returns.clone()
    changed[:, :, 0] += torch.rand(P, 5, dtype=torch.float64)
    torch.testing.assert_close(BASELINES[name](changed)[:, :, 1:], advantages[:, :, 1:])
    torch.testing.assert_close(BASELINES[name](returns + 7.0), advantages)
    assert advantages.mean(1).abs().max() < 1e-12
    assert not BASELINES[name](torch.ones(P, 5, N)).any()  # no variance, no signal


def test_sequence_credit_reaches_every_token_and_rank_credit_only_its_own():
    units = UnitLayout(N)
    ids = torch.tensor([[units.other, 0, 0, 1, units.overflow, units.eos, units.padding]] * 2)
    n_entries = torch.tensor([2, 6])
    gains = torch.tensor([[1.0, 0, 0, 0], [0.0, 0, 0, 0]])
    grpo = Objective(composed("algorithm=grpo").algorithm, 0.0, N)
    of_list = grpo.unit_advantages(gains, 2)
    assert of_list.shape == (2, 1)
    tokens = grpo.token_advantages(of_list, ids, n_entries)
    assert (tokens[0, :-1] == of_list[0]).all() and tokens[0, -1] == 0
    rank = Objective(composed("algorithm=rank_grpo").algorithm, 0.0, N)
    of_rank = rank.unit_advantages(gains, 2)
    assert of_rank.shape == (2, N) and not of_rank[:, 1:].any()
    tokens = rank.token_advantages(of_rank, ids, n_entries)
    assert tokens[0].tolist() == pytest.approx([0, of_rank[0, 0].item(), of_rank[0, 0].item(), 0, -0.1, -0.1, 0])
    assert tokens[1, 5] == 0  # EOS of a list that is long enough


def test_eos_joins_the_last_rank_of_a_whole_list_only():
    units = UnitLayout(N)
    ids = torch.tensor([[0, 1, 2, 3, units.eos]] * 3)
    folded = Objective(composed("algorithm=rank_grpo").algorithm, 0.0, N).token_units(
        ids, torch.tensor([N, N - 1, N + 1])
    )
    assert folded[:, -1].tolist() == [N - 1, units.eos, units.eos]


def test_scatter_mean_leaves_masked_tokens_out():
    x = torch.tensor([[1.0, 3.0, 100.0, 5.0]])
    out = scatter_mean(x, torch.tensor([[0, 0, 0, 2]]), torch.tensor([[1, 1, 0, 1]]), 4)
    assert out.tolist() == [[2.0, 0.0, 5.0, 0.0]]
