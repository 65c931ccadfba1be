"""`python -m analysis.rescore runs/mini --protocol tolerant`: re-score finished runs, without a model.

A run stores the text of every list that it was scored on. A protocol defines how texts are parsed and matched with the
catalogue (`conf/matching/`), the list length and the cut-offs. Re-scoring needs only the texts and the dataset. The old
runs stay unchanged. Each protocol writes its own tree of run directories, which every command of `analysis` reads.

Values that a protocol cannot change are copied: tokens, whether the model ended the list, confidence, budget, training
curves. Confidence is stored only for ranks that the run parsed; if a new rank has none, `ece` and `brier` are omitted.
On validation only the checkpoint of the result has texts, so the validation curve has only that point.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from analysis.collection.costs import place_of
from analysis.collection.reading import (
    Problem,
    Run,
    Unusable,
    find_runs,
    is_name,
    read_json,
    read_run,
    read_text,
    required_metrics,
)
from analysis.collection.stored import is_collection
from analysis.command import make_parser, refuse, show_problems, show_written, terminal
from analysis.tables.write import as_text
from rlbench.base.digests import damage
from rlbench.base.errors import BadInput, nearest
from rlbench.base.files import partial_folder, publish, write_json, write_text
from rlbench.base.git import code_state
from rlbench.base.program import CONF
from rlbench.base.user_files import parse_yaml
from rlbench.config.schema import DATASETS, EvaluationConfig, MatchingConfig, wrong_types
from rlbench.data import load_dataset
from rlbench.data.facts import film_facts
from rlbench.data.record import RankedListDataset, Record
from rlbench.evaluation.judging import Answer, choose_contexts, judge_answers, sampled_metrics
from rlbench.lists.entries import ParsedText
from rlbench.lists.film_facts import FilmFacts
from rlbench.lists.relevance import Judge, make_judge
from rlbench.running.checks import check_matching
from rlbench.runs.directory import DONE, seal, status_of
from rlbench.runs.identity import config_hash

MATCHING = CONF / "matching"
OWN = "own"
"""Name of the protocol that keeps each run's own matching rules."""
SPLITS = ("validation", "test")
Kind = Callable[[pa.DataType], bool]
KEPT_COLUMNS: dict[str, Kind] = {
    "context_id": is_name,
    "sample": pa.types.is_integer,
    "text": is_name,
    "confidence": lambda kind: pa.types.is_list(kind) and pa.types.is_floating(kind.value_type),
    "finished": pa.types.is_boolean,
    "completion_tokens": lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind),
}
"""Columns of the predictions that re-scoring needs, with a check of their type."""
SAMPLE_COLUMNS: dict[str, Kind] = {"context_id": is_name, "text": is_name}
"""Columns of the sampled lists that re-scoring needs."""
OF_CONFIDENCE = ("ece", "brier")
PATHS = ("path", "catalog")
"""Keys of a dataset's configuration that are file paths."""


@dataclass(frozen=True)
class Protocol:
    """How lists are scored.

    Attributes:
        name: as the user wrote it.
        matching: matching rules for titles; None for each run's own.
        list_length: N; None for each run's own.
        cutoffs: K of the metrics; None for each run's own.
    """

    name: str
    matching: MatchingConfig | None
    list_length: int | None
    cutoffs: tuple[int, ...] | None


@dataclass(frozen=True)
class Rules:
    """The rules of a protocol for one run, with every part known."""

    matching: MatchingConfig
    list_length: int
    cutoffs: tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """A run that can be re-scored.

    Attributes:
        path: its directory.
        run: as read.
        config: config.yaml.
        identity: identity.json.
        manifest: manifest.json.
    """

    path: Path
    run: Run
    config: Mapping[str, Any]
    identity: Mapping[str, Any]
    manifest: Mapping[str, Any]


# Protocols.


def matching_names() -> list[str]:
    """Names of the rules in `conf/matching/`."""
    return sorted(path.stem for path in MATCHING.glob("*.yaml"))


def parse_protocol(text: str) -> Protocol:
    """A protocol from NAME[,KEY=VALUE]...

    NAME is one of `conf/matching/`, or `own`. KEY is list_length, cutoffs (5+10), or a key of the matching rules:
    normalisers (nfkc+casefold), year_tolerance, fuzzy_threshold.

    Raises:
        BadInput: lists all problems of the protocol.
    """
    name, *parts = text.split(",")
    known = [*matching_names(), OWN]
    problems = []
    if name not in known:
        problems.append(f"--protocol {text}: there is no '{name}'; known: {', '.join(known)}.{nearest(name, known)}")
    rules = ("normalisers", "year_tolerance", "fuzzy_threshold")
    keys = ["list_length", "cutoffs", *(rules if name != OWN else ())]
    values: dict[str, Any] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key not in keys:
            problems.append(f"--protocol {text}: '{key}' is none of {', '.join(keys)}.{nearest(key, keys)}")
            continue
        try:
            values[key] = _PARSE[key](value)
        except ValueError:
            problems.append(f"--protocol {text}: {key}={value} is not {_FORMS[key]}")
    if problems:
        raise BadInput(*problems)
    matching = None
    if name != OWN:
        content = yaml.safe_load((MATCHING / f"{name}.yaml").read_text(encoding="utf-8"))
        changes = {key: value for key, value in values.items() if key in rules}
        matching = MatchingConfig(**content | changes | ({"name": text} if changes else {}))
        problems += [f"--protocol {text}: {problem}" for problem in check_matching(matching)]
    protocol = Protocol(text, matching, values.get("list_length"), values.get("cutoffs"))
    length, cutoffs = protocol.list_length, protocol.cutoffs
    if length is not None and length < 1:
        problems.append(f"--protocol {text}: list_length must be at least 1")
    if cutoffs is not None and (min(cutoffs) < 1 or len(set(cutoffs)) < len(cutoffs)):
        problems.append(f"--protocol {text}: cutoffs must be different numbers from 1 on")
    if length is not None and cutoffs is not None and max(cutoffs) > length:
        problems.append(f"--protocol {text}: a list of {length} cannot be cut at {max(cutoffs)}")
    if problems:
        raise BadInput(*problems)
    return protocol


_PARSE: dict[str, Callable[[str], Any]] = {
    "list_length": int,
    "cutoffs": lambda text: tuple(int(part) for part in text.split("+")),
    "normalisers": lambda text: [part for part in text.split("+") if part],
    "year_tolerance": int,
    "fuzzy_threshold": lambda text: None if text == "null" else float(text),
}
_FORMS = {
    "list_length": "a whole number",
    "cutoffs": "whole numbers joined by +",
    "year_tolerance": "a whole number",
    "fuzzy_threshold": "a number or null",
}


def rules_of(protocol: Protocol, source: Source) -> Rules:
    """A protocol with missing parts taken from the run.

    Raises:
        Unusable: if a cut-off exceeds the list length, or the run's own rules are unknown.
    """
    result = source.run.result
    length = protocol.list_length or result["list_length"]
    cutoffs = protocol.cutoffs or tuple(result["cutoffs"])
    if max(cutoffs) > length:
        raise Unusable(
            f"--protocol {protocol.name}: its lists of {length} cannot be cut at {max(cutoffs)}: give cutoffs="
        )
    return Rules(protocol.matching or _own_matching(source), length, cutoffs)


def _own_matching(source: Source) -> MatchingConfig:
    matching = MatchingConfig(**_typed(source.config, "matching", MatchingConfig))
    if problems := check_matching(matching):
        raise Unusable(f"config.yaml: {'; '.join(problems)}")
    return matching


def _typed(config: Mapping[str, Any], key: str, schema: type) -> dict[str, Any]:
    """A part of a config that matches the schema. Keys with a default may be absent.

    Raises:
        Unusable: if it does not match.
    """
    wanted = {field.name for field in fields(schema)}
    needed = {field.name for field in fields(schema) if field.default is MISSING and field.default_factory is MISSING}
    part = config.get(key)
    if not isinstance(part, dict) or not needed <= part.keys() <= wanted:
        raise Unusable(f"config.yaml has under {key} not what this version of rlbench has: {', '.join(sorted(wanted))}")
    if problems := wrong_types(key, schema, part):
        raise Unusable(f"config.yaml: {'; '.join(problems)}")
    return part


# Sources.


def read_sources(folder: Path) -> tuple[list[Source], list[Problem]]:
    """The runs below a folder that can be re-scored, and a problem for each of the others."""
    sources, problems = [], []
    for path in find_runs(folder):
        name = path.relative_to(folder).as_posix()
        try:
            run, _ = read_run(path, name)
            if "rescored" in run.result:
                raise Unusable("is a re-scoring itself: name the folder of the runs that it was made from")
            kept = [_mapping(path / file) for file in ("config.yaml", "identity.json", "manifest.json")]
            sources.append(Source(path, run, *kept))
        except Unusable as error:
            problems.append(Problem(name, str(error)))
    return sources, problems


def _mapping(file: Path) -> Mapping[str, Any]:
    try:
        content = read_json(file) if file.suffix == ".json" else parse_yaml(read_text(file), file.name)
    except BadInput as error:
        raise Unusable(f"half-written: {error}") from None
    if not isinstance(content, dict):
        raise Unusable(f"half-written: {file.name} holds no object")
    return content


class Data:
    """Datasets with their judges, one dataset in memory at a time.

    Args:
        moved: (dataset, key of `PATHS`) to the new path of the files.
    """

    def __init__(self, moved: Mapping[tuple[str, str], str]):
        self._moved = moved
        self._options: dict[str, Any] = {}
        self._dataset: RankedListDataset | None = None
        self._judges: dict[str, tuple[Judge, FilmFacts]] = {}

    def of(self, source: Source) -> RankedListDataset:
        """The dataset of a run.

        Raises:
            Unusable: if it cannot be loaded, or differs from the data that the run was scored on.
        """
        name = source.run.result["dataset"]
        if name not in DATASETS:
            raise Unusable(f"its dataset '{name}' is none of {', '.join(DATASETS)}")
        moved = {key: path for (dataset, key), path in self._moved.items() if dataset == name}
        options = _typed(source.config, "dataset", DATASETS[name]) | moved
        if self._dataset is None or options != self._options:
            self._judges.clear()
            try:
                self._dataset = load_dataset(DATASETS[name](**options))
            except BadInput as error:
                self._dataset = None
                raise Unusable(
                    f"its dataset cannot be loaded: {'; '.join(error.problems)} (where the files have moved, give "
                    f"their place by --data {name}.path=FOLDER)"
                ) from None
            self._options = options
        data = source.manifest.get("data")
        recorded = data.get("sha256") if isinstance(data, dict) else None
        if recorded != self._dataset.fingerprint:
            raise Unusable(
                f"it was judged on other data: manifest.json has sha256 {str(recorded)[:12]}, {name} is "
                f"{self._dataset.fingerprint[:12]} now: give the files that it was made with by --data "
                f"{name}.path=FOLDER, or check out the code that made it"
            )
        return self._dataset

    def judge(self, dataset: RankedListDataset, rules: Rules) -> tuple[Judge, FilmFacts]:
        """The judge for these rules on the given dataset, which must be the one loaded last, and its film facts."""
        key = json.dumps([asdict(rules.matching), rules.list_length])
        if key not in self._judges:
            judge = make_judge(rules.matching, dataset.catalog, rules.list_length)
            self._judges[key] = judge, film_facts(dataset, judge.catalog)
        return self._judges[key]


# Re-scoring.


def confidence_by_line(
    kept: NDArray[np.float64], old: ParsedText, new: ParsedText, list_length: int
) -> tuple[NDArray[np.float64], bool]:
    """Confidence of the ranks as another judge parses them. A rank is a line, and the tokens of a line do not change.

    Args:
        kept: confidence of the entries as the run parsed them.
        old, new: the completion as the two judges parse it.
        list_length: N.

    Returns:
        (N,) by rank, NaN if there is no such rank or its confidence was not stored; and whether any was missing.
    """
    of_line = dict(zip(old.lines, kept.tolist(), strict=False))
    lines = list(new.lines)[:list_length]
    confidence = np.full(list_length, np.nan)
    confidence[: len(lines)] = [of_line.get(line, np.nan) for line in lines]
    return confidence, any(line not in of_line for line in lines)


def judge_again(
    source: Source, split: str, rules: Rules, dataset: RankedListDataset, data: Data
) -> tuple[pd.DataFrame, dict[str, float], bool]:
    """Predictions and means of one split under other rules, and whether any confidence was missing.

    Raises:
        Unusable: if the predictions cannot be read, lack a column or cover other samples.
    """
    result, evaluation = source.run.result, _typed(source.config, "evaluation", EvaluationConfig)
    file = source.path / f"predictions-{split}-{result['checkpoint']['step']}.parquet"
    old = _read_table(file, KEPT_COLUMNS)
    records = choose_contexts(dataset.splits[split], evaluation[f"{split}_contexts"])
    if old["context_id"].tolist() != [record.context_id for record in records]:
        raise Unusable(f"{file.name} is not of the {len(records)} samples that its settings choose from {split}")
    judge, facts = data.judge(dataset, rules)
    before = make_judge(_own_matching(source), dataset.catalog, result["list_length"])
    answers: dict[str, Answer] = {}
    missing = False
    first = old.drop_duplicates("context_id")
    columns = (first[name].tolist() for name in ("context_id", "text", "confidence", "finished", "completion_tokens"))
    for context, text, kept, finished, n_tokens in zip(*columns, strict=True):
        parsed = judge.parse(text)
        confidence, lacks = confidence_by_line(kept, before.parse(text), parsed, judge.list_length)
        answers[context] = Answer(text, parsed, finished, int(n_tokens), confidence)
        missing |= lacks and bool(np.isfinite(kept).any())
    predictions, means = judge_answers(records, answers, judge, facts, list(rules.cutoffs))
    if missing:
        means = {name: value for name, value in means.items() if name not in OF_CONFIDENCE}
    if split == "test" and evaluation.get("samples") and result["stage"] != "oracle":
        together = _sampled(source, records, judge)
        predictions = predictions.assign(**together)
        means |= {name: float(values.mean()) for name, values in together.items()}
    return predictions, means, missing


def _read_table(file: Path, kinds: Mapping[str, Kind]) -> pd.DataFrame:
    """Read columns of a parquet file.

    Raises:
        Unusable: if it is not parquet, lacks a column, or a column has another type or empty cells.
    """
    try:
        schema = pq.read_schema(file)
        if absent := [name for name in kinds if name not in schema.names]:
            raise Unusable(f"{file.name} has no column {', '.join(absent)}, which re-scoring needs")
        if odd := [name for name, is_kind in kinds.items() if not is_kind(schema.field(name).type)]:
            raise Unusable(f"{file.name} holds another kind of value under {', '.join(odd)} than re-scoring needs")
        table = pq.read_table(file, columns=list(kinds))
    except FileNotFoundError:
        raise Unusable(f"half-written: says done but has no {file.name}") from None
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: text that is not UTF-8
        raise Unusable(f"half-written: {file.name} is not parquet ({error})") from None
    frame = table.to_pandas()
    if odd := [name for name in kinds if frame[name].isna().any()]:
        raise Unusable(f"{file.name} has no {', '.join(odd)} in some rows")
    return frame


def _sampled(source: Source, records: Sequence[Record], judge: Judge) -> dict[str, NDArray[np.float64]]:
    """pass@k and the recall of the union of k lists, from the stored sampled lists."""
    file = source.path / f"samples-test-{source.run.result['checkpoint']['step']}.parquet"
    if not file.exists():
        raise Unusable(f"half-written: its settings ask for sampled lists, and there is no {file.name}")
    evaluation = _typed(source.config, "evaluation", EvaluationConfig)
    samples = _read_table(file, SAMPLE_COLUMNS)
    counts = samples["context_id"].value_counts()
    if any(counts.get(record.context_id) != evaluation["samples"] for record in records):
        raise Unusable(
            f"{file.name} does not hold {evaluation['samples']} lists of each context of test, as its settings say"
        )
    return sampled_metrics(records, samples, judge, evaluation["samples"], evaluation["pass_at"])


# Writing.


def target_of(out: Path, source: Source, protocol: Protocol, rules: Rules) -> tuple[Path, dict[str, Any]]:
    """The directory of a re-scored run, and its identity."""
    identity = {**source.identity, "rescoring": json.loads(json.dumps(asdict(rules)))}
    seed = source.run.result["seed"]
    return out / protocol.name / Path(source.run.name).parent / f"seed{seed}-{config_hash(identity)}", identity


def digests(source: Source) -> dict[str, str]:
    """File to sha256, for the input files of a re-scoring."""
    step = source.run.result["checkpoint"]["step"]
    names = ["result.json", "config.yaml", "identity.json", "manifest.json", "metrics.jsonl", "budget.jsonl"]
    names += [f"{kind}-{split}-{step}.parquet" for kind in ("predictions", "samples") for split in SPLITS]
    found = {}
    for name in names:
        if (source.path / name).exists():
            with (source.path / name).open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def is_done(target: Path, made_from: Mapping[str, str]) -> bool:
    """Whether an undamaged finished re-scored run from exactly these files exists. A damaged one is made again.

    Raises:
        Unusable: if the directory has other content, or does not say what it is.
    """
    if not target.exists():
        return False
    manifest = target / "manifest.json"
    try:
        note = read_json(manifest).get("rescoring") if manifest.exists() else None
    except Unusable as error:
        raise Unusable(f"{target}: {error}. Move it away, or name another --out") from None
    if not isinstance(note, dict):
        raise Unusable(f"{target} is there and no re-scoring: move it away, or name another --out")
    return status_of(target) == DONE and note.get("made_from") == made_from and not damage(target)


def write_rescored(
    source: Source, protocol: Protocol, rules: Rules, data: Data, target: Path, identity: Mapping[str, Any]
) -> None:
    """Re-score a run and write its directory.

    Raises:
        Unusable: if it cannot be re-scored.
    """
    dataset = data.of(source)
    judged = {split: judge_again(source, split, rules, dataset, data) for split in SPLITS}
    result, step = source.run.result, source.run.result["checkpoint"]["step"]
    beside = partial_folder(target)
    beside.mkdir(parents=True, exist_ok=True)
    for split, (predictions, _, _) in judged.items():
        predictions.to_parquet(beside / f"predictions-{split}-{step}.parquet")
    means = {split: of_split for split, (_, of_split, _) in judged.items()}
    for name in ("config.yaml", "budget.jsonl"):
        if (source.path / name).exists():
            (beside / name).write_bytes((source.path / name).read_bytes())
    budget = {"adopted_from": place_of(source.path.parent, source.path.name)} | result["budget"]
    write_json(beside / "budget.json", budget)
    write_text(beside / "metrics.jsonl", "".join(_measurements(source.path / "metrics.jsonl", means, step)))
    write_json(beside / "identity.json", identity)
    note = {
        "run": str(source.path.resolve()),
        "protocol": protocol.name,
        "rules": asdict(rules),
        "left_out": list(OF_CONFIDENCE) if any(missing for _, _, missing in judged.values()) else [],
        "made_from": digests(source),
        "git": code_state(),
        "versions": {name: version(name) for name in ("numpy", "pandas", "pyarrow", "rapidfuzz")},
    }
    write_json(beside / "manifest.json", {**source.manifest, "rescoring": note})
    changed = {
        "experiment": f"{result['experiment']}@{protocol.name}",
        "hash": config_hash(identity),
        "list_length": rules.list_length,
        "cutoffs": list(rules.cutoffs),
        "metrics": means,
        "budget": budget,
        "rescored": {"hash": result["hash"], "protocol": protocol.name},
    }
    write_json(beside / "result.json", {**result, **changed})
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

    source: Source
    protocol: Protocol
    target: Path

    def result(self) -> Mapping[str, Any]:
        return read_json(self.target / "result.json")


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
        problems.append(f"{runs} is a collection, which keeps no texts: name the folder of the runs")
    if out.resolve().is_relative_to(runs.resolve()):
        problems.append(f"--out {out} lies in {runs}, whose runs are left as they are: name a folder elsewhere")
    if problems:
        raise BadInput(*problems)
    sources, told = read_sources(runs)
    sources.sort(key=lambda source: json.dumps(source.config.get("dataset"), sort_keys=True, default=str))
    data, made = Data(moved or {}), []
    work = [(source, protocol) for source in sources for protocol in protocols]
    for source, protocol in tqdm(work, desc="re-scoring", unit="run", delay=1, disable=None, dynamic_ncols=True):
        try:
            rules = rules_of(protocol, source)
            target, identity = target_of(out, source, protocol, rules)
            if not is_done(target, digests(source)):
                write_rescored(source, protocol, rules, data, target, identity)
            made.append(Rescored(source, protocol, target))
        except Unusable as error:
            told.append(Problem(source.run.name, str(error)))
    made.sort(key=lambda one: (one.protocol.name, one.source.run.name))
    return made, sorted(dict.fromkeys(told), key=lambda problem: problem.run)


def compare(made: Iterable[Rescored]) -> pd.DataFrame:
    """run, protocol, label, seed, split, metric, old, new: every mean before and after; NaN if it does not exist."""
    rows = []
    for one in made:
        old, new = one.source.run.result, one.result()
        for split in SPLITS:
            before, after = old["metrics"].get(split, {}), new["metrics"].get(split, {})
            for name in dict.fromkeys([*before, *after]):
                values = before.get(name, np.nan), after.get(name, np.nan)
                rows.append((one.source.run.name, one.protocol.name, old["label"], old["seed"], split, name, *values))
    return pd.DataFrame(rows, columns=["run", "protocol", "label", "seed", "split", "metric", "old", "new"])


def show(comparison: pd.DataFrame, console: Console) -> None:
    """Print the old and new test means of each row, averaged over its runs."""
    test = comparison[comparison["split"] == "test"]
    for protocol, part in test.groupby("protocol", sort=False):
        cutoffs = sorted(
            int(name.removeprefix("ndcg@")) for name in part["metric"].unique() if name.startswith("ndcg@")
        )
        names = required_metrics(cutoffs)
        table = Table(title=f"Test, old → new: {protocol}", title_justify="left")
        for header in ("label", "runs", *names):
            table.add_column(header)
        for label, row in part.groupby("label", sort=True):
            means = row.groupby("metric")[["old", "new"]].mean().to_dict()
            cells = [f"{_shown(means['old'][name])} → {_shown(means['new'][name])}" for name in names]
            table.add_row(str(label), str(row["run"].nunique()), *cells)
        console.print(table)


def _shown(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4f}"


def parse_moved(texts: Sequence[str]) -> dict[tuple[str, str], str]:
    """Parse --data options of the form DATASET.KEY=PATH.

    Raises:
        BadInput: lists the options that do not have this form.
    """
    moved, problems = {}, []
    for text in texts:
        place, _, path = text.partition("=")
        dataset, _, key = place.partition(".")
        known = [f.name for f in fields(DATASETS[dataset]) if f.name in PATHS] if dataset in DATASETS else []
        if key not in known or not path:
            forms = [f"{name}.{f.name}" for name, kind in DATASETS.items() for f in fields(kind) if f.name in PATHS]
            problems.append(f"--data {text}: expected KEY=PATH, KEY one of {', '.join(forms)}.{nearest(place, forms)}")
        moved[dataset, key] = path
    if problems:
        raise BadInput(*problems)
    return moved


def default_out(runs: Path) -> Path:
    """Default folder of re-scored runs, next to the runs."""
    return runs.resolve().with_name(f"{runs.resolve().name}-rescored")


DESCRIPTION = """\
Judge the lists of finished runs again by other rules, without a model.

PROTOCOL is NAME[,KEY=VALUE]... NAME is a file of conf/matching/ (casefold, exact, fuzzy, published, tolerant), or `own`
for the rules of each run. KEY is list_length, cutoffs (5+10), normalisers (nfkc+casefold), year_tolerance or
fuzzy_threshold. The columns published_* of the published protocols come out too, at the new cut-offs.

Writes below the --out folder a tree of run directories for each protocol, which every command of analysis reads, and
comparison.csv: every mean, old and new. The runs themselves are not touched. Given again, it makes what is missing.
"""
EPILOG = """\
example:  python -m analysis.rescore runs/mini --protocol tolerant --protocol own,cutoffs=1+3+10
          python -m analysis.report runs/mini-rescored
exit code: 0 all done; 1 some runs could not be judged again; 2 nothing could be, or an option is wrong
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    console = terminal()
    out = options.out or default_out(options.runs)
    try:
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
        made, told = rescore(options.runs, protocols, out, moved)
    except BadInput as error:
        return refuse("rescore", error)
    show_problems(console, options.runs, told)
    if not made:
        return refuse("rescore", BadInput(f"no run below {options.runs} could be judged again"))
    comparison = compare(made)
    show(comparison, console)
    names = {name: comparison[name].map(as_text) for name in ("run", "protocol", "label", "metric")}
    write_text(out / "comparison.csv", comparison.assign(**names).to_csv(index=False))
    show_written(console, [*sorted({out / one.protocol.name for one in made}), out / "comparison.csv"])
    return 1 if told else 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("rescore", DESCRIPTION, EPILOG, "folder with run directories at any depth")
    parser.add_argument(
        "--protocol", action="append", required=True, metavar="PROTOCOL", help="as above; may be repeated"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: RUNS-rescored)")
    where = "where a dataset's files are now, for example reddit_v2.path=FOLDER; may be repeated"
    parser.add_argument("--data", action="append", default=[], metavar="KEY=PATH", help=where)
    return parser


if __name__ == "__main__":
    sys.exit(main())
