"""Judges lists that no cell has made, and writes them as runs: what `rlbench score` and `rlbench eval` share.

Loads no torch.
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
from rich.console import Console
from rich.table import Table

from rlbench.base.content import SHOWN
from rlbench.base.errors import BadInput
from rlbench.base.program import as_started
from rlbench.baselines.recommend import recommend
from rlbench.config.baselines import BASELINES, expanded
from rlbench.config.names import HIDDEN, row_of_runs
from rlbench.config.plugins import load_plugins
from rlbench.config.schema import Config
from rlbench.data import load_dataset
from rlbench.data.checks import check_dataset, digests
from rlbench.data.record import RankedListDataset, Record
from rlbench.evaluation.external_lists import SystemLists
from rlbench.evaluation.given import judge_samples, judge_texts, text_of
from rlbench.evaluation.judging import Criteria, choose_contexts, make_criteria
from rlbench.lists.metric_catalogue import metric_title
from rlbench.running.classical import check_on_data, left_out, refused_by
from rlbench.running.cli import config_of, groups
from rlbench.runs.completions import sample_completions
from rlbench.runs.directory import DONE, Run, check_done, status_of
from rlbench.runs.existing import EXTERNAL, stage_of
from rlbench.runs.identity import INPUTS, canonical, config_hash, stage_settings
from rlbench.runs.record import IDENTITY, MANIFEST, RESULT, SETTINGS, Tuning
from rlbench.runs.recorded import read_config
from rlbench.runs.written import JudgedSplit, budget_of, origin_of, outcome_of, write_run

EXPERIMENT, MODEL = "scores", "external"
"""Names of experiment and model if the lists stand beside no runs."""


@dataclass(frozen=True)
class ListPlace:
    """Where lists are judged, and by what.

    Attributes:
        config: names, dataset, matching rules, list length, cut-offs and evaluated contexts.
        group: folder of the runs of the same experiment, dataset and model.
        dataset: the data.
        criteria: what lists are judged by.
        splits: records of `test` and `validation`.
        beside: whether the group has runs of rlbench beside which the lists stand.
    """

    config: Config
    group: Path
    dataset: RankedListDataset
    criteria: Criteria
    splits: Mapping[str, Sequence[Record]]
    beside: bool

    @property
    def contexts(self) -> dict[str, list[str]]:
        """Evaluated contexts by split."""
        return {split: list(dict.fromkeys(r.context_id for r in records)) for split, records in self.splits.items()}

    @property
    def others(self) -> dict[str, str]:
        """Contexts that are not evaluated, each with its split."""
        known = {context for contexts in self.contexts.values() for context in contexts}
        return {
            record.context_id: "train" if split == "sft" else split
            for split, records in self.dataset.splits.items()
            for record in records
            if record.context_id not in known
        }


def find_place(options: argparse.Namespace) -> ListPlace:
    """The place that a command names.

    Args:
        options: `beside`, a folder of runs whose data and rules apply, or else `dataset` with `overrides` and
            `config_dir` as for run.py.

    Raises:
        BadInput: all problems found.
    """
    if options.beside is not None:
        if options.dataset is not None or options.overrides or options.config_dir is not None:
            raise BadInput("--beside takes data and settings from the runs; leave out --dataset and KEY=VALUE")
        return _beside(options.beside)
    words = [*([f"dataset={options.dataset}"] if options.dataset else []), *options.overrides]
    if not any(word.startswith("dataset=") for word in words):
        raise BadInput("say what the lists are judged on: --beside FOLDER of runs, or --dataset NAME")
    config = config_of(words, options.config_dir)
    if config.experiment_name == "default":
        config = replace(config, experiment_name=EXPERIMENT)
    if not any(word.startswith(("model=", "model.name=")) for word in words):
        config = replace(config, model=replace(config.model, name=MODEL))
    data = load_dataset(config.dataset)
    if problems := check_dataset(data, config.dataset.list_length) + check_on_data(config, data):
        raise BadInput(*problems)
    return _place(config, config.group_dir, data, beside=False)


def _place(config: Config, group: Path, dataset: RankedListDataset, *, beside: bool) -> ListPlace:
    evaluation = config.evaluation
    splits = {
        "test": choose_contexts(dataset.splits["test"], evaluation.test_contexts),
        "validation": choose_contexts(dataset.splits["validation"], evaluation.validation_contexts),
    }
    criteria = make_criteria(config.matching, dataset, config.dataset.list_length)
    return ListPlace(config, group, dataset, criteria, splits, beside)


def _beside(folder: Path) -> ListPlace:
    """The place of the runs in a folder.

    Raises:
        BadInput: it has no finished run, runs of several groups, or data that differ from today's.
    """
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}")
    runs = [path.parent for path in sorted(folder.rglob(SETTINGS)) if status_of(path.parent) == DONE]
    own = [run for run in runs if stage_of(run) not in (None, EXTERNAL)]
    if not own:
        raise BadInput(f"--beside {folder}: no finished run; give the folder of an experiment, such as runs/mini")
    groups = sorted({run.parent.parent for run in own})
    if len(groups) > 1:
        raise BadInput(
            f"--beside {folder} holds runs of several experiments, datasets or models; give one of "
            f"{', '.join(map(str, groups))}"
        )
    run = next((run for run in own if stage_of(run) == "rl"), own[0])
    config = read_config(run)
    result = RESULT.read(run, "give the folder of other runs", "experiment", "model")
    config = replace(config, experiment_name=result["experiment"], model=replace(config.model, name=result["model"]))
    if problems := load_plugins(config.plugins):
        raise BadInput(*problems)
    data = load_dataset(config.dataset)
    recorded = MANIFEST.read(run, "give the folder of other runs").get("data", {}).get("sha256")
    if recorded != data.fingerprint:
        raise BadInput(
            f"{run} was evaluated on other data: its manifest.json has sha256 {str(recorded)[:SHOWN]}, but "
            f"{data.name} is now {data.fingerprint[:SHOWN]}. Put the original files back"
        )
    return _place(config, groups[0], data, beside=True)


def fold(place: ListPlace, splits: Sequence[str]) -> ListPlace:
    """The place with some of its splits."""
    return replace(place, splits={split: place.splits[split] for split in splits})


ROWS = "the names of stages and baselines, and all names that begin with an algorithm or end with a reward, as in "
"""Names that systems may not have, for messages."""


def wrong_names(place: ListPlace, names: Iterable[str], more: Path | None) -> dict[str, str]:
    """Return why systems cannot have their names, by name: a row of runs has or could have the same one.

    Args:
        place: where the lists are judged.
        names: of systems.
        more: the user's config folder, with more algorithms and rewards; None if there is none.
    """
    known, config = groups(more), place.config
    algorithms, rewards = [config.algorithm.name, *known["algorithm"]], [config.reward.name, *known["reward"]]
    runs = [path.parent for path in place.group.glob(f"*/*/{IDENTITY.name}")]
    rows = {run.parent.name for run in runs if stage_of(run) != EXTERNAL}
    wrong = {}
    for name in dict.fromkeys(names):
        row = "runs that are there" if name in rows else row_of_runs(name, algorithms, rewards)
        if row:
            wrong[name] = (
                f"system {name}: the name belongs to another row of {place.group}, that of {row}. Give the system "
                f"another one. Rows of runs have {ROWS}grpo-relevance"
            )
        elif name.startswith("."):
            wrong[name] = f"system {name}: the name {HIDDEN}; give the system another one"
    return wrong


def run_of(place: ListPlace, name: str, seed: int, details: Mapping[str, Any]) -> Run:
    """The run of a system and seed. `details` tell it from other lists; `sha256` is that of the lists.

    Raises:
        BadInput: other lists of this system and seed are there, or the directory is unfinished.
    """
    settings = stage_settings(place.config, EXTERNAL)
    identity = canonical({**settings, "external": {"system": name, **details}, "seed": seed})
    identity |= _inputs(place)
    digest = config_hash(identity)
    root = place.group / name / f"seed{seed}-{digest}"
    other = [path for path in sorted(root.parent.glob(f"seed{seed}-*")) if path != root]
    if other:
        raise BadInput(
            f"{other[0]} holds other lists of the system {name}, seed {seed}: move it away, or give these another name "
            "or seed"
        )
    if root.exists() and status_of(root) != DONE:
        raise BadInput(f"{root} is no finished run: move it away")
    return Run(root, EXTERNAL, name, seed, digest, identity)


def _inputs(place: ListPlace) -> dict[str, Any]:
    """What lists are judged on, as in the identity of a cell's shared stages."""
    return {INPUTS: {"data": digests(place.dataset, demonstrations=False)}}


def judge_lists(place: ListPlace, lists: SystemLists) -> dict[str, JudgedSplit]:
    """Judge the lists of a system on test, and on validation if it has lists for it."""
    found = {}
    cutoffs, criteria = place.config.dataset.cutoffs, place.criteria
    for split, records in place.splits.items():
        if split != "test" and records[0].context_id not in lists.texts:
            continue
        predictions, means = judge_texts(records, lists.texts, criteria, cutoffs, lists.endings)
        samples = pd.DataFrame()
        if split == "test" and lists.n_samples:
            samples, together = judge_samples(records, lists.samples, criteria, pass_at(place.config, lists.n_samples))
            predictions = predictions.assign(**together)
            means |= {name: float(values.mean()) for name, values in together.items()}
        found[split] = judged(place, split, predictions, means, samples)
    return found


def judged(
    place: ListPlace, split: str, predictions: pd.DataFrame, means: Mapping[str, float], samples: pd.DataFrame
) -> JudgedSplit:
    """A judged split, with lists for human readers."""
    config = place.config
    shown = sample_completions(
        place.splits[split], predictions, config.tracker.completions, config.dataset.list_length, split, 0
    )
    return JudgedSplit(predictions, means, samples, shown)


def pass_at(config: Config, n: int) -> list[int]:
    """Values of k for pass@k with n sampled lists: those of the config that fit, or else powers of two and n."""
    own = [k for k in config.evaluation.pass_at if k <= n]
    return own or sorted({n, *(2**i for i in range(n.bit_length()) if 2**i <= n)})


def settings_of(place: ListPlace, n_samples: int) -> dict[str, Any]:
    """Content of config.yaml: the config, with the number of sampled lists."""
    settings = copy.deepcopy(asdict(place.config))
    settings["evaluation"] |= {"samples": n_samples, "pass_at": pass_at(place.config, n_samples) if n_samples else []}
    return settings


def write_lists(place: ListPlace, lists: SystemLists, run: Run, files: Sequence[Mapping[str, Any]]) -> None:
    """Judge the lists of a system and write their run, unless it is done.

    Raises:
        BadInput: the run is done, but damaged.
    """
    if status_of(run.root) == DONE:
        check_done(run.root)
        return
    started = time.monotonic()
    splits = judge_lists(place, lists)
    outcome = outcome_of(splits, budget_of(time.monotonic() - started))
    origin = origin_of(place.dataset, {"system": lists.name, "sha256": lists.sha256, "files": list(files)})
    write_run(run, place.config, settings_of(place, lists.n_samples), splits, outcome, origin)


def write_baselines(place: ListPlace, say: Callable[[str], None]) -> list[Run]:
    """Compute the baselines that the place lacks, unless runs of rlbench are there, which have their own."""
    if place.beside:
        return []
    refused = refused_by(place.dataset)
    for sentence in left_out(place.config, place.dataset):
        say(f"note: {sentence}")
    found = []
    for name in (name for name in expanded(place.config.baselines) if name not in refused):
        identity = canonical(stage_settings(place.config, "baseline", name))
        identity |= _inputs(place)
        seed, digest = place.config.trainer.sft.seed, config_hash(identity)
        run = Run(place.group / name / f"seed{seed}-{digest}", "baseline", name, seed, digest, identity)
        found.append(run)
        if status_of(run.root) == DONE:
            check_done(run.root)
            continue
        say(f"baseline {name}")
        started = time.monotonic()
        judge, cutoff = place.criteria.judge, max(place.config.dataset.cutoffs)
        made = recommend(name, place.dataset.splits["train"], place.splits, judge, cutoff)
        splits = {}
        for split, records in place.splits.items():
            texts = {context: text_of(items) for context, items in made.lists[split].items()}
            predictions, means = judge_texts(records, texts, place.criteria, place.config.dataset.cutoffs)
            splits[split] = judged(place, split, predictions, means, pd.DataFrame())
        outcome = outcome_of(splits, budget_of(time.monotonic() - started))
        if made.tuning is not None:
            outcome["tuning"] = cast(Tuning, made.tuning)
        write_run(run, place.config, settings_of(place, 0), splits, outcome, origin_of(place.dataset, None))
    return found


def show(place: ListPlace, runs: Sequence[Run], console: Console) -> None:
    """Print the main numbers of runs, and the command that shows them beside others."""
    cutoffs = place.config.dataset.cutoffs
    names = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in cutoffs] + ["in_catalog"]
    table = Table("system", "seed", *map(metric_title, names), box=None, pad_edge=False)
    for run in runs:
        means = RESULT.read(run.root, run.remedy, "metrics")["metrics"]["test"]
        row = (f"{means[name]:.3f}".replace("0.", ".", 1) if means[name] < 1 else "1.000" for name in names)
        name = BASELINES[run.label].title if run.stage == "baseline" else run.label
        table.add_row(name, str(run.seed), *row)
    console.print(table)
    console.print(f"next: {as_started('python -m analysis.report')} {place.group.parent}", markup=False, soft_wrap=True)
