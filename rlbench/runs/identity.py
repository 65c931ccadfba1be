"""Identity of a run: everything that can change its result, and the hash of it.

Equal settings on equal inputs give the same hash, and so the same directory.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from rlbench.config.adapters import adapter_identity
from rlbench.config.baselines import BASELINES
from rlbench.config.decoding import evaluation_identity, greedy_identity, sampling_identity
from rlbench.config.engines import rollout_identity
from rlbench.config.schedules import flat
from rlbench.config.schema import Config, PreferenceConfig, RolloutConfig, SamplerConfig
from rlbench.runs.inputs import inputs
from rlbench.runs.record import SCHEMA

DESCRIPTION = ("title", "paper", "evidence", "differs")
"""Descriptive keys of algorithms and rewards: names and sources."""
FIRST_VALUES = {"line_format": "{title} ({year})", "item": "film"}
"""Values that runs had before these keys of a dataset existed. They do not change the hash."""
FIRST_VALUES_OF_SAMPLERS = {"make": "none", "successes": 0}
"""The same for keys of a sampler."""
FIRST_VALUES_OF_MODELS = {"system_role": "template"}
"""The same for keys of a model."""
FIRST_VALUES_OF_PREFERENCES = {"pairs": "ranked", "loss": "softmax", "update": "free", "options": {}}
"""The same for keys of preference optimisation."""
INPUTS = "inputs"
"""Key in an identity for the digests of inputs: data and the model's source."""


def stage_config(config: Config, stage: str, baseline: str = "") -> dict[str, Any]:
    """Return the identity of a stage: its settings, and digests of the data and model files that it reads.

    Args:
        baseline: which baseline, for the stage `baseline`.

    Raises:
        BadInput: problems of the data or of the model's files.
    """
    return canonical(stage_settings(config, stage, baseline)) | {INPUTS: inputs(config).of(stage)}


def stage_settings(config: Config, stage: str, baseline: str = "") -> dict[str, Any]:
    """Return the part of a config that affects a stage's results.

    Paths, tracker, progress, threads, the number of kept checkpoints and the frequency of SFT evaluations are left out.
    The shared stages (all but rl) depend neither on the algorithm nor on the run's seed, so all cells of a sweep share
    them. RL without SFT does not depend on SFT settings, except the demonstrations' maximum length.
    """
    full = asdict(config)
    evaluation = dict(full["evaluation"])
    identity: dict[str, Any] = {"stage": stage, "schema": SCHEMA, "dataset": _dataset(config, stage)}
    identity["matching"] = full["matching"]
    described = {key: value for key, value in full["algorithm"].items() if key not in DESCRIPTION}
    rewarded = {key: value for key, value in full["reward"].items() if key not in DESCRIPTION}
    contexts = {key: evaluation[key] for key in ("validation_contexts", "test_contexts")}
    if stage in ("oracle", "external"):
        return identity | {"evaluation": contexts}
    if stage == "baseline":
        return identity | {"evaluation": contexts, "baseline": {"name": baseline, **BASELINES[baseline].identity()}}
    decoding = greedy_identity(config.generation) | evaluation_identity(config.evaluation)
    identity |= {"model": _model(config), "decoding": decoding}
    contexts |= {key: evaluation[key] for key in ("samples", "pass_at")}
    if evaluation["samples"]:
        contexts |= sampling_identity(config.generation)
        contexts |= {key: evaluation[key] for key in ("batch_size", "batch_tokens")}  # numbers are drawn per batch
    if stage == "zero_shot":
        return identity | {"evaluation": contexts}
    rl = full["trainer"]["rl"]
    sft = {key: value for key, value in full["trainer"]["sft"].items() if key != "evaluate_every"}
    shared: dict[str, Any] = {"bf16": config.trainer.bf16}
    if config.trainer.bf16 and config.trainer.share_prompts == "never":
        shared["lm_head"] = "float32"  # TRL's head; rlbench's multiplies in bfloat16
    if config.trainer.optimizer != "adamw":
        shared["optimizer"] = config.trainer.optimizer
    shared |= adapter_identity(config.adapter, stage, rl["start"] == "sft")
    if stage == "sft":
        return identity | {"evaluation": contexts, "sft": sft, **shared}
    left_out = ["keep_checkpoints", "learning_rate_source"]
    if rl["start"] == "base":
        sft = {"max_length": sft["max_length"]}  # for demonstrations in the loss; there is no SFT stage
    else:
        left_out.append("start")
    elsewhere = ["constraint", "exclude", "beams"]  # in "decoding"
    if not evaluation["samples"]:
        elsewhere += ["batch_size", "batch_tokens"]
    evaluation = {key: value for key, value in evaluation.items() if key not in elsewhere}
    # Values of runs from before these keys existed.
    first_values: dict[str, Any] = {"learning_rate_steps": {}, "micro_batch_tokens": None, "shuffle": "completions"}
    first_values["token_budget"] = None
    if isinstance(config.algorithm, PreferenceConfig):
        left_out.append("shuffle")  # its tuples keep their order
        first_choices = FIRST_VALUES_OF_PREFERENCES.items()
        described = {k: v for k, v in described.items() if (k, v) not in first_choices}
    if rl["micro_batch_tokens"] is not None:
        left_out.append("micro_batch_size")  # replaced
    left_out += [key for key, value in first_values.items() if rl[key] == value]
    if config.clone is not None:
        identity["clone"] = {key: full["clone"][key] for key in ("parent", "stage", "step", "changed")}
    return identity | {
        "evaluation": evaluation,
        "sft": sft,
        "rl": {key: value for key, value in rl.items() if key not in left_out},
        "algorithm": described,
        "reward": rewarded,
        "generation": rollout_identity(config.generation),
        "safety": full["safety"],
        "seed": config.seed,
        **shared,
        **_collecting(config),
    }


def _collecting(config: Config) -> dict[str, Any]:
    """Settings of sampler, rollout and schedule without their names, where they differ from the defaults."""
    found: dict[str, Any] = {}
    for key, default in (("sampler", SamplerConfig()), ("rollout", RolloutConfig())):
        chosen = getattr(config, key)
        if replace(chosen, name=default.name) != default:
            first = FIRST_VALUES_OF_SAMPLERS if key == "sampler" else {}
            left_out = ["name", *(name for name, value in first.items() if getattr(chosen, name) == value)]
            found[key] = {name: value for name, value in asdict(chosen).items() if name not in left_out}
    if config.schedule.values:
        found["schedule"] = flat(config.schedule.values)
    return found


def _dataset(config: Config, stage: str) -> dict[str, Any]:
    """Dataset settings without paths. Demonstrations count only if read by the stage and not the default."""
    dataset = config.dataset
    left_out = [key for key, value in FIRST_VALUES.items() if getattr(dataset, key) == value]
    own = {k: v for k, v in asdict(dataset).items() if k not in (*dataset.paths, "demonstrations_from", *left_out)}
    read = stage in ("sft", "rl") and "demonstrations_from" not in dataset.paths and dataset.demonstration_source
    return own | ({"demonstrations_from": read} if read else {})


def _model(config: Config) -> dict[str, Any]:
    """Model settings without the name. A model's files are identified by their digest instead of their place."""
    model = asdict(config.model)
    left_out = ["name", *config.model.paths, *config.model.origin]
    left_out += [key for key, value in FIRST_VALUES_OF_MODELS.items() if model.get(key) == value]
    return {key: value for key, value in model.items() if key not in left_out}


def canonical(value: Any) -> Any:
    """Normalise a value for an identity: equal numbers get one form, and tuples become lists.

    Options defined by a function's signature keep the form in the config, for example 1 or 1.0.
    `rlbench.config.options.filled` converts them to the annotated type, so both are the same value.
    """
    if isinstance(value, Mapping):
        return {key: canonical(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # also for -0.0
    return value


def config_hash(identity: Mapping[str, Any]) -> str:
    """Return the first 8 hex digits of the identity's sha256."""
    return identity_digest(identity)[:8]


def identity_digest(identity: Mapping[str, Any]) -> str:
    """Return the identity's sha256, independent of key order."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def differing_keys(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "", shown: Callable[[Any], str] = repr
) -> list[str]:
    """Return the dotted keys whose values differ, with both values.

    Args:
        shown: formats a value.
    """
    lines = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differing_keys(a, b, f"{prefix}{key}.", shown)
        elif a != b:
            lines.append(f"{prefix}{key}: was {shown(a)}, is now {shown(b)}")
    return lines
