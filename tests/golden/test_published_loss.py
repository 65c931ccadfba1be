"""The published trainer's loss is reproduced to 1e-9: value, gradient, KL and clip shares of every case."""

import json

import pytest
import torch

from rlbench.lists.reader import UnitLayout
from rlbench.objective import LossInputs, Objective, Window
from tests.conftest import composed
from tests.golden.figures import golden_folder

TOLERANCE = 1e-9
AGGREGATIONS = {"bnpo": "token_mean", "grpo": "sequence_mean", "dr_grpo": "constant"}
CASES = json.loads((golden_folder() / "published_loss.json").read_text(encoding="utf-8"))["cases"]


def algorithm_of(case):
    """The case as a config with our pieces."""
    bounds = f"low:{case['eps_low']},high:{case['eps_high']}"
    surrogate = "clip" if case["delta"] is None else "clip_delta"
    delta = "" if case["delta"] is None else f",delta:{case['delta']}"
    return composed(
        "algorithm=rank_grpo_published",
        f"algorithm.ratio={case['ratio_level']}",
        f"algorithm.surrogate={surrogate}",
        f"++algorithm.options.{surrogate}={{{bounds}{delta}}}",
        f"algorithm.aggregation={AGGREGATIONS[case['loss_type']]}",
        f"algorithm.kl.beta={case['beta']}",
    )


def tensors_of(case):
    """The case's tensors in float64. As in the published code, all tokens past rank N form one overflow unit."""
    units = UnitLayout(case["list_length"])
    mask = torch.tensor(case["completion_mask"])
    rank_ids = torch.tensor(case["rank_ids"])
    unit_ids = rank_ids.clamp(0, units.overflow).masked_fill(mask == 0, units.padding)
    advantages = torch.tensor(case["advantages"], dtype=torch.float64)
    advantages = advantages if advantages.dim() == 2 else advantages[:, None].expand(mask.shape)
    logps, old_logps, ref_logps = (
        torch.tensor(case[name], dtype=torch.float64) for name in ("logps", "old_logps", "ref_logps")
    )
    inputs = LossInputs(logps.requires_grad_(), old_logps, ref_logps, advantages * mask, unit_ids, mask, units)
    return inputs, Window(1, mask.sum(), case["max_completion_length"])


def clip_shares(config, inputs):
    """Clip shares as the published code counts them: over completions for a sequence ratio, else over tokens. A
    negative advantage that delta stops does not count."""
    objective = Objective(config.algorithm, config.reward, inputs.units.list_length)
    surrogate = objective.surrogate(inputs, objective.ratio(inputs))
    at_high = surrogate.at_high & (inputs.advantages > 0)
    if config.algorithm.ratio == "sequence":
        return [(at & inputs.mask.bool()).any(1).double().mean() for at in (surrogate.at_low, at_high)]
    return [(at & inputs.mask.bool()).sum().double() / inputs.mask.sum() for at in (surrogate.at_low, at_high)]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_case(number):
    case = CASES[number]
    config = algorithm_of(case)
    inputs, window = tensors_of(case)
    loss, stats = Objective(config.algorithm, config.reward, case["list_length"]).loss(inputs, window)
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], abs=TOLERANCE)
    wanted = torch.tensor(case["grad"], dtype=torch.float64)
    torch.testing.assert_close(inputs.logps.grad, wanted, atol=TOLERANCE, rtol=0)
    assert wanted.abs().max() > 1e-4
    if case["beta"]:
        assert stats["kl"].item() == pytest.approx(case["metrics"]["kl"], abs=TOLERANCE)
    for side, share in zip(("low", "high"), clip_shares(config, inputs), strict=True):
        # The published code counts in float32.
        assert share.item() == pytest.approx(case["metrics"][f"clip_ratio/{side}_mean"], abs=1e-7)
