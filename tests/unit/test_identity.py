"""Each config leaf is in the hash of the stages that it can change, or in the list of docs/reproducibility.md."""

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import yaml

from rlbench.base.errors import BadInput
from rlbench.config.datasets import schemas
from rlbench.config.models import model_schemas
from rlbench.config.options import filled, options_of
from rlbench.config.schema import ALGORITHMS, CloneConfig, Config
from rlbench.running.cli import CONF
from rlbench.runs.identity import canonical, config_hash, stage_settings
from tests.conftest import composed
from tests.helpers import ROOT

STAGES = ("oracle", "baseline", "zero_shot", "sft", "rl")
ALL, MODEL, TRAINED, RL = STAGES, STAGES[2:], STAGES[3:], STAGES[4:]
BASELINE = "bm25"
"""The stage `baseline` is tried with this one."""

SAMPLED = ["evaluation.samples=2", "evaluation.pass_at=[1,2]", "+trainer.rl.learning_rate_steps={10:1e-5}"]
FAMILIES = {
    "mini, tiny, policy optimisation": ["algorithm=canon", "reward=guarded", *SAMPLED],
    "redial, hub, preference": ["dataset=redial", "model=qwen2.5_0.5b", "algorithm=s_dpo", *SAMPLED],
    "reddit_v2, wheel, continuous": ["dataset=reddit_v2", "model=smollm2_135m", "generation=continuous", *SAMPLED],
    "vllm": ["generation=vllm_colocate", "generation.vllm.correction=token_truncate", *SAMPLED],
    "greedy evaluation": ["evaluation.samples=0"],
    "RL from the base model": ["trainer.rl.start=base", *SAMPLED],
    "redial_official": ["dataset=redial_official", *SAMPLED],
    **{name: [f"dataset={name}", *SAMPLED] for name in ("inspired", "reddit_movie", "movielens")},
    "jsonl": ["dataset=jsonl", *SAMPLED],
    "hf": ["dataset=hf", *SAMPLED],
    "clone": SAMPLED,
    "held to the catalogue": ["generation.constraint=catalogue", *SAMPLED],
    "TRL's head under bf16, micro-batches by tokens": [
        *("trainer.bf16=true", "trainer.share_prompts=never", "trainer.rl.micro_batch_tokens=4096"),
        *SAMPLED,
    ],
}

PART = {
    "dataset": ALL,
    "dataset.demonstrations_from": TRAINED,
    "matching": ALL,
    "model": MODEL,
    "model.kind": MODEL,
    "evaluation.validation_contexts": ALL,
    "evaluation.test_contexts": ALL,
    "evaluation.samples": MODEL,
    "evaluation.pass_at": MODEL,
    "evaluation.batch_size": MODEL,
    "evaluation.batch_tokens": MODEL,
    "evaluation.every": RL,
    "evaluation.checkpoint": RL,
    "evaluation.metric": RL,
    "generation.temperature": MODEL,
    "generation.top_p": MODEL,
    "generation.top_k": MODEL,
    "generation.min_p": MODEL,
    "generation.max_new_tokens": MODEL,
    "generation.repetition_penalty": MODEL,
    "generation.no_repeat_ngram_size": MODEL,
    "generation.template_date": MODEL,
    "generation.prefill": MODEL,
    "generation.stop_after_list": RL,
    "generation.constraint": RL,
    "generation.exclude": (),
    "evaluation.constraint": MODEL,
    "evaluation.exclude": (),
    "evaluation.beams": MODEL,
    "generation.engine": RL,
    "trainer.sft": TRAINED,
    "trainer.bf16": TRAINED,
    "trainer.optimizer": TRAINED,
    "adapter": (),  # without one, its settings have no effect (tests/unit/test_adapters.py has the others)
    "adapter.name": TRAINED,
    "trainer.rl": RL,
    "algorithm": RL,
    "reward": RL,
    "sampler": RL,
    "rollout": RL,
    "schedule": RL,
    "sampler.name": (),
    "rollout.name": (),
    "schedule.name": (),
    "safety": RL,
    "seed": RL,
    "clone": RL,
}
"""Keys, including all keys below them, and the stages that depend on them. The longest matching key applies."""

OF_FILES: dict[str, tuple[str, ...]] = {"dataset.demonstrations_from": (), "model.kind": ()}
OF_FAMILY: dict[str, dict[str, tuple[str, ...]]] = {
    "redial, hub, preference": OF_FILES | {"trainer.rl.shuffle": ()},
    "reddit_v2, wheel, continuous": OF_FILES | {"generation.continuous": RL},
    "vllm": {
        "generation.vllm.correction": RL,
        "generation.vllm.ratio_min": RL,
        "generation.vllm.ratio_max": RL,
        "generation.vllm.tensor_parallel_size": RL,
    },
    "greedy evaluation": {
        "evaluation.batch_size": (),
        "evaluation.batch_tokens": (),
        "generation.temperature": RL,
        "generation.top_p": RL,
        "generation.top_k": RL,
        "generation.min_p": RL,
    },
    "RL from the base model": {"trainer.sft": ("sft",), "trainer.sft.max_length": TRAINED},
    "redial_official": {"dataset.demonstrations_from": ()},
    **{name: {"dataset.demonstrations_from": ()} for name in ("inspired", "reddit_movie", "movielens")},
    "jsonl": {"dataset.demonstrations_from": ()},
    "hf": {"dataset.demonstrations_from": ()},
    "held to the catalogue": {"generation.exclude": RL, "evaluation.exclude": MODEL},
    "TRL's head under bf16, micro-batches by tokens": {
        "trainer.share_prompts": TRAINED,
        "trainer.rl.micro_batch_size": (),
    },
}
"""Exceptions for a family of configs."""


def outside() -> dict[str, str]:
    """Return {key: reason} from the table of docs/reproducibility.md; `x.*` means all keys below x."""
    text = (ROOT / "docs" / "reproducibility.md").read_text(encoding="utf-8").split("**Not in the hash**")[1]
    rows = [line.strip("| \n").split("|") for line in text.split("\n## ")[0].splitlines() if line.startswith("| `")]
    return {key.removesuffix(".*"): why for keys, why in rows for key in keys.split("`")[1::2]}


def expected(family: str, key: str) -> tuple[str, ...] | None:
    """Return the stages that depend on a leaf: () for leaves in the page's list, None without any rule."""
    rules = dict.fromkeys(outside(), ()) | PART | OF_FAMILY.get(family, {})
    parts = key.split(".")
    found = (rules.get(".".join(parts[:length])) for length in range(len(parts), 0, -1))
    return next((stages for stages in found if stages is not None), None)


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and value of each leaf of a config. An empty dict is a leaf."""
    if is_dataclass(value):
        entries = {field.name: getattr(value, field.name) for field in fields(value)}
        entries = {name: entry for name, entry in entries.items() if name != "clone" or entry is not None}
    elif isinstance(value, Mapping) and value:
        entries = dict(value)
    else:
        yield key, value
        return
    for name, entry in entries.items():
        yield from leaves(entry, f"{key}.{name}" if key else str(name))


def other(value: Any) -> Any:
    """Return a different value of the same type."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case "sft" | "base":  # where RL starts: no other words are valid
            return "base" if value == "sft" else "sft"
        case str():
            return f"{value}x"
        case list() | tuple():
            return [*value, 3]
        case dict():
            return {"new": 1}
        case None:
            return 7
    raise TypeError(type(value))


def changed(config: Config, key: str) -> Config:
    """Return a config with one leaf changed."""
    config = copy.deepcopy(config)
    node: Any = config
    *path, last = key.split(".")
    for name in path:
        node = node[name if name in node else int(name)] if isinstance(node, dict) else getattr(node, name)
    if isinstance(node, dict):
        name = last if last in node else int(last)
        node[name] = other(node[name])
    else:
        setattr(node, last, other(getattr(node, last)))
    return config


def hashes(config: Config) -> dict[str, str]:
    return {stage: config_hash(canonical(stage_settings(config, stage, BASELINE))) for stage in STAGES}


@cache
def config_of(family: str) -> Config:
    config = composed(*FAMILIES[family])
    if family == "clone":
        config.clone = CloneConfig("0" * 64, "rl", 20, ["reward=dcg"], "mini/mini-tiny/grpo/seed0-00000000", "grpo")
    return config


def test_the_families_cover_every_schema():
    configs = [config_of(family) for family in FAMILIES]
    for section, kinds in (("dataset", schemas()), ("model", model_schemas()), ("algorithm", ALGORITHMS)):
        assert {type(getattr(config, section)) for config in configs} == set(kinds.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_leaf_changes_the_stages_that_it_should(family):
    config = config_of(family)
    before = hashes(config)
    wrong, unknown = [], []
    for key, _ in leaves(config):
        wanted = expected(family, key)
        after = hashes(changed(config, key))
        found = tuple(stage for stage in STAGES if after[stage] != before[stage])
        if wanted is None:
            unknown.append(key)
        elif found != wanted:
            wrong.append((key, found, wanted))
    assert not unknown, "neither in PART nor on the list of docs/reproducibility.md"
    assert not wrong


def test_every_key_on_the_list_is_a_key_with_a_reason():
    known = {key for family in FAMILIES for key, _ in leaves(config_of(family))}
    for key, why in outside().items():
        assert len(why.strip()) > 10 and any(f"{leaf}.".startswith(f"{key}.") for leaf in known), key


# Types and order.


def retyped(value: Any) -> Any:
    """Swap int and float for all whole numbers."""
    if isinstance(value, dict):
        return {key: retyped(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [retyped(entry) for entry in value]
    if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer():
        return value
    return float(value) if isinstance(value, int) else int(value)


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(entry) for key, entry in reversed(value.items())}
    return [reversed_keys(entry) for entry in value] if isinstance(value, list) else value


@pytest.mark.parametrize("section", ["algorithm", "reward"])
def test_numbers_of_every_yaml_hash_by_their_value(section):
    """`options` and `terms` have no schema, so YAML's 1 and 1.0 stay distinct unless they are converted."""
    untyped = 0
    for path in sorted((CONF / section).glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for part in (content.get("options"), content.get("terms")):
            untyped += retyped(part) is not part and json.dumps(retyped(part)) != json.dumps(part)
            assert config_hash({"part": canonical(retyped(part))}) == config_hash({"part": canonical(part)}), path.name
    assert untyped


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("reward.terms.relevance.weight=1", "reward.terms.relevance.weight=1.0"),
        ("trainer.rl.learning_rate=1", "trainer.rl.learning_rate=1.0"),
        ("+trainer.rl.learning_rate_steps={10:1,20:0.5}", "+trainer.rl.learning_rate_steps={20:0.5,10:1.0}"),
        ("dataset.contexts={train:40,validation:6,test:6}", "dataset.contexts={test:6,train:40,validation:6}"),
    ],
)
def test_the_same_value_is_the_same_run(one, two):
    assert hashes(composed(one)) == hashes(composed(two))


def test_the_order_of_keys_makes_no_other_run():
    config = config_of("mini, tiny, policy optimisation")
    turned = {stage: config_hash(reversed_keys(canonical(stage_settings(config, stage, BASELINE)))) for stage in STAGES}
    assert turned == hashes(config)


def test_terms_and_regularisers_are_added_up_in_one_order():
    """The sum of floats depends on their order, so equal hashes require the same order."""
    terms = ["+reward.terms.novelty={weight:0.1}", "+reward.terms.format={weight:0.2}"]
    extra = ["+algorithm.regularisers.entropy=0.1", "+algorithm.regularisers.a=0.2"]
    one, two = composed(*terms, *extra), composed(*terms[::-1], *extra[::-1])
    assert list(one.reward.terms) == list(two.reward.terms) == sorted(one.reward.terms)
    assert list(one.algorithm.regularisers) == list(two.algorithm.regularisers) == ["a", "entropy"]


def test_a_number_has_the_type_that_its_option_names():
    """An int in place of a float changes the result: numpy refuses 2 ** -1 for ints."""

    def option(counts: np.ndarray, *, power: float, rank: int, name: str = "") -> tuple[Any, ...]:
        return counts**power, rank, name

    powers, rank, name = filled(option, {"power": -1, "rank": 2, "name": "n"})(np.array([2]))
    assert powers[0] == 0.5 and isinstance(rank, int) and (rank, name) == (2, "n")


def test_a_choice_among_numbers_is_no_choice_among_truths():
    from typing import Literal

    def option(*, k: Literal[1, 2] = 1) -> None: ...

    accepts = options_of(option)["k"].values.accepts
    assert accepts(2) and not accepts(True) and not accepts(2.0) and not accepts(3)


def test_truths_are_no_numbers_at_the_top():
    with pytest.raises(BadInput, match="seed = True must be of type int"):
        composed("seed=true")


def test_minus_zero_is_zero_and_large_numbers_stay():
    assert canonical([-0.0, 1e300, True, 0.5]) == [0, int(1e300), True, 0.5]
    assert config_hash({"a": canonical(-0.0)}) == config_hash({"a": canonical(0.0)}) == config_hash({"a": 0})
