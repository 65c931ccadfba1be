"""Every sampler and every rollout composes with every algorithm and reward, or is refused with a reason."""

from itertools import product

import pytest

from rlbench.config.schema import AlgorithmConfig, Config
from rlbench.running.checks import check_config
from tests.conftest import CONF, composed


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


SAMPLERS, ROLLOUTS, ALGORITHMS, REWARDS = (names(group) for group in ("sampler", "rollout", "algorithm", "reward"))
NEEDS = {"mix": ["+sampler.options.mix.shares={*:1}"]}
"""What a choice cannot do without."""


def with_parts(config: Config, sampler: Config, rollout: Config) -> Config:
    return Config(**{**vars(config), "sampler": sampler.sampler, "rollout": rollout.rollout})


def refused(config: Config) -> list[str]:
    """Problems, each with a reason that names what was chosen."""
    problems = check_config(config)
    assert all(config.sampler.name in one or config.rollout.name in one or "=" in one for one in problems)
    return problems


@pytest.fixture(scope="module")
def parts() -> tuple[dict[str, Config], dict[str, Config]]:
    samplers = {name: composed(f"sampler={name}", *NEEDS.get(name, [])) for name in SAMPLERS}
    return samplers, {name: composed(f"rollout={name}") for name in ROLLOUTS}


@pytest.mark.parametrize("algorithm", ["rank_grpo", "dpo"])
def test_samplers_and_rollouts(algorithm, parts):
    samplers, rollouts = parts
    config, wrong = composed(f"algorithm={algorithm}"), []
    for sampler, rollout in product(SAMPLERS, ROLLOUTS):
        problems = refused(with_parts(config, samplers[sampler], rollouts[rollout]))
        plain = sampler == "uniform" and rollout == "flat"
        kept_success = sampler == "rapo" and rollout != "flat"
        expected = not plain if algorithm == "dpo" else kept_success
        if bool(problems) != expected:
            wrong.append((sampler, rollout, problems))
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_whole_product(algorithm, parts):
    """Where an algorithm and a reward go together, so do they with every sampler and rollout."""
    samplers, rollouts = parts
    for reward in REWARDS:
        config = composed(f"algorithm={algorithm}", f"reward={reward}")
        alone = check_config(config)
        for sampler, rollout in product(SAMPLERS, ROLLOUTS):
            problems = refused(with_parts(config, samplers[sampler], rollouts[rollout]))
            if (sampler == "uniform" and rollout == "flat") or not problems:
                continue
            # HiPO needs its rollout, and some baselines refuse trees. Every other problem is there without a sampler.
            named = [one for one in problems if "rollout" in one or "sampler" in one]
            assert named or problems == alone, (reward, sampler, rollout)
            if isinstance(config.algorithm, AlgorithmConfig) and not alone and rollout == "flat":
                assert problems == [], (reward, sampler)
