"""Writes the configuration of a W&B sweep, whose agents run the cells of a sweep or a search as `run.py` does.

The agents' command is `python run.py FIXED... KEY=VALUE...`: the settings that all cells share are in the command, and
W&B adds those that it has chosen. A cell's row is named as in a sweep with `-m`. There the launcher knows what varies;
here a `variant` that refers to the varied keys is part of the command.
"""

import argparse
import copy
import itertools
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from rlbench.base import files
from rlbench.base.errors import BadInput, nearest
from rlbench.base.program import CONF, as_started, run_words
from rlbench.config.resolving import resolve
from rlbench.config.row_names import short_names
from rlbench.config.schema import Config, TrackerConfig
from rlbench.launching.cells import plan_cells
from rlbench.launching.rows import Swept, naming_keys, one_each
from rlbench.launching.space import SearchInterval, dimension_of, ends
from rlbench.launching.sweepers import merged
from rlbench.lists.metric_catalogue import EVALUATION, metric_of
from rlbench.running.checks import check_config
from rlbench.running.cli import check_overrides, config_dir, groups, without_hydra
from rlbench.running.words import split, values

GOALS = {"higher": "maximize", "lower": "minimize"}
"""W&B's word for each direction of better values."""
CHOSEN = "${args_no_hyphens}"
"""Place of the chosen settings in the agents' command, as KEY=VALUE."""

Parameter = dict[str, Any]
"""W&B's description of the values of a key."""


def write_sweep(options: argparse.Namespace) -> int:
    """Write a sweep's file, say what it holds and what to do next.

    Raises:
        BadInput: all problems of the command; nothing is written.
    """
    words = [*(["--config-dir", options.config_dir] if options.config_dir else []), *options.overrides]
    sweep, notes = make_sweep(words, options.method, options.metric, options.runs, options.name)
    text = yaml.safe_dump(sweep, sort_keys=False, allow_unicode=True, width=math.inf)
    try:
        files.write_text(options.out, text)
    except OSError as error:
        raise BadInput(f"--out {options.out} cannot be written: {error.strerror}") from None
    console = Console(highlight=False)

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    for note in notes:
        say(f"note: {note}")
    metric = sweep["metric"]
    say(f"{options.out}: {sweep['method']} over {', '.join(sweep['parameters'])}; {metric['goal']} {metric['name']}")
    say(f"wandb sweep {shlex.quote(str(options.out))}")
    say("then the command that it prints, wandb agent ENTITY/PROJECT/SWEEP, in this folder")
    return 0


def make_sweep(
    words: Sequence[str], method: str, metric: str | None = None, runs: int | None = None, name: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Return the content of a sweep's file, and notes for the user.

    Args:
        words: the command line after `run.py -m`.
        method: grid, random or bayes.
        metric: validation metric to improve; None for `evaluation.metric`.
        runs: number of runs at which W&B stops; None for no limit.
        name: shown by W&B; None for the experiment's name.

    Raises:
        BadInput: all problems of the words, of the cells, and of the sweep.
    """
    composed = check_overrides(["-m", *words])
    folder = config_dir(words)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        params = OmegaConf.to_container(composed.hydra.sweeper.params or OmegaConf.create())
        assert isinstance(params, dict)
        overrides = merged(
            OverridesParser.create(loader), {str(k): str(v) for k, v in params.items()}, split(words).others
        )
        config = resolve(without_hydra(copy.deepcopy(composed)))
        fixed = [override for override in overrides if not override.is_sweep_override()]
        varied = [override for override in overrides if override.is_sweep_override()]
        goal, problems = _goal(config, metric)
        problems += _of_words(overrides, method) + _of_tracker(fixed, config.tracker)
        if not varied:
            problems.append("a sweep needs a key with several values, for example seed=0,1 or algorithm=grpo,rank_grpo")
        if problems:
            raise BadInput(*problems)
        line = [str(override.input_line) for override in fixed]
        if not any(override.key_or_group in ("tracker", "tracker.mode") for override in fixed):
            line.append("tracker=wandb")
        line, notes = _named(loader, composed, line, varied, method)
    first, second = run_words()
    program, start = (
        (second, ["${interpreter}", "${program}"]) if first == "python" else (first, ["${program}", second])
    )
    folder_words = ["--config-dir", str(folder)] if folder else []
    sweep: dict[str, Any] = {
        "name": name or config.experiment_name,
        "project": config.tracker.project,
        **({"entity": config.tracker.entity} if config.tracker.entity is not None else {}),
        "program": program,
        "command": [
            *("${env}", *start, *folder_words, "hydra.mode=RUN"),
            *(*line, CHOSEN),
        ],
        "method": method,
        "metric": goal,
        **({"run_cap": runs} if runs is not None else {}),
        "parameters": {override.get_key_element(): _parameter(override) for override in varied},
    }
    return sweep, notes


def _goal(config: Config, metric: str | None) -> tuple[dict[str, str], list[str]]:
    """Return W&B's description of the metric, and the problems with its name."""
    name = config.evaluation.metric if metric is None else metric
    known = [
        one.name.replace("@k", f"@{k}")
        for one in EVALUATION
        if one.better is not None and one.k in ("", "cut-off")
        for k in (config.dataset.cutoffs if one.k else [0])
    ]
    if name not in known:
        return {}, [
            f"--metric {name} is no validation metric with a direction; known: {', '.join(known)}."
            f"{nearest(name, known)}"
        ]
    better = metric_of(name).better
    assert better is not None
    return {"name": f"final/validation/{name}", "goal": GOALS[better]}, []


def _of_words(overrides: Sequence[Override], method: str) -> list[str]:
    """Return the problems of overrides that a sweep of W&B cannot have."""
    problems = []
    for override in overrides:
        said, key = str(override.input_line), override.key_or_group
        interval = override.is_sweep_override() and not override.is_discrete_sweep()
        if override.is_hydra_override():
            problems.append(f"{said}: W&B's agents run the cells, without a sweeper or launcher; remove it")
        elif key == "seed" and (interval or (method == "bayes" and len(list(values(override))) > 1)):
            problems.append(
                f"{said}: a search for a good seed finds luck; give one seed, or search with "
                f"{as_started('python run.py -m hydra/sweeper=optuna')}, which runs every proposal with each seed"
            )
        elif interval:
            of_space, dimension = dimension_of(override)
            problems += of_space
            if method == "grid":
                problems.append(f"{said}: a grid has no intervals; use --method random or bayes, or give a list")
            elif isinstance(dimension, SearchInterval) and dimension.log and dimension.whole:
                problems.append(f"{said}: W&B draws no whole numbers on the log scale; give choice(1, 10, 100)")
    return problems


def _of_tracker(fixed: Sequence[Override], tracker: TrackerConfig) -> list[str]:
    """Return the problem with a chosen tracker that does not report to the sweep."""
    chosen = [override for override in fixed if override.key_or_group in ("tracker", "tracker.mode")]
    if not chosen or "wandb" in (tracker.mode, *tracker.also):
        return []
    return [f"{chosen[0].input_line}: a sweep of W&B reads the results there; use tracker=wandb, or leave it out"]


def _named(
    loader: ConfigLoader, composed: DictConfig, line: Sequence[str], varied: Sequence[Override], method: str
) -> tuple[list[str], list[str]]:
    """Check the cells, and add the variant that names their rows to the words that they share.

    Args:
        loader: Hydra's.
        composed: the config with the first of each list of values.
        line: the words that all cells share.
        varied: what W&B chooses.
        method: grid, random or bayes.

    Returns:
        The shared words, and notes.

    Raises:
        BadInput: all problems of all cells, or of their rows.
    """
    cells = [[*line, *own] for own in _cells(varied, method)]
    keys = tuple(override.get_key_element() for override in varied)
    of_sweep = Swept(
        tuple(key for place, key in enumerate(keys) if len({cell[len(line) + place] for cell in cells}) > 1)
    )
    planned = plan_cells(loader, composed, cells, of_sweep)
    naming = naming_keys(planned)
    if naming:
        word = _variant(composed, naming, "variant" in keys)
        line = [*(text for text in line if not text.startswith("variant=")), word]
        planned = plan_cells(loader, composed, [[*line, *own] for own in _cells(varied, method)], of_sweep)
    _, notes = one_each(planned)
    if problems := [said for cell in planned for said in check_config(cell.config)]:
        raise BadInput(*dict.fromkeys(problems))
    return list(line), notes


def _cells(varied: Sequence[Override], method: str) -> list[list[str]]:
    """Return the choices to check: of a grid all, of a search the first of each key with all ends of one of them."""
    texts = [[f"{override.get_key_element()}={value}" for value in _ends(override)] for override in varied]
    if method == "grid":
        return [list(cell) for cell in itertools.product(*texts)]
    first = [of_one[0] for of_one in texts]
    cells = [[*first[:place], text, *first[place + 1 :]] for place, of_one in enumerate(texts) for text in of_one]
    return [list(cell) for cell in dict.fromkeys(map(tuple, cells))]


def _ends(override: Override) -> Sequence[str]:
    """Return the values of a list, or the ends of an interval, as texts of overrides."""
    if override.is_discrete_sweep():
        return list(values(override, groups().get(override.key_or_group, ())))
    return ends(dimension_of(override)[1])


def _variant(composed: DictConfig, naming: Sequence[str], is_varied: bool) -> str:
    """Return the override whose variant refers to the keys that name rows.

    Args:
        composed: the config with the first of each list of values.
        naming: the keys.
        is_varied: whether W&B chooses the variant.

    Raises:
        BadInput: if a key has no value of its own to refer to.
    """
    config: Any = OmegaConf.to_container(composed, resolve=False)
    names, parts, problems = short_names(list(naming)), [], []
    for key in naming:
        plain = key.lstrip("+").replace("/", ".")
        node: Any = config
        for part in plain.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        refers = f"{plain}.name" if isinstance(node, Mapping) and "name" in node else plain
        if (isinstance(node, Mapping) and "name" not in node) or (node is None and key.lstrip("+") in groups()):
            problems.append(
                f"{key}: it must name rows, but its options have no name in the config; choose one key less"
            )
        parts.append(f"{names[key]}=${{{refers}}}")
    if is_varied:
        problems.append(f"variant: rows need {' and '.join(naming)} in their names too; leave variant out")
    if problems:
        raise BadInput(*problems)
    text = "-".join(part for part in (str(config["variant"] or ""), ",".join(parts)) if part)
    return f"variant={QuotedString(text, Quote.single).with_quotes()}"


def _parameter(override: Override) -> Parameter:
    """Return W&B's description of the values of an override."""
    if override.is_discrete_sweep():
        found = [_value(text) for text in _ends(override)]
        return {"values": found}
    _, dimension = dimension_of(override)
    assert isinstance(dimension, SearchInterval)
    kind = "int_uniform" if dimension.whole else "log_uniform_values" if dimension.log else "uniform"
    return {"distribution": kind, "min": dimension.low, "max": dimension.high}


def _value(text: str) -> Any:
    """Return the text of an override's value as W&B keeps it: numbers and truth values, and all else as text."""
    value = OverridesParser.create().parse_override(f"key={text}").value()
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return text
