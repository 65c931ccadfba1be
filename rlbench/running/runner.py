"""Runs one cell: checks everything first, then runs its stages, each in its own run directory.

Oracle, zero-shot, SFT and baseline stages are shared: the first cell of a sweep that needs one runs it, and the others
reuse it. Baselines run last, so that training starts without delay.
"""

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import cast

import torch
from datasets import disable_progress_bars
from transformers.utils import logging as hf_logging

from rlbench.base import preemption
from rlbench.base.errors import BadInput
from rlbench.config.plugins import used_by
from rlbench.config.schema import CloneConfig, Config
from rlbench.evaluation.recording import Recording
from rlbench.lists.metric_catalogue import metric_title
from rlbench.models.loading import check_model
from rlbench.models.sources import differing_files
from rlbench.running import plan, shortage, stages
from rlbench.running.checks import check_config
from rlbench.running.classical import baseline_runs, missing_baselines
from rlbench.running.session import Session, console, prepare
from rlbench.running.tracked import identity_of, show_finished, track_result
from rlbench.runs import attempts, inputs, processes, sharing, versions
from rlbench.runs.attempts import Attempt, logged
from rlbench.runs.budget import Ledger
from rlbench.runs.claiming import note_unlocated, noted
from rlbench.runs.completions import CompletionLog
from rlbench.runs.directory import DONE, Run, check_done, locate, locate_all
from rlbench.runs.existing import check_curve, check_plugins, check_recorded, check_row, check_start, superseded
from rlbench.runs.identity import differing_keys
from rlbench.runs.provenance import manifest
from rlbench.runs.record import (
    BUDGET,
    MANIFEST,
    RESULT,
    SCHEMA,
    WITHOUT_MODEL,
    Ancestry,
    Manifest,
    ModelOrigin,
    Outcome,
    Result,
)
from rlbench.tracking import make_tracker, started_by_agent
from rlbench.training.arguments import on_cpu
from rlbench.training.engine_checks import check_engine

MANIFEST_REMEDY = "remove it and run the same command again, which writes a new one"


def run(config: Config) -> Run:
    """Run the cell up to `config.stage`. Finished stages are skipped.

    Returns:
        The run of that stage.
    """
    _settle(config)
    if problems := processes.check_launch():
        raise BadInput(*problems)
    processes.join(on_cpu(config))
    inputs.forget()
    wanted = _located(config)
    with noted(wanted) if processes.is_main() else nullcontext():
        made = _run_stages(config, wanted)
    if made and processes.is_main():
        _conclude(config, wanted)
    return wanted


def _conclude(config: Config, wanted: Run) -> None:
    """Print the scores of a cell beside those of the stage it began with, and the command that shows more."""
    if wanted.reason():
        console.print(f"{wanted.label} {wanted.reason()}", style="yellow", markup=False, soft_wrap=True)
    names = [f"{name}@{max(config.dataset.cutoffs)}" for name in ("recall", "ndcg")]
    own = _test_means(wanted)
    if len(config.stages) > 1:
        before = locate(config, config.stages[-2])
        there = _test_means(before)
        gained = ", ".join(f"{metric_title(name)} {own[name] - there[name]:+.3f}" for name in names)
        console.print(f"{before.label} on test: {_scores(there, names)}", markup=False, soft_wrap=True)
        console.print(
            f"{wanted.label} minus {before.label}: {gained} (one seed; the report has intervals)",
            markup=False,
            soft_wrap=True,
        )
    console.print(f"{wanted.label} on test: {_scores(own, names)}", markup=False, soft_wrap=True)
    console.print(f"next: {plan.report_command(config.group_dir.parent)}", markup=False, soft_wrap=True)


def _test_means(run: Run) -> Mapping[str, float]:
    return RESULT.read(run.root, MANIFEST_REMEDY, "metrics")["metrics"]["test"]


def _scores(means: Mapping[str, float], names: Sequence[str]) -> str:
    return ", ".join(f"{metric_title(name)} {means[name]:.3f}" for name in names)


def _located(config: Config) -> Run:
    """Return the run of the cell.

    Raises:
        BadInput: if data or model cannot be read, together with all other problems of the config.
    """
    try:
        wanted = processes.main_first(lambda: locate(config, config.stage))
        reserved = attempts.reserved_root()
        if reserved is not None and reserved != wanted.root.resolve():
            raise BadInput(
                f"the data or the model's files have changed since this run was scheduled as {reserved}; its "
                f"directory would now be {wanted.root.resolve()}. Run the command of the sweep again"
            )
        return wanted
    except BadInput as error:
        found = check_config(config, processes.count()) + check_model(config.model) + check_engine(config)
        together = BadInput(*dict.fromkeys([*found, *error.problems]), notices=error.notices)
        if processes.is_main():
            note_unlocated(together)
        raise together from error


def _run_stages(config: Config, wanted: Run) -> bool:
    """Run the stages that are not finished. Returns whether anything was run."""
    done = processes.on_main(lambda: _done_already(config, wanted))
    if done and not processes.on_main(lambda: missing_baselines([config])):
        console.print(f"[green]already done[/green] {wanted.root}", soft_wrap=True)
        _note_versions(run.root for run in locate_all(config))
        if config.runtime.dry_run:
            plan.show([config], 1, console)
        elif processes.is_main() and started_by_agent():
            show_finished(config, wanted, MANIFEST_REMEDY)
        return False
    session = processes.main_first(lambda: prepare(config))
    _note_versions(processes.on_main(lambda: _used(session)))
    for run in locate_all(config):
        for notice in superseded(run):
            console.print(f"note: {notice}", markup=False, soft_wrap=True)
    if config.runtime.dry_run:
        plan.show([config], 1, console)
        return False
    if config.runtime.gpu_share is not None and not on_cpu(config):
        torch.cuda.set_per_process_memory_fraction(config.runtime.gpu_share)
    if session.dataset.oracle is not None and not done:
        _stage(session, "oracle", stages.oracle)
    for stage, work in (("zero_shot", stages.zero_shot), ("sft", stages.sft), ("rl", stages.rl)):
        if stage in config.stages and not done:
            _stage(session, stage, work)
    for target in baseline_runs(config):
        _stage(session, "baseline", partial(stages.baseline, target.label), target.label)
    return True


def _used(session: Session) -> list[Path]:
    """Return the directories of the cell's started or finished stages, or of stages to be adopted from elsewhere.

    Raises:
        BadInput: if a stage to be adopted is damaged.
    """
    targets = locate_all(session.config)
    return [target.root if target.status() == DONE else _found(session, target) or target.root for target in targets]


def _found(session: Session, target: Run) -> Path | None:
    """Return where another experiment has finished a stage, or None."""
    return sharing.find_finished(target, session.config, lambda: session.model_files["files"])


def _note_versions(roots: Iterable[Path]) -> None:
    if said := versions.notice(roots):
        console.print(f"note: {said}", style="yellow", markup=False, soft_wrap=True)


def _done_already(config: Config, wanted: Run) -> bool:
    """Whether there is nothing to do.

    Raises:
        BadInput: if a stage's directory holds another run, or if the run was made with other plugins, needs a curve of
            a finished SFT stage that has none, or is done but damaged.
    """
    problems = [said for run in locate_all(config) for said in check_recorded(run)]
    problems += check_plugins(config) + check_row(config)
    if wanted.status() != DONE:
        problems += check_start(config)
    if wanted.stage == "sft" or wanted.status() != DONE:
        problems += check_curve(config)
    if problems:
        raise BadInput(*problems)
    if wanted.status() != DONE or check_config(config, processes.count()):
        return False
    check_done(wanted.root)
    return True


def _settle(config: Config) -> None:
    # Send warnings of trainers to our logging, and so to the attempt's log. Some say that no work was done.
    hf_logging.set_verbosity_warning()
    hf_logging.disable_default_handler()
    hf_logging.enable_propagation()
    logging.getLogger("transformers.generation.utils").addFilter(_not_of_zeros)
    hf_logging.disable_progress_bar()
    disable_progress_bars()
    # TRL 1.16 uses an argument name that transformers 5.23 has deprecated. Users cannot change that.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
    if config.runtime.threads is not None:
        torch.set_num_threads(config.runtime.threads)


def _not_of_zeros(record: logging.LogRecord) -> bool:
    """Drop transformers' message about two settings that decoding explicitly sets to 0, where they have no effect."""
    return "`min_new_tokens` (=0) and `min_length`(=0)" not in record.getMessage()


Work = Callable[[Session, Recording], Outcome]
"""A stage: a function of `rlbench.running.stages`."""


def _stage(session: Session, stage: str, work: Work, baseline: str = "") -> Run:
    """Run one stage in its directory, unless it is done. `baseline` says which, for the stage `baseline`."""
    config = session.config
    target = locate(config, stage, baseline)
    preemption.check()
    waiting = f"waiting for another process: {target.root}"
    with (
        processes.claim_together(target, config, lambda: console.print(waiting)) as attempt,
        logged(attempt if processes.is_main() else None, console),
    ):
        if attempt is None:
            _check_model_files(target, session.model_files)
            return target
        console.print(f"[bold]{stage}[/bold] {target.root}", soft_wrap=True)
        if source := processes.on_main(lambda: _adopted(session, target)):
            console.print(f"taken from {source}, which has finished it", soft_wrap=True, markup=False)
            return target
        template = asdict(config.dataset).get("prompt_template")
        here = manifest(session.dataset, template, session.model_files, used_by(stage, config.plugins))
        origin: Manifest = {**here, **processes.facts(config)}
        if stage == "rl" and config.clone is not None:
            origin["clone"] = _ancestry(config.clone)
        if processes.is_main():
            _note_origin(target, attempt, origin, "cpu" if on_cpu(config) else "cuda")
        tracker = make_tracker(
            [config.tracker.mode, *config.tracker.also] if processes.is_main() else ["none"],
            directory=target.root,
            shared=Path(config.runs_dir),
            identity=identity_of(config, target, attempt.number),
            config={**asdict(config), "manifest": origin},
        )
        completions = CompletionLog(target, tracker, config.tracker.completions, config.dataset.list_length)
        recording = Recording(target, tracker, Ledger(on_gpu=not on_cpu(config)), completions)
        try:
            with shortage.explained(config, stage, recording.ledger, session.memory):
                result = work(session, recording)
        except BaseException as error:
            tracker.finish(failed=not isinstance(error, preemption.Preempted))
            raise
        if processes.is_main():
            _write_result(config, target, result)
        track_result(tracker, config, result)
        tracker.finish()
    return target


def _adopted(session: Session, target: Run) -> Path | None:
    """Adopt a stage that another experiment has finished. Return its directory, or None if there is none."""
    source = _found(session, target)
    if source is not None:
        sharing.adopt(target, source, session.config)
    return source


def _check_model_files(target: Run, now: ModelOrigin) -> None:
    """Compare the model's files with those at the start of a run.

    The hash contains only the model's source. Files made from it (a converted GGUF, or the weights of `tiny`) may
    differ with other library versions or be damaged later.

    Raises:
        BadInput: if they differ.
    """
    if target.stage in WITHOUT_MODEL or not (target.root / MANIFEST.name).exists():
        return
    there = MANIFEST.read(target.root, MANIFEST_REMEDY).get("model")
    if there and (differing := differing_files(there["files"], now["files"])):
        raise BadInput(
            f"{target.root} was started with other model files than those in {now['folder']} today: "
            f"{'; '.join(differing)}. Restore the old files, or move the run away and run the same command again"
        )


def _note_origin(target: Run, attempt: Attempt, origin: Manifest, device: str) -> None:
    """Write manifest.json. Add device, hardware and changes since the previous attempt to attempt.json."""
    _check_model_files(target, origin["model"])
    known = (target.root / MANIFEST.name).exists()
    before = MANIFEST.read(target.root, MANIFEST_REMEDY) if known else origin
    there, now = ({key: one.get(key) for key in ("git", "versions", "hardware", "plugins")} for one in (before, origin))
    attempt.note(device=device, hardware=origin["hardware"], changed=differing_keys(there, now))
    MANIFEST.write(target.root, origin)


def _write_result(config: Config, target: Run, outcome: Outcome) -> None:
    of_rl = target.stage == "rl"
    variant = {"sft": config.sft_variant, "rl": config.row_variant}.get(target.stage)
    BUDGET.write(target.root, outcome["budget"])
    result: Result = {
        "schema": SCHEMA,
        "experiment": config.experiment_name,
        "dataset": config.dataset.name,
        "model": config.model.name,
        "stage": target.stage,
        "label": target.label,
        "algorithm": config.algorithm.name if of_rl else None,
        "reward": config.reward.name if of_rl else None,
        "variant": variant or None,
        "seed": target.seed,
        "hash": target.hash,
        "list_length": config.dataset.list_length,
        "cutoffs": config.dataset.cutoffs,
        **outcome,
    }
    if of_rl and config.clone is not None:
        result["clone"] = _ancestry(config.clone)
    RESULT.write(target.root, result)


def _ancestry(clone: CloneConfig) -> Ancestry:
    return cast(Ancestry, asdict(clone))
