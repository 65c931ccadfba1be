"""Make the config of a clone: a run's recorded config with changed settings, and the clone's ancestry."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlbench.base.errors import BadInput, also
from rlbench.base.program import as_started
from rlbench.config.places import check_places
from rlbench.config.resolving import resolve
from rlbench.config.row_names import value_text, variant
from rlbench.config.schema import AlgorithmConfig, CloneConfig, Config
from rlbench.running.checks import check_values
from rlbench.running.cli import check_overrides, groups, in_config
from rlbench.running.words import parse, repeated, sweeps
from rlbench.runs.directory import Run, locate
from rlbench.runs.identity import differing_keys, identity_digest, stage_settings
from rlbench.runs.processes import count
from rlbench.runs.record import IDENTITY, MANIFEST
from rlbench.runs.recorded import read_settings
from rlbench.training.callbacks import REFERENCE_FILE
from rlbench.training.checkpoints import last_checkpoint, steps_of
from rlbench.training.cloning import check_best, checkpoint_of, spent_by

OF_RL = (
    *("updates", "learning_rate", "learning_rate_steps", "schedule", "warmup_updates", "adam_beta2", "max_grad_norm"),
    *("save_every", "keep_checkpoints", "micro_batch_size", "micro_batch_tokens", "token_budget"),
)
MAY_CHANGE = (
    *("algorithm", "reward", "sampler", "rollout", "schedule", "safety", "evaluation.checkpoint"),
    *(f"trainer.rl.{key}" for key in OF_RL),
    *(f"generation.{key}" for key in ("temperature", "top_p", "top_k", "min_p")),
    *("experiment_name", "variant", "tracker", "runtime", "cache_dir", "plugins"),
)
"""Keys that a clone may change, with all keys below them."""
FIXED = {
    "dataset": "the parent has read its data",
    "matching": "the parent was rewarded by it",
    "model": "the checkpoint has its weights",
    "adapter": "the checkpoint has its weights",
    "trainer.optimizer": "the checkpoint has its states",
    "seed": "the checkpoint has its random numbers",
    "stage": "a clone is an RL run",
    "runs_dir": "a clone is beside its parent",
    "trainer.sft": "the parent has passed the SFT stage",
    "trainer.rl": "it counts the place in the data or in a rollout, which the checkpoint has",
    "evaluation": "the curves and scores of both would be of different lists",
    "generation": "prompts and greedy lists of both would differ",
}
"""Why other keys may not change."""
DEPTH = 4
"""Path parts of a run below `runs_dir`: experiment; dataset and model; row; seed and hash."""


def clone_of(folder: Path, at: int | None, words: Sequence[str], config_dir: Path | None) -> Config:
    """Return the config of a clone. Also makes the command that the clone records name its checkpoint.

    Args:
        folder: directory of the parent.
        at: update of the checkpoint; None for the last.
        words: changed settings, KEY=VALUE.
        config_dir: the user's own configs, or None.

    Raises:
        BadInput: the parent cannot be cloned, a setting may not change, or nothing changes.
    """
    recorded, parent_config, parent = _parent(folder)
    allowed, problems = _overrides(words, config_dir)
    with also(problems):
        config, changed = _changed(recorded, parent_config, allowed, config_dir)
        if not isinstance(config.algorithm, AlgorithmConfig):
            raise BadInput(f"algorithm = {config.algorithm.name}: a clone needs an algorithm of policy optimisation")
    if not changed and not problems:
        raise BadInput(
            f"no changed setting affects what {folder} computes, so a clone would be the same run; to resume that "
            f"run, repeat its command: {_command(folder)}"
        )
    step = at if at is not None else _last_step(parent)
    given = {word.partition("=")[0] for word in words}
    clone = CloneConfig(
        identity_digest(parent.identity), "rl", step, changed, _below(parent, parent_config), _row(parent_config)
    )
    if "variant" not in given:
        config.variant = _variant(parent_config, config, step, changed)
    config = replace(config, clone=clone)
    with also(problems):
        found = check_values(config, count()) + check_places(config, to_write=True)
        found = found or _of_checkpoint(config, parent, step)
        if found or problems:
            raise BadInput(*found)
    sys.argv = [sys.argv[0], *(_options(config_dir)), str(folder), *words, "--at", str(step)]
    return config


def _options(config_dir: Path | None) -> list[str]:
    return ["--config-dir", str(config_dir)] if config_dir is not None else []


def _parent(folder: Path) -> tuple[DictConfig, Config, Run]:
    """Return the recorded settings of a run, the config they make, and the run.

    Raises:
        BadInput: the folder is no RL run of policy optimisation, or its data or model files have changed.
    """
    recorded = read_settings(folder)
    there = IDENTITY.read(folder, "restore it from a backup")
    if there.get("stage") != "rl":
        raise BadInput(
            f"{folder} is a run of the stage {there.get('stage')}, but only RL runs can be cloned; other stages are "
            "shared by the cells of a sweep, so start a run with other settings instead"
        )
    place = folder.resolve()
    if len(place.parts) <= DEPTH:
        raise BadInput(f"{folder} is not in a folder <runs>/<experiment>/<dataset>-<model>/<row>")
    if Path(recorded.runs_dir).resolve() != place.parents[DEPTH - 1]:
        recorded.runs_dir = str(place.parents[DEPTH - 1])
    recorded.experiment_name = place.parents[DEPTH - 2].name
    config = resolve(recorded)
    if config.algorithm.__class__ is not AlgorithmConfig:
        raise BadInput(
            f"{folder} was made by {config.algorithm.name}, whose lists are drawn by a plan for the whole training; "
            "only runs of policy optimisation can be cloned"
        )
    run = locate(config, "rl")
    if differences := differing_keys(there, json.loads(json.dumps(run.identity))):
        raise BadInput(
            f"{folder} was made from other inputs or by another version: {'; '.join(differences)}. A clone needs the "
            "parent's data and model files"
        )
    if run.root.resolve() != place:
        raise BadInput(f"{folder} has been renamed: its settings belong into {run.root}; move it there")
    return recorded, config, run


def _overrides(words: Sequence[str], config_dir: Path | None) -> tuple[list[Override], list[str]]:
    """Return the overrides that a clone may have, and what is wrong with the others.

    Raises:
        BadInput: for every word that is no override or gives several values.
    """
    known = groups(config_dir)
    overrides = parse(words, known, in_config())
    refusals = [_refusal(override) for override in overrides]
    problems = [said for said in refusals if said]
    if several := repeated(overrides) + sweeps(overrides, known):
        raise BadInput(*several, *problems)
    return [override for override, said in zip(overrides, refusals, strict=True) if not said], problems


def _changed(
    recorded: DictConfig, parent: Config, overrides: Sequence[Override], config_dir: Path | None
) -> tuple[Config, list[str]]:
    """Return the config after the changes, and those of them that affect the run, in one form.

    Raises:
        BadInput: an option or a value is invalid.
    """
    known = groups(config_dir)
    chosen = [override for override in overrides if override.key_or_group in known]
    own = [*_options(config_dir), *(str(override.input_line) for override in chosen)]
    composed = check_overrides(own)
    settings, before = _copy(recorded), parent
    settings.clone, settings.variant = None, ""
    if isinstance(parent.clone, CloneConfig):
        before = replace(parent, clone=None)
    changed = []
    for override in [*chosen, *(each for each in overrides if each not in chosen)]:
        key = override.key_or_group
        value = composed[key] if override in chosen else override.value()
        _set(settings, key, value)
        after = resolve(settings)
        if stage_settings(after, "rl") != stage_settings(before, "rl"):
            changed.append(f"{key}={override.value() if override in chosen else value_text(_plain(value))}")
        before = after
    return resolve(settings), sorted(changed)


def _copy(settings: DictConfig) -> DictConfig:
    copied = OmegaConf.create(OmegaConf.to_container(settings, resolve=False))
    assert isinstance(copied, DictConfig)
    return copied


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _set(settings: DictConfig, key: str, value: Any) -> None:
    try:
        OmegaConf.update(settings, key, value, merge=False, force_add=True)
    except OmegaConfBaseException as error:
        raise BadInput(f"{key}: {str(error).strip().splitlines()[0]}") from error
    if key == "trainer.rl.learning_rate":
        settings.trainer.rl.learning_rate_source = ""


def _refusal(override: Override) -> str:
    """Return why a clone may not change a setting, or ""."""
    key, line = override.key_or_group, str(override.input_line)
    if override.is_delete():
        return f"{line}: a clone changes settings and removes none"
    if any(key == known or key.startswith(f"{known}.") for known in MAY_CHANGE):
        return ""
    reason = next((why for name, why in FIXED.items() if key == name or key.startswith(f"{name}.")), "")
    said = f", because {reason}" if reason else ""
    return (
        f"{line}: a clone may not change {key}{said} ({as_started('python -m rlbench.clone')} --help lists what it may)"
    )


def _last_step(parent: Run) -> int:
    """Return the update of the last complete checkpoint."""
    found = last_checkpoint(parent.checkpoints)
    if found is None:
        raise BadInput(f"{parent.root} has no checkpoint; a clone continues from one (trainer.rl.save_every)")
    return found.update


def _below(parent: Run, config: Config) -> str:
    return parent.root.relative_to(config.runs_dir).as_posix()


def _row(config: Config) -> str:
    """Return the row of a run in words, with its own ancestry."""
    own = f"{config.algorithm.name} · {config.reward.name}"
    if config.clone is not None:
        return f"{own} ← step {config.clone.step} of {config.clone.name}"
    return f"{own} @ {config.row_variant}" if config.row_variant else own


def _variant(parent: Config, config: Config, step: int, changed: Sequence[str]) -> str:
    """Return what separates the row of a clone: the parent's row, the update, and settings that the row lacks."""
    settings = dict(word.split("=", 1) for word in changed)
    named = ("algorithm", "reward", *config.drawn)
    shown = {key: value for key, value in settings.items() if key not in named}
    return variant({"from": parent.label, "step": str(step), **shown})


def _of_checkpoint(config: Config, parent: Run, step: int) -> list[str]:
    """Return errors of the parent's checkpoint. A clone that has begun needs it no more."""
    updates = config.trainer.rl.updates
    if step >= updates:
        others = [one for one in steps_of(parent.checkpoints) if one < updates]
        choices = f" or choose an earlier one with --at ({', '.join(map(str, others))})" if others else ""
        return [
            f"the checkpoint of update {step} leaves nothing to train at trainer.rl.updates = {updates}; raise it"
            f"{choices}"
        ]
    if config.trainer.parallel.strategy == "deepspeed" and count() > 1:
        return ["trainer.parallel.strategy = deepspeed: its checkpoints keep the parent's settings; use fsdp2 or ddp"]
    own = locate(config, "rl")
    if own.status() == "done" or steps_of(own.checkpoints):
        return []
    source = checkpoint_of(parent.root, step)
    budget = config.trainer.rl.token_budget
    if budget is not None and (spent := spent_by(source, step)["generated_tokens"]) >= budget:
        return [
            f"trainer.rl.token_budget = {budget:,}: the parent had generated {spent:,} tokens at update {step}, which "
            "count, so nothing is left to train; raise it, or choose an earlier checkpoint with --at"
        ]
    problems = check_best(parent, config.evaluation.metric, step) if config.evaluation.checkpoint == "best" else []
    if config.policy_optimisation.reference.sync_every and not (source / REFERENCE_FILE).exists():
        problems.append(
            f"algorithm = {config.algorithm.name}: its reference follows the policy, but {source} has no reference"
        )
    return problems


def _command(folder: Path) -> str:
    """Return the command that a run recorded."""
    if not (folder / MANIFEST.name).exists():
        return "(none is recorded)"
    words = MANIFEST.read(folder, "restore it from a backup", "command")["command"]
    return " ".join(words)
