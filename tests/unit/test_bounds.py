"""Numbers of a config: each has a range, and every invalid value leads to a message that names the key."""

import copy
import math
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from itertools import product
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rlbench.base.errors import BadInput
from rlbench.config.bounds import BOUNDS, LONGEST_LIST, NULLABLE
from rlbench.config.datasets import schemas
from rlbench.config.models import model_schemas
from rlbench.config.resolving import resolve
from rlbench.config.schema import ALGORITHMS, Config
from rlbench.running.checks import check_values
from rlbench.running.cli import CONF
from tests.conftest import shares

VARIANTS = ("algorithm=grpo", "algorithm=dpo", "dataset=redial", "dataset=reddit_v2", "model=smollm2_135m")
BAD = (math.nan, math.inf, -math.inf, -1, -1e300, 2**64, 10**400, True, "", "many", [1], {"a": 1})
ANY_SIZE = {
    "algorithm.length_shaping.early_stop",
    "algorithm.length_shaping.overflow",
    "algorithm.length_shaping.exact",
    "reward.power",
    "reward.success.threshold",
    "dataset.noise_popularity",
    "dataset.genre_weight",
    "dataset.era_weight",
    "dataset.taste_weight",
    "dataset.popularity_weight",
}


@cache
def _plain(override: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found = OmegaConf.to_container(compose("config", overrides=[override]), resolve=True)
    assert isinstance(found, dict)
    return found


def plain(override: str) -> dict[str, Any]:
    """The values of a config, to be changed."""
    return copy.deepcopy(_plain(override))


def numbers_of(kind: Any, prefix: str = "") -> set[str]:
    """Keys of a schema's numbers."""
    found: set[str] = set()
    for name, hint in get_type_hints(kind).items():
        sections = {"algorithm": ALGORITHMS, "dataset": schemas(), "model": model_schemas()}
        options = None if prefix else sections.get(name)
        for inner in options.values() if options else [hint]:
            if is_dataclass(inner):
                found |= numbers_of(inner, f"{prefix}{name}.")
            elif {int, float} & {inner, *(get_args(inner) if get_origin(inner) is not dict else ())}:
                found |= {f"{prefix}{name}"} if get_origin(inner) is not list else set()
    return found


def problems_of(values: dict[str, Any]) -> list[str]:
    try:
        return check_values(resolve(OmegaConf.create(values)))
    except BadInput as error:
        return error.problems


def replaced(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    *path, last = key.split(".")
    changed = copy.deepcopy(values)
    node = changed
    for part in path:
        node = node[part]
    node[last] = value
    return changed


def test_every_number_of_the_schema_has_a_range():
    assert numbers_of(Config) == set(BOUNDS)
    assert set(BOUNDS) > NULLABLE


def keys_in(values: dict[str, Any]) -> list[str]:
    """The numbers of a config that have a range."""
    flat = {".".join(path) for path in leaves(values)}
    return [key for key in BOUNDS if key in flat]


def leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*path, str(key))
        if isinstance(value, dict):
            yield from leaves(value, (*path, str(key)))


def named(key: str, problems: list[str]) -> bool:
    return any(problem.startswith((f"{key} ", f"{key}:", f"{key}.")) or f" {key} " in problem for problem in problems)


@pytest.mark.parametrize(
    ("variant", "bad"), shares(list(product(VARIANTS, BAD)), parts=len(VARIANTS), fast=0), ids=lambda one: str(one)[:12]
)
def test_no_bad_number_passes_or_raises_anything_else(variant, bad):
    values = plain(variant)
    assert problems_of(values) == []
    left = [key for key in keys_in(values) if not (key in ANY_SIZE and bad in (-1, -1e300, 2**64))]
    assert len(left) > 50
    for _ in ("wrong types are reported together", "then numbers out of range are"):
        changed = values
        for key in left:
            changed = replaced(changed, key, bad)
        found = problems_of(changed)
        left = [key for key in left if not named(key, found)]
        if not left:
            break
    assert left == []


def test_a_list_too_long_for_its_cutoffs_is_refused_before_they_are_made():
    for length in (LONGEST_LIST + 1, 2**31, 2**64):
        values = plain("algorithm=grpo")
        values["dataset"] |= {"list_length": length, "cutoffs": None}
        found = problems_of(values)
        assert any(f"dataset.list_length = {length} must be at most {LONGEST_LIST}" in problem for problem in found)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("seed", 2**32, "seed = 4294967296 must be at most 4294967295"),
        ("dataset.seed", 2**32, "dataset.seed = 4294967296 must be at most 4294967295"),
        ("model.seed", 2**32, "model.seed = 4294967296 must be at most 4294967295"),
        ("trainer.sft.seed", 2**32, "trainer.sft.seed = 4294967296 must be at most 4294967295"),
        ("trainer.sft.seed", -1, "trainer.sft.seed = -1 must be at least 0"),
        ("trainer.rl.adam_beta2", 1.0, "trainer.rl.adam_beta2 = 1.0 must lie in [0, 1)"),
        ("dataset.contexts", {"train": 0, "validation": 1, "test": 1}, "dataset.contexts.train = 0 must lie in [1, "),
        ("dataset.contexts", {"train": 9, "test": 1}, "dataset.contexts.validation is missing"),
        ("dataset.contexts", {"train": 9, "test": 1, "validaton": 2}, "Did you mean 'validation'?"),
        ("dataset.truth_sizes", [1.0, -0.5], "dataset.truth_sizes contains -0.5; shares are finite numbers from 0 on"),
        ("dataset.truth_sizes", [0.0], "dataset.truth_sizes = [0.0] must contain a share above 0"),
        ("dataset.truth_sizes", [1.0] * 51, "an answerer names at most 50 films"),
        ("model.pieces", "title", "model.pieces = 'title' is unknown; known: words, titles. Did you mean 'titles'?"),
        ("model.heads", 3, "model.hidden_size = 128 must be a multiple of twice model.heads = 3; use 132"),
        ("model.vocab_size", 100, "model.vocab_size = 100 must lie in [260, 1000000]"),
        ("runtime.device", "gpu", "runtime.device = 'gpu' is unknown; known: auto, cpu, cuda"),
        ("runtime.threads", 0, "runtime.threads = 0 must lie in [1, 4096], or be null"),
        ("dataset.cutoffs", [5, 5, 10], "dataset.cutoffs contains 5 2 times; list it once"),
        ("dataset.cutoffs", [2**70], "dataset.cutoffs contains 1180591620717411303424"),
        ("trainer.rl.learning_rate_steps", {-1: 1e-4}, "names update -1; updates are counted from 1"),
        ("trainer.rl.learning_rate_steps", {5: math.nan}, "must be a"),
        ("generation.temperature", 1e300, "generation.temperature = 1e+300 must be at most 1000000"),
    ],
)
def test_what_is_said(key, value, said):
    found = problems_of(replaced(plain("algorithm=grpo"), key, value))
    assert any(said in problem for problem in found), found


def test_the_largest_seed_passes():
    values = plain("algorithm=grpo")
    for key in ("seed", "dataset.seed", "model.seed", "trainer.sft.seed"):
        values = replaced(values, key, 2**32 - 1)
    assert problems_of(values) == []
