"""Methods marked "code" against `tests.golden.sources`, and `differs` against both."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from rlbench.running.cli import CONF
from tests.golden.methods import (
    METHODS,
    STEP,
    centred,
    clip_cov_loss,
    covered,
    drawn,
    dual_ppo,
    gradient,
    in_groups,
    over_limit,
    rewards,
    w,
)
from tests.golden.sources import ELSEWHERE, ERANK, SOURCES, Source, verl_erank
from tests.golden.test_methods import Case, objective, padded
from tests.helpers_parity import CASES

ROOT = Path(__file__).parents[2]
YAMLS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (CONF / "algorithm").glob("*.yaml")}


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def apart(case: Case, wanted_loss) -> float:
    """The largest difference in loss and gradient; the gradient's is relative to the largest slope."""
    loss, slopes = case.loss_and_gradient()
    pi = case.batch.pi
    far = abs(loss - wanted_loss(pi))
    for key, rows in gradient(wanted_loss, pi, STEP).items():
        wanted = padded(rows, 0.0)
        far = max(far, (slopes[key] - wanted).abs().max().item() / max(1.0, wanted.abs().max().item()))
    return far


def compared(name: str, source: Source, overrides: tuple[str, ...], everywhere: bool = False) -> float:
    batch = drawn().picked(source.lists) if source.lists and not everywhere else drawn()
    return apart(Case(objective(name, *overrides), batch), source.loss(batch))


def test_every_method_marked_code_is_compared_with_its_source():
    of_code = {name for name, found in YAMLS.items() if "code" in found["evidence"]}
    assert of_code == SOURCES.keys() | ELSEWHERE.keys()
    assert not SOURCES.keys() & ELSEWHERE.keys()


@pytest.mark.parametrize("name", SOURCES)
def test_a_method_is_its_source_with_the_overrides(name):
    assert compared(name, SOURCES[name], SOURCES[name].overrides) < 1e-8


@pytest.mark.parametrize("name", [name for name in SOURCES if SOURCES[name].overrides])
def test_and_with_nothing_less(name):
    """Each override corresponds to one of the differences."""
    overrides = SOURCES[name].overrides
    for left_out in overrides:
        others = tuple(override for override in overrides if override != left_out)
        if left_out.startswith("surrogate=") or left_out.startswith("options.dual_clip="):
            others = tuple(override for override in others if "dual_clip" not in override)
        assert compared(name, SOURCES[name], others) > 1e-6, left_out


@pytest.mark.parametrize("name", [name for name in SOURCES if SOURCES[name].lists])
def test_an_adaptation_to_lists_is_one(name):
    """On other lists the method differs from its source."""
    assert compared(name, SOURCES[name], SOURCES[name].overrides, everywhere=True) > 1e-6


@pytest.mark.parametrize("name", SOURCES)
def test_differences_are_stated_where_there_are_some(name):
    source = SOURCES[name]
    departs = bool(source.overrides or source.lists or source.shown)
    assert departs == bool(YAMLS[name].get("differs")), YAMLS[name].get("differs")


@pytest.mark.parametrize("test", sorted({*ELSEWHERE.values(), *(s.shown for s in SOURCES.values() if s.shown)}))
def test_tests_that_are_named_exist(test):
    path, name = test.split("::")
    assert f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name, test in ELSEWHERE.items() if "parity" in test])
def test_methods_of_trl_are_among_its_cases(name):
    assert f"algorithm={name}" in CASES[name][0]


def test_clip_cov_is_one_of_its_draws():
    """The source draws one of several tokens; ours takes the largest covariance, and equals only that draw."""
    batch = drawn()
    candidates = covered(batch)
    assert len(candidates) > 1
    ours = Case(objective("clip_cov"), batch)
    same = [token for token in candidates if apart(ours, clip_cov_loss(batch, {token})) < 1e-8]
    assert same == [max(candidates, key=lambda token: candidates[token])]


def test_canon_shares_places_among_ties():
    """Lists of equal entropy belong to both halves equally: R - mean. The source puts the first half of them in one."""
    batch = drawn()
    tied = replace(batch, old_entropy=[[1.0 for _ in row] for row in batch.old_entropy])
    ours = Case(objective("canon"), tied)
    a = in_groups(rewards(tied), centred)
    shared = over_limit(tied, lambda pi, i, t: dual_ppo(w(tied, pi, i, t), a[i], 0.2, 0.28))
    assert apart(ours, shared) < 1e-8 < 1e-6 < apart(ours, METHODS["canon"](tied))


class LastToken(Case):
    """VERL with its bonus only on the last token."""

    def token_advantages(self) -> torch.Tensor:
        with_bonus = super().token_advantages()
        plain = Case(objective("verl_erank", "baseline=group_std", "options.group_std.epsilon=1e-6"), self.batch)
        last = (self.mask.cumsum(1) == self.mask.sum(1, keepdim=True)) & self.mask.bool()
        return torch.where(last, with_bonus, plain.token_advantages())


def test_where_the_bonus_of_verl_goes_is_the_rest_of_the_difference():
    batch = drawn()
    wanted = verl_erank(batch, last_alone=True)
    assert apart(LastToken(objective("verl_erank", *ERANK), batch), wanted) < 1e-8
    assert apart(Case(objective("verl_erank", *ERANK), batch), wanted) > 1e-6
