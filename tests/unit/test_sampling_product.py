"""Every sampler and every rollout composes with every algorithm and reward, or is refused with a reason."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import yaml

from rlbench.config.schema import AlgorithmConfig, Config, RolloutConfig, SamplerConfig
from rlbench.running.checks import check_config
from tests.conftest import CONF, composed


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


SAMPLERS, ROLLOUTS, ALGORITHMS, REWARDS = (names(group) for group in ("sampler", "rollout", "algorithm", "reward"))


def chosen(group: str, name: str) -> dict[str, Any]:
    """The settings of a file, read without Hydra, which takes a quarter of a second for each."""
    own = yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))
    bases = [one for one in own.pop("defaults", []) if one != "_self_"]
    return {key: value for base in bases for key, value in chosen(group, base).items()} | own


def parts() -> tuple[dict[str, SamplerConfig], dict[str, RolloutConfig]]:
    samplers = {name: SamplerConfig(**chosen("sampler", name)) for name in SAMPLERS}
    samplers["mix"].options["mix"] = {"shares": {"*": 1}}  # what it cannot do without
    return samplers, {name: RolloutConfig(**chosen("rollout", name)) for name in ROLLOUTS}


def refused(config: Config) -> list[str]:
    """Problems, each with a reason that names what was chosen."""
    problems = check_config(config)
    assert all(config.sampler.name in one or config.rollout.name in one or "=" in one for one in problems)
    return problems


@pytest.mark.parametrize("algorithm", ["rank_grpo", "dpo"])
def test_samplers_and_rollouts(algorithm):
    samplers, rollouts = parts()
    config, wrong = composed(f"algorithm={algorithm}"), []
    for sampler, rollout in product(SAMPLERS, ROLLOUTS):
        problems = refused(replace(config, sampler=samplers[sampler], rollout=rollouts[rollout]))
        plain = sampler == "uniform" and rollout == "flat"
        kept_success = sampler == "rapo" and rollout != "flat"
        expected = not plain if algorithm == "dpo" else kept_success
        if bool(problems) != expected:
            wrong.append((sampler, rollout, problems))
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_whole_product(algorithm):
    """Where an algorithm and a reward go together, so do they with every sampler and rollout."""
    samplers, rollouts = parts()
    for reward in REWARDS:
        config = composed(f"algorithm={algorithm}", f"reward={reward}")
        alone = check_config(config)
        for sampler, rollout in product(SAMPLERS, ROLLOUTS):
            problems = refused(replace(config, sampler=samplers[sampler], rollout=rollouts[rollout]))
            if (sampler == "uniform" and rollout == "flat") or not problems:
                continue
            # HiPO needs its rollout, and some baselines refuse trees. Every other problem is there without a sampler.
            named = [one for one in problems if "rollout" in one or "sampler" in one]
            assert named or problems == alone, (reward, sampler, rollout)
            if isinstance(config.algorithm, AlgorithmConfig) and not alone and rollout == "flat":
                assert problems == [], (reward, sampler)
