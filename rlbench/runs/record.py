"""The form of a run's files: written by the runner, read by the analysis. Imports no torch.

docs/results-schema.md explains every field. A test keeps it equal to this file.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict, cast

from rlbench.base.records import (
    Damaged,
    Finite,
    Number,
    RecordFile,
    RowsFile,
    Text,
    Values,
    Whole,
    check_of,
    checked,
    is_number,
    is_text,
    is_whole,
    load_record,
)
from rlbench.config.bounds import LONGEST_LIST
from rlbench.config.names import odd_name

SCHEMA = 2
"""Version of the form. `read_result` refuses results of another version."""

STAGES = ("oracle", "baseline", "zero_shot", "sft", "external", "rl")
WITHOUT_MODEL = ("oracle", "baseline", "external")
"""Stages that read no model of the run. `external` judges lists from elsewhere (docs/scoring.md)."""
Stage = Annotated[str, Values(f"one of {', '.join(STAGES)}", STAGES.__contains__)]
Score = Annotated[float, Values("a number or null", lambda value: value is None or is_number(value))]
Name = Annotated[str, Values("a name that can be part of a path", lambda value: is_text(value) and not odd_name(value))]
Length = Annotated[int, Values("a length of lists", lambda value: is_whole(value) and value <= LONGEST_LIST)]
Cutoff = Annotated[int, Values("a rank of a list", lambda value: is_whole(value) and 0 < value <= LONGEST_LIST)]


class CheckpointUsed(TypedDict):
    """The evaluated weights."""

    rule: Text | None
    """How they were chosen: last or best; null without training."""
    step: Whole
    """Update of the weights."""


class Stopped(TypedDict):
    """Why a training stopped early."""

    update: Whole
    """Updates in the weights."""
    reason: Text


class Tuning(TypedDict):
    """How the settings of a classical baseline were chosen."""

    metric: Text
    """Metric on validation by which they were chosen."""
    chosen: dict[str, Any]
    """Setting to value."""
    tried: list[dict[str, Any]]
    """Settings that were tried, each with the `value` of the metric."""


class DemonstrationCounts(TypedDict):
    """The demonstrations of a training."""

    count: Whole
    at_limit: Whole
    """As long as `trainer.sft.max_length`, mostly cut."""
    without_end: Whole
    """Without EOS."""


class Seconds(TypedDict):
    """Seconds of wall-clock time; phases count only the time that no inner phase counts."""

    total: Finite
    rollout: NotRequired[Finite | None]
    reward: NotRequired[Finite | None]
    reference: NotRequired[Finite | None]
    update: NotRequired[Finite | None]
    evaluation: NotRequired[Finite | None]
    checkpoint: NotRequired[Finite | None]


PHASES = tuple(phase for phase in Seconds.__annotations__ if phase != "total")


COMPUTING = ("rollout", "reference", "update", "evaluation")
"""Phases that run the model."""


class OfPhases(TypedDict, total=False):
    """One number for each phase that runs the model; null where it is unknown."""

    rollout: Finite | None
    reference: Finite | None
    update: Finite | None
    evaluation: Finite | None


class Utilisation(OfPhases, total=False):
    """Needed operations divided by those that the devices could have made in the time of a phase, or of the stage."""

    total: Finite | None


class PeakRate(TypedDict, total=False):
    """What utilisation refers to."""

    operations_per_second: Finite
    """Of one device."""
    source: Text
    """documented or measured."""
    devices: Whole
    """Number of processes."""


class PeakMemory(TypedDict, total=False):
    """Bytes: resident memory of the process, and torch's memory on its GPU."""

    process: Finite | None
    gpu: Finite | None


class Joules(TypedDict, total=False):
    """Energy in joules; null if no counter can be read."""

    cpu: Finite | None
    gpu: Finite | None


class Inherited(TypedDict):
    """What a clone's parent had spent by the checkpoint from which the clone continues. Part of the clone's budget."""

    updates: Whole
    prompts: Finite
    completions: Finite
    generated_tokens: Finite
    trained_tokens: Finite
    seconds: Finite


class Budget(TypedDict):
    """What one stage spent over all its attempts. Runs of earlier versions lack the fields that are not required."""

    prompts: Finite
    completions: Finite
    generated_tokens: Finite
    updates: Finite
    """Optimiser updates in the weights."""
    trained_tokens: NotRequired[Finite | None]
    evaluation_tokens: NotRequired[Finite | None]
    reference_tokens: NotRequired[Finite | None]
    operations: NotRequired[OfPhases | None]
    """Floating-point operations that the phases needed."""
    tokens_per_second: NotRequired[OfPhases | None]
    mfu: NotRequired[Utilisation | None]
    peak: NotRequired[PeakRate | None]
    attempts: NotRequired[Finite | None]
    seconds: Seconds
    peak_memory_bytes: NotRequired[PeakMemory | None]
    energy_joules: NotRequired[Joules | None]
    adopted_from: NotRequired[Text | None]
    """Directory below `runs_dir` of the run that spent it, if it was another one."""
    inherited: NotRequired[Inherited | None]
    """The part that the parent of a clone spent."""


class Ancestry(TypedDict):
    """The run that a clone continues, and the changed settings."""

    parent: Text
    """sha256 of the parent's identity."""
    stage: Stage
    step: Whole
    changed: list[Text]
    """KEY=VALUE."""
    run: Text
    """The parent's directory below `runs_dir`."""
    name: Text
    """The parent's row."""


class RescoredFrom(TypedDict):
    """The run whose lists were judged again."""

    hash: Text
    protocol: Text


class Outcome(TypedDict):
    """What a stage adds to the settings of its run: the measured part of a result."""

    metrics: dict[str, dict[str, Score]]
    """Split (validation, test) to metric to its mean over samples, or its value for the whole split; null if there was
    nothing to measure."""
    checkpoint: CheckpointUsed
    budget: Budget
    demonstrations: NotRequired[DemonstrationCounts]
    tuning: NotRequired[Tuning]
    """Classical baselines with settings only."""
    stopped: NotRequired[Stopped | None]
    """RL stage only; null if the training did not stop early."""
    token_budget: NotRequired[int]
    """RL stages that end after a number of generated tokens."""


class Result(Outcome):
    """Final numbers of a run, with the names that its directory has."""

    schema: int
    experiment: Name
    dataset: Name
    model: Name
    stage: Stage
    label: Name
    seed: Whole
    hash: Name
    algorithm: NotRequired[Text | None]
    reward: NotRequired[Text | None]
    variant: NotRequired[Text | None]
    list_length: Length
    cutoffs: list[Cutoff]
    rescored: NotRequired[RescoredFrom]
    clone: NotRequired[Ancestry | None]
    """Clones only."""


class Git(TypedDict, total=False):
    """State of the code."""

    commit: Text | None
    dirty: bool | None
    changed: list[Text] | None
    diff_sha256: Text | None
    version: Text
    """Installed copies only."""
    sha256: Text
    """Installed copies only: digest of their files."""


class Hardware(TypedDict, total=False):
    """The machine, as far as speed and rounding may depend on it."""

    machine: Text
    system: Text
    cpu: Text
    cpus: Whole | None
    threads: Whole
    memory_bytes: Whole
    gpus: list[Text]
    gpu_driver: Text | None
    cuda: Text | None


class DataOrigin(TypedDict, total=False):
    """The data of a run."""

    name: Text
    sha256: Text
    notices: list[Text]


class ModelOrigin(TypedDict):
    """The files of the model that a run began with."""

    folder: NotRequired[Text]
    files: dict[str, Text]
    """File name to sha256."""
    revision: NotRequired[Text | None]


class Spread(TypedDict, total=False):
    """How a run is distributed."""

    processes: Whole
    strategy: Text | None
    """null for one process."""


class Manifest(Spread, total=False):
    """Origin of a run. Runs of earlier versions lack some keys."""

    git: Git | None
    versions: dict[str, Text]
    packages: dict[str, Text]
    hardware: Hardware
    data: DataOrigin
    model: ModelOrigin
    plugins: dict[str, Text]
    lists: dict[str, Any]
    """Lists from elsewhere only: their files, or the model that wrote them."""
    prompt_sha256: Text
    command: list[Text]
    adopted_from: Text
    rescoring: dict[str, Any]
    clone: Ancestry


class AttemptFacts(TypedDict, total=False):
    """One start of a run. Times are UTC in ISO 8601."""

    number: Whole
    """1 for the first start."""
    started: Text | None
    ended: Text | None
    """null while it runs, or if it was killed."""
    outcome: Text
    """running, a word of STATUS, or unknown."""
    reason: Text
    from_update: Whole | None
    """Update of the checkpoint from which training resumed; 0: from the start; null: no training."""
    reached_update: Whole | None
    command: list[Text]
    pid: Whole
    device: Text
    hardware: Hardware
    changed: list[Text]
    """Differences in code, versions, hardware and plugins from the previous attempt."""


class Job(TypedDict):
    """The last SLURM job of a cell."""

    job: Text


class SweepCell(TypedDict):
    """One cell of a sweep."""

    command: list[Text]
    updates: Whole
    """Updates of its last stage."""


class Sweep(TypedDict):
    """The cells of an experiment's sweeps by directory below the experiment, and the digest of the cells."""

    cells: dict[str, SweepCell]
    sha256: NotRequired[Text]


class Measurement(TypedDict):
    """One measured value. If two lines have the same step, split and metric, the later one counts."""

    step: Whole
    """Optimiser updates before it."""
    split: Text
    metric: Text
    value: Number


class Spent(TypedDict):
    """What a training has spent by an update, over all attempts."""

    update: Whole
    prompts: Finite
    completions: Finite
    generated_tokens: Finite
    trained_tokens: Finite
    seconds: Finite


def _item(*also: Any) -> Any:
    """The form of a list of title, year or null, and further values."""
    checks = [is_text, check_of(Whole | None), *map(check_of, also)]
    return lambda value: (
        isinstance(value, list)
        and len(value) == len(checks)
        and all(check(one) for check, one in zip(checks, value, strict=True))
    )


Item = Annotated[list[Any], Values("[title, year]", _item())]
JudgedItem = Annotated[list[Any], Values("[title, year, verdict]", _item(Text))]
CreditedItem = Annotated[
    list[Any], Values("[title, year, verdict, return, advantage]", _item(Text, Number | None, Number | None))
]


class ShownPrompt(TypedDict):
    """What all lists for human readers have."""

    step: Whole
    context_id: Text | None
    prompt: Text
    """The end of the prompt."""
    relevant: list[Item]


class GreedyList(ShownPrompt):
    """A greedy list of an evaluation, without its score `ndcg@<N>`."""

    split: Text
    ranks: list[JudgedItem]
    text: Text


class SampledList(TypedDict):
    """One list of a training group."""

    ranks: list[CreditedItem]
    reward: Number | None
    hits: Whole
    finished: bool
    text: Text


class RolloutGroup(ShownPrompt):
    """A sampled training group."""

    lists: list[SampledList]


def is_greedy(row: Mapping[str, Any]) -> bool:
    """Whether a line of completions.jsonl has every field, with the right type."""
    scores = [value for name, value in row.items() if name.startswith("ndcg@")]
    return check_of(GreedyList)(row) and all(value is None or is_number(value) for value in scores)


RESULT = RecordFile("result.json", Result)
BUDGET = RecordFile("budget.json", Budget)
MANIFEST = RecordFile("manifest.json", Manifest)
IDENTITY = RecordFile("identity.json", dict[str, Any])
ATTEMPT = RecordFile("attempt.json", AttemptFacts)
JOB = RecordFile("slurm.json", Job)
INHERITED = RecordFile("inherited.json", Inherited)
SWEEP = RecordFile("sweep.json", Sweep)
MEASUREMENTS = RowsFile[Measurement]("metrics.jsonl", Measurement, "measurement")
BUDGET_ROWS = RowsFile[Spent]("budget.jsonl", Spent, "record of what an update spent")
Greedy = Annotated[dict[str, Any], Values("a greedy list", is_greedy)]
COMPLETIONS = RowsFile[dict[str, Any]]("completions.jsonl", Greedy, "sample")
ROLLOUTS = RowsFile[RolloutGroup]("rollouts.jsonl", RolloutGroup, "sample")
SETTINGS = "config.yaml"


class OtherVersion(Damaged):
    """A result of another version of the form. The message says what to do."""


def read_result(folder: Path) -> Result:
    """Return the result of a finished run, with every field checked that a reader may rely on.

    Raises:
        FileNotFoundError: if the run has none.
        OtherVersion: if it is of another version.
        Damaged: if it is damaged.
    """
    content = load_record(folder / RESULT.name)
    if content.get("schema") != SCHEMA:
        raise OtherVersion(
            f"is of schema version {content.get('schema')!r} and this reader knows {SCHEMA}: read it with the version "
            "of rlbench that made it, or make the run again"
        )
    checked(Result, content)
    result = cast(Result, content)
    if not result["cutoffs"]:
        raise Damaged("has no cut-offs")
    needed = ("algorithm", "reward") if result["stage"] == "rl" else ()
    lacking = [key for key in needed if content.get(key) is None]
    test = result["metrics"].get("test", {})
    lacking += [f"metrics.test.{name}" for name in required_metrics(result["cutoffs"]) if test.get(name) is None]
    if lacking:
        raise Damaged(f"lacks {', '.join(lacking)}")
    for split in ("validation", "test"):
        values = result["metrics"].get(split, {}).items()
        if odd := sorted(name for name, value in values if value is not None and not math.isfinite(value)):
            raise Damaged(f"has {split} metrics that are NaN or infinite: {', '.join(odd)}")
    return result


def required_metrics(cutoffs: Sequence[int]) -> list[str]:
    """Per-query test metrics that every run has."""
    return [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in cutoffs] + ["in_catalog"]
