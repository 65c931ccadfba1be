"""Re-score finished runs, without a model."""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from tqdm import tqdm

from analysis.collection.costs import place_of
from analysis.collection.reading import find_runs, read_run, usable
from analysis.collection.stored import is_collection
from analysis.command import show_problems, show_written, terminal
from analysis.problems import Problem, Unusable
from analysis.render.numbers import share
from analysis.render.sheet import sheet_of, to_rich
from analysis.render.spreadsheet import as_text
from rlbench.base.digests import damage, entry
from rlbench.base.errors import BadInput, nearest
from rlbench.base.files import partial_folder, publish, write_text
from rlbench.base.git import code_state
from rlbench.base.records import Damaged
from rlbench.base.user_files import read_user_yaml
from rlbench.config.datasets import schemas
from rlbench.evaluation.protocols import Protocol, Rules, ScoredRun, complete, parse_protocol
from rlbench.evaluation.rescoring import OF_CONFIDENCE, PATHS, ScoredData, judge_again
from rlbench.runs.directory import DONE, seal, status_of
from rlbench.runs.identity import config_hash
from rlbench.runs.record import (
    BUDGET,
    BUDGET_ROWS,
    IDENTITY,
    MANIFEST,
    MEASUREMENTS,
    RESULT,
    SETTINGS,
    Budget,
    Manifest,
    Result,
    read_result,
    required_metrics,
)
from rlbench.runs.tables import PREDICTIONS, predictions_file, samples_file, write_table

SPLITS = ("validation", "test")


def read_sources(folder: Path) -> tuple[list[ScoredRun], list[Problem]]:
    """The runs below a folder that can be re-scored, and a problem for each of the others."""
    sources, problems = [], []
    for path in find_runs(folder):
        name = path.relative_to(folder).as_posix()
        try:
            run, _ = read_run(path, name)
            if "rescored" in run.result:
                raise Unusable("is itself a re-scoring; give the folder of the runs that it was made from")
            sources.append(ScoredRun(path, name, run.result, _settings(path), *_origin(path)))
        except Unusable as error:
            problems.append(Problem(name, str(error)))
    return sources, problems


def _settings(path: Path) -> Mapping[str, Any]:
    try:
        content = read_user_yaml(path / SETTINGS, SETTINGS)
    except BadInput as error:
        raise Unusable(f"half-written: {error}") from None
    if not isinstance(content, dict):
        raise Unusable(f"half-written: {SETTINGS} holds no object")
    return content


def _origin(path: Path) -> tuple[Mapping[str, Any], Manifest]:
    with usable(IDENTITY.name):
        identity = IDENTITY.load(path)
    with usable(MANIFEST.name):
        return identity, MANIFEST.load(path)


# Writing.


def target_of(out: Path, source: ScoredRun, protocol: Protocol, rules: Rules) -> tuple[Path, dict[str, Any]]:
    """The directory of a re-scored run, and its identity."""
    identity = {**source.identity, "rescoring": json.loads(json.dumps(asdict(rules)))}
    seed = source.result["seed"]
    return out / protocol.name / Path(source.name).parent / f"seed{seed}-{config_hash(identity)}", identity


def digests(source: ScoredRun) -> dict[str, str]:
    """File to sha256, for the input files of a re-scoring."""
    step = source.result["checkpoint"]["step"]
    names = [RESULT.name, SETTINGS, IDENTITY.name, MANIFEST.name, MEASUREMENTS.name, BUDGET_ROWS.name]
    names += [named(split, step) for named in (predictions_file, samples_file) for split in SPLITS]
    return {name: entry(source.path / name)["sha256"] for name in names if (source.path / name).exists()}


def is_done(target: Path, made_from: Mapping[str, str]) -> bool:
    """Whether an undamaged finished re-scored run from exactly these files exists. A damaged one is made again.

    Raises:
        Unusable: if the directory has other content, or does not say what it is.
    """
    if not target.exists():
        return False
    try:
        note = MANIFEST.load(target).get("rescoring")
    except FileNotFoundError:
        note = None
    except Damaged as error:
        raise Unusable(f"{target}: {MANIFEST.name} {error}. Move it away, or choose another --out") from None
    if note is None:
        raise Unusable(f"{target} exists and is not a re-scoring; move it away, or choose another --out")
    return status_of(target) == DONE and note.get("made_from") == made_from and not damage(target)


def write_rescored(
    source: ScoredRun, protocol: Protocol, rules: Rules, data: ScoredData, target: Path, identity: Mapping[str, Any]
) -> None:
    """Re-score a run and write its directory.

    Raises:
        Unusable: if it cannot be re-scored.
    """
    dataset = data.of(source)
    made = [split for split in SPLITS if split in source.result["metrics"]]  # lists from elsewhere may lack validation
    judged = {split: judge_again(source, split, rules, dataset, data) for split in made}
    result, step = source.result, source.result["checkpoint"]["step"]
    beside = partial_folder(target)
    beside.mkdir(parents=True, exist_ok=True)
    for split, (predictions, _, _) in judged.items():
        write_table(predictions, PREDICTIONS, beside / predictions_file(split, step))
    means = {split: of_split for split, (_, of_split, _) in judged.items()}
    for name in (SETTINGS, BUDGET_ROWS.name):
        if (source.path / name).exists():
            (beside / name).write_bytes((source.path / name).read_bytes())
    budget: Budget = {"adopted_from": place_of(source.path.parent, source.path.name), **result["budget"]}
    BUDGET.write(beside, budget)
    curves = _measurements(source.path / MEASUREMENTS.name, means, step)
    write_text(beside / MEASUREMENTS.name, "".join(curves))
    IDENTITY.write(beside, dict(identity))
    note = {
        "run": str(source.path.resolve()),
        "protocol": protocol.name,
        "rules": asdict(rules),
        "left_out": list(OF_CONFIDENCE) if any(missing for _, _, missing in judged.values()) else [],
        "made_from": digests(source),
        "git": code_state(),
        "versions": {name: version(name) for name in ("numpy", "pandas", "pyarrow", "rapidfuzz")},
    }
    MANIFEST.write(beside, {**source.manifest, "rescoring": note})
    again: Result = {
        **result,
        "experiment": f"{result['experiment']}@{protocol.name}",
        "hash": config_hash(identity),
        "list_length": rules.list_length,
        "cutoffs": list(rules.cutoffs),
        "metrics": means,
        "budget": budget,
        "rescored": {"hash": result["hash"], "protocol": protocol.name},
    }
    RESULT.write(beside, again)
    seal(beside)
    (beside / "STATUS").write_bytes((source.path / "STATUS").read_bytes())
    publish(beside, target)


def _measurements(file: Path, means: Mapping[str, Mapping[str, float]], step: int) -> Iterator[str]:
    """Lines of metrics.jsonl: the unchanged training lines, then the re-scored means."""
    for line in file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else ():
        if json.loads(line)["split"] == "train":  # each line was checked when the source was read
            yield f"{line}\n"
    for split, values in means.items():
        for name, value in values.items():
            yield json.dumps({"step": step, "split": split, "metric": name, "value": value}) + "\n"


# The command.


@dataclass(frozen=True)
class Rescored:
    """One run under one protocol, with its source and its directory."""

    source: ScoredRun
    protocol: Protocol
    target: Path

    def result(self) -> Result:
        with usable(RESULT.name):
            return read_result(self.target)


def rescore(
    runs: Path, protocols: Sequence[Protocol], out: Path, moved: Mapping[tuple[str, str], str] | None = None
) -> tuple[list[Rescored], list[Problem]]:
    """Re-score every finished run below a folder. Finished re-scorings are skipped.

    Returns:
        all re-scored runs, including earlier ones, and problems by run.

    Raises:
        BadInput: if `runs` is not a folder of runs, or contains `out`.
    """
    problems = [] if runs.is_dir() else [f"there is no folder {runs}"]
    if is_collection(runs):
        problems.append(f"{runs} is a collection, which has no texts; give the folder of the runs")
    if out.resolve().is_relative_to(runs.resolve()):
        problems.append(f"--out {out} lies in {runs}, which must not change; choose a folder elsewhere")
    if problems:
        raise BadInput(*problems)
    sources, told = read_sources(runs)
    sources.sort(key=lambda source: json.dumps(source.config.get("dataset"), sort_keys=True, default=str))
    data, made = ScoredData(moved or {}), []
    work = [(source, protocol) for source in sources for protocol in protocols]
    for source, protocol in tqdm(work, desc="re-scoring", unit="run", delay=1, disable=None, dynamic_ncols=True):
        try:
            rules = complete(protocol, source)
            target, identity = target_of(out, source, protocol, rules)
            if not is_done(target, digests(source)):
                write_rescored(source, protocol, rules, data, target, identity)
            made.append(Rescored(source, protocol, target))
        except (BadInput, Unusable) as error:
            told.append(Problem(source.name, str(error)))
    made.sort(key=lambda one: (one.protocol.name, one.source.name))
    return made, sorted(dict.fromkeys(told), key=lambda problem: problem.run)


def compare(made: Iterable[Rescored]) -> pd.DataFrame:
    """run, protocol, label, seed, split, metric, old, new: every mean before and after; NaN if it does not exist."""
    rows = []
    for one in made:
        old, new = one.source.result, one.result()
        for split in SPLITS:
            before, after = old["metrics"].get(split, {}), new["metrics"].get(split, {})
            for name in dict.fromkeys([*before, *after]):
                values = before.get(name, np.nan), after.get(name, np.nan)
                rows.append((one.source.name, one.protocol.name, old["label"], old["seed"], split, name, *values))
    return pd.DataFrame(rows, columns=["run", "protocol", "label", "seed", "split", "metric", "old", "new"])


def show(comparison: pd.DataFrame, console: Console) -> None:
    """Print the old and new test means of each row, averaged over its runs."""
    test = comparison[comparison["split"] == "test"]
    for protocol, part in test.groupby("protocol", sort=False):
        cutoffs = sorted(
            int(name.removeprefix("ndcg@")) for name in part["metric"].unique() if name.startswith("ndcg@")
        )
        names = required_metrics(cutoffs)
        rows = []
        for label, row in part.groupby("label", sort=True):
            means = row.groupby("metric")[["old", "new"]].mean().to_dict()
            cells = [f"{share(means['old'][name], 4)} → {share(means['new'][name], 4)}" for name in names]
            rows.append((str(label), str(row["run"].nunique()), *cells))
        sheet = sheet_of(f"Test, old → new: {protocol}", ("label", "runs", *names), rows, names=1)
        console.print(to_rich(sheet, console.width))


def parse_moved(texts: Sequence[str]) -> dict[tuple[str, str], str]:
    """Parse --data options of the form DATASET.KEY=PATH.

    Raises:
        BadInput: lists the options that do not have this form.
    """
    known = [f"{name}.{f.name}" for name, kind in schemas().items() for f in fields(kind) if f.name in PATHS]
    moved, problems = {}, []
    for text in texts:
        place, _, path = text.partition("=")
        if place not in known or not path:
            problems.append(f"--data {text}: expected KEY=PATH, KEY one of {', '.join(known)}.{nearest(place, known)}")
        dataset, _, key = place.partition(".")
        moved[dataset, key] = path
    if problems:
        raise BadInput(*problems)
    return moved


def default_out(runs: Path) -> Path:
    """Default folder of re-scored runs, next to the runs."""
    return runs.resolve().with_name(f"{runs.resolve().name}-rescored")


def run(options: argparse.Namespace) -> int:
    """Run the command with its parsed options, and return its exit code."""
    console = terminal()
    out = options.out or default_out(options.runs)
    protocols, moved = _parsed(options)
    made, told = rescore(options.runs, protocols, out, moved)
    show_problems(console, options.runs, told)
    if not made:
        raise BadInput(f"no run below {options.runs} could be judged again")
    comparison = compare(made)
    show(comparison, console)
    names = {name: comparison[name].map(as_text) for name in ("run", "protocol", "label", "metric")}
    write_text(out / "comparison.csv", comparison.assign(**names).to_csv(index=False))
    show_written(console, [*sorted({out / one.protocol.name for one in made}), out / "comparison.csv"])
    return 1 if told else 0


def _parsed(options: argparse.Namespace) -> tuple[list[Protocol], dict[tuple[str, str], str]]:
    """The values of --protocol and --data. Raises BadInput with the problems of both."""
    problems, protocols, moved = [], [], {}
    for text in options.protocol:
        try:
            protocols.append(parse_protocol(text))
        except BadInput as error:
            problems += error.problems
    try:
        moved = parse_moved(options.data)
    except BadInput as error:
        problems += error.problems
    if problems:
        raise BadInput(*problems)
    return protocols, moved
