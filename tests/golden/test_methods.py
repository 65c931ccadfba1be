"""Every method of `conf/algorithm` against `tests.golden.methods`, from hits to the gradient."""

import functools
import json
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from rlbench.config.schema import POLICY_OPTIMISATION, AlgorithmConfig, RewardConfig
from rlbench.lists.reader import LAYOUTS, TokenUnits
from rlbench.objective import LossInputs, Objective, Window
from rlbench.objective.effective_rank import rank_features
from rlbench.objective.inputs import Course
from rlbench.objective.objective import Rollout, RolloutTokens
from rlbench.objective.pieces import PLACES
from rlbench.rewards.batch import FEATURES, RewardBatch
from rlbench.rewards.terms import TERMS
from rlbench.running.cli import CONF, methods
from tests.conftest import composed
from tests.golden.methods import (
    ANCHOR,
    DISCRIMINATOR,
    FILE,
    L_MAX,
    METHODS,
    STEP,
    TOKENS,
    USUAL,
    VALUES,
    Batch,
    G,
    N,
    drawn,
    row,
)

NAMES = methods(POLICY_OPTIMISATION)
GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))
SAME = {("gspo", "gspo_token"): "one advantage a list: the tokens' gradients sum to the same (arXiv 2507.18071, 4.3)"}
"""Methods that coincide on these lists."""
OF_SHORT_LISTS = {"cmdp": ["options.kl_budget.budget=1.0"]}
"""Numbers for lists as short as these, in place of a method's own."""


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@functools.cache
def reward() -> RewardConfig:
    """Returns are log-decay: the list's is DCG@N, a rank's is the sum from that rank on."""
    return composed("reward=log_decay").reward


@functools.cache
def objective(name: str, *overrides: str) -> Objective:
    """A method of `conf/algorithm` with changes such as `options.clip.low=0.1`."""
    changes = OmegaConf.from_dotlist([*OF_SHORT_LISTS.get(name, []), *overrides])
    parts = OmegaConf.load(CONF / "algorithm" / f"{name}.yaml"), changes
    algorithm = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(AlgorithmConfig), *parts))
    return Objective(algorithm, reward(), N)


def padded(rows, fill=0) -> torch.Tensor:
    """(B, T)."""
    width = max(map(len, rows))
    dtype = torch.float64 if isinstance(fill, float) else torch.long
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=dtype)


@dataclass
class Case:
    """An objective, and plain lists in its form."""

    objective: Objective
    batch: Batch

    @cached_property
    def mask(self) -> torch.Tensor:
        return padded([[1] * len(self.batch.tokens(i)) for i in self.batch.lists])

    @cached_property
    def units(self) -> TokenUnits:
        b, mask, units = self.batch, self.mask, self.objective.units
        is_eos = padded([[letter == "." for letter in b.letters(i)] for i in b.lists]).bool()
        line = padded([b.lines(i) for i in b.lists])
        layout = LAYOUTS[self.objective.algorithm.layout]
        unit_ids, n_units = layout(line, is_eos, mask, [b.entry_lines(i) for i in b.lists], units)
        return self.objective.token_units(TokenUnits(unit_ids.masked_fill(mask == 0, units.padding), is_eos, n_units))

    @cached_property
    def rewards(self) -> RewardBatch:
        b = self.batch
        hits = np.array([[b.rel(i, k) for k in range(1, N + 1)] for i in b.lists], dtype=np.float64)
        judged = SimpleNamespace(hits=hits, gains=hits, verdicts=hits)
        gains = [torch.from_numpy(TERMS[name].function(judged, None)) for name in self.objective.reward.terms]
        entries = [len(b.entries(i)) for i in b.lists]
        sizes = [float(len(b.tokens(i))) for i in b.lists]
        known = {"tokens": torch.tensor(sizes), "entries": torch.tensor(entries, dtype=torch.float64)}
        nothing = torch.zeros(len(hits))
        return RewardBatch(
            gains=torch.stack(gains, dim=1),
            scores=torch.zeros(len(hits), len(gains)),
            hits=torch.from_numpy(hits),
            n_truth=torch.tensor(b.n_truth),
            present=torch.tensor([[k < n for k in range(N)] for n in entries]),
            totals=torch.stack(gains, dim=1).sum((1, 2)),
            success=torch.tensor([b.solved(i) for i in b.lists]),
            features=torch.stack([known.get(name, nothing) for name in FEATURES], dim=1),
        )

    def unit_advantages(self) -> torch.Tensor:
        """(B, C)."""
        b, units, unit_ids = self.batch, self.objective.units, self.units.unit_ids
        nowhere = (0.0, 0.0)
        width = unit_ids.size(1)
        states = torch.tensor([[*row, *[nowhere] * (width - len(row))] for row in b.states])
        rollout = Rollout.of_tokens(
            self.rewards,
            RolloutTokens(
                unit_ids,
                self.mask,
                padded(b.old, 0.0),
                padded(b.old_entropy, 0.0),
                padded(b.square_sums, 0.0),
                padded(b.old, 0.0) - padded(b.ref, 0.0),
            ),
            units.count,
            hidden=rank_features(states, unit_ids, units)
            | {"mode": torch.tensor([float("t" in text) for text in b.texts])},
            course=Course(
                carried={
                    f"effective_rank/{part}{name}": usual for name, usual in USUAL.items() for part in ("", "last/")
                }
                | {
                    f"value_tracker/{prompt}/0/{name}": value
                    for prompt, values in VALUES.items()
                    for name, value in zip(("total", "weight"), values, strict=True)
                }
            ),
            prompts=b.prompt[::G],
        )
        return self.objective.unit_advantages(rollout, G)

    def token_advantages(self) -> torch.Tensor:
        """(B, T)."""
        spread = self.objective.spread_advantages(self.unit_advantages(), self.units.n_units)
        return self.objective.token_advantages(spread, self.units)

    def loss(self, pi: dict[str, torch.Tensor]) -> torch.Tensor:
        b, rewards, mask = self.batch, self.rewards, self.mask
        inputs = LossInputs(
            logps=pi["lp"],
            old_logps=padded(b.old, 0.0),
            ref_logps=padded(b.ref, 0.0) if self.objective.needs_reference else None,
            advantages=self.token_advantages(),
            unit_ids=self.units.unit_ids,
            mask=mask,
            units=self.objective.units,
            course=Course(
                update=1,
                carried={"siren/anchor": ANCHOR, "adversarial/texts": 0.0, "adversarial/update": 1.0}
                | {f"adversarial/slope/{k}": 0.0 for k in range(3)}
                | {f"adversarial/weight/{k}": weight for k, weight in enumerate(DISCRIMINATOR)},
            ),
            extras={
                "entropy": pi["entropy"],
                "top_p_entropy": pi["top_p_entropy"],
                "mean_logps": padded(b.mean_lp, 0.0),
                "old_mean_logps": padded(b.old_mean_lp, 0.0),
                "demonstration_logps": pi["demonstrations"],
                "demonstration_ref_logps": padded(b.demonstration_ref, 0.0),
                "demonstration_mask": padded([[1] * len(row) for row in b.pi.demonstrations]),
                "segment": padded([[2 * (letter == "t") for letter in b.letters(i)] for i in b.lists]),
                "correct": rewards.success.double(),
                "correct_ranks": rewards.hits,
                "score": rewards.totals,
                "kl_scale": self.objective.kl_scales(rewards.success, G),
            },
        )
        return self.objective.loss(inputs, Window(1, torch.tensor(TOKENS), L_MAX))[0]

    def loss_and_gradient(self) -> tuple[float, dict[str, torch.Tensor]]:
        pi = {name: padded(rows, 0.0).requires_grad_() for name, rows in vars(self.batch.pi).items()}
        loss = self.loss(pi)
        loss.backward()
        return loss.item(), {
            name: torch.zeros_like(values) if values.grad is None else values.grad for name, values in pi.items()
        }


def test_every_method_has_a_reference_and_a_row():
    assert set(NAMES) == set(METHODS) == set(GOLDEN)


@pytest.mark.parametrize("name", METHODS)
def test_the_row_is_that_of_the_loop(name):
    found = row(name, drawn(), STEP / 4)  # with another step, so that no number lies on a bound
    assert found["loss"] == pytest.approx(GOLDEN[name]["loss"], abs=1e-9)
    assert found["gradient"].keys() == GOLDEN[name]["gradient"].keys()
    for key, rows in found["gradient"].items():
        for of_list, stored in zip(rows, GOLDEN[name]["gradient"][key], strict=True):
            assert of_list == pytest.approx(stored, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_are_those_of_the_row(name):
    chosen = Case(objective(name), drawn())
    loss, slopes = chosen.loss_and_gradient()
    assert loss == pytest.approx(GOLDEN[name]["loss"], abs=1e-9)
    for key, slope in slopes.items():
        stored = GOLDEN[name]["gradient"].get(key, [])
        wanted = padded(stored, 0.0) if stored else torch.zeros_like(slope)
        torch.testing.assert_close(slope, wanted, atol=1e-8 * wanted.abs().max().item(), rtol=0)


@functools.cache
def flat(name):
    return torch.tensor([x for rows in GOLDEN[name]["gradient"].values() for of_list in rows for x in of_list])


@pytest.mark.parametrize("name", METHODS)
def test_most_lists_with_hits_in_their_group_are_pushed(name):
    pushed = [any(of_list) for of_list in GOLDEN[name]["gradient"]["lp"][: 2 * G]]
    assert sum(pushed) >= (2 if name == "best_of_group" else G)  # one list of each of the two groups


@pytest.mark.parametrize("name", METHODS)
def test_methods_differ(name):
    for other in METHODS:
        if other != name:
            one, two = flat(name), flat(other)
            same = one.shape == two.shape and (one - two).abs().max() < 1e-8
            assert same == ((name, other) in SAME or (other, name) in SAME), other


def numbers(algorithm: AlgorithmConfig):
    """Paths to an algorithm's non-zero numbers (for `changed`), with the numbers."""
    chosen = {
        "credit": [algorithm.credit],
        "kl.estimator": [algorithm.kl.estimator],
        "kl.scale": [algorithm.kl.scale],
        "regularisers": list(algorithm.regularisers),
        **{name: [getattr(algorithm, name)] for name in ("baseline", "ratio", "surrogate", "aggregation")},
    }
    found = {("kl", "beta"): algorithm.kl.beta}
    if algorithm.entropy_quantile < 1:
        found["entropy_quantile",] = algorithm.entropy_quantile
    for place in PLACES:
        for name in chosen[place.name]:
            for option, about in place[name].options.items():
                found["options", name, option] = algorithm.options.get(name, {}).get(option, about.default)
    found |= {("regularisers", name): weight for name, weight in algorithm.regularisers.items()}
    found |= {("length_shaping", name): value for name, value in vars(algorithm.length_shaping).items()}
    return {path: value for path, value in found.items() if isinstance(value, float) and value != 0}


def changed(old: Objective, path: tuple[str, ...], value: float) -> Objective:
    """The same method with another number."""
    field, *keys = path
    new = getattr(old.algorithm, field)
    if field == "options":
        new = {**new, keys[0]: {**new.get(keys[0], {}), keys[1]: value}}
    elif keys:
        new = {**new, keys[0]: value} if isinstance(new, dict) else replace(new, **{keys[0]: value})
    else:
        new = value
    return Objective(replace(old.algorithm, **{field: new}), old.reward, N)


SILENT = {
    ("clip_cov", "share"): "one token, the least there is",
    ("kl_cov", "share"): "one token, the least there is",
    ("clip_cov", "cov_high"): "no covariance is near it",
    ("clip_cov", "cov_low"): "the largest covariance is far above it",
    ("clip_cov", "low"): "no ratio is below 0, and none here below .2",
    ("clpo_kl", "hard_to"): "no prompt is near it",
    ("clpo_kl", "medium_to"): "medium and easy prompts have one coefficient",
    ("dppo_kl", "cap"): "no ratio is near it",
    ("dppo_tv", "cap"): "no ratio is near it",
    ("grpo_passk", "low"): "no advantage is negative",
    ("tawin", "temperature"): "two places are equally near to the anchor, and share what the window leaves",
    ("hipo", "omega"): "no two modes are as near as this",
    ("uniapl_adversarial", "rate"): "a matter of the next update",
    ("spo", "forget"): "a matter of the next update",
    ("verl_erank", "ema"): "a matter of the next update",
}
"""Numbers that can change somewhat without effect on so small a batch."""


def effect(chosen: Case, path: tuple[str, ...], value: float) -> float:
    """Change in loss or gradient after changing a number."""
    loss, slopes = chosen.loss_and_gradient()
    loss_there, slopes_there = replace(chosen, objective=changed(chosen.objective, path, value)).loss_and_gradient()
    return max(abs(loss - loss_there), *((slopes[key] - slopes_there[key]).abs().max().item() for key in slopes))


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_the_configuration_matters(name):
    """A number without effect would not be tested by the row."""
    chosen = Case(objective(name), drawn())
    for path, value in numbers(chosen.objective.algorithm).items():
        matters = any(effect(chosen, path, factor * value) > 1e-8 for factor in (0.8, 1.25))
        assert matters == ((name, path[-1]) not in SILENT), path
