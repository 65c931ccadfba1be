"""Runs one cell: checks everything first, then runs its stages, each in its own run directory.

Oracle, zero-shot and SFT stages are shared: the first cell of a sweep that needs one runs it, and the others reuse it.
"""

import logging
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import disable_progress_bars
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from rlbench.base import preemption
from rlbench.base.errors import BadInput
from rlbench.base.files import whole_file
from rlbench.base.progress import PROGRESS, Progress
from rlbench.base.seeding import start_streams
from rlbench.config.engines import readable
from rlbench.config.places import check_places
from rlbench.config.schema import Config
from rlbench.data.checks import check_dataset
from rlbench.data.facts import film_facts
from rlbench.data.record import RankedListDataset, Record
from rlbench.evaluation.evaluate import Evaluation, evaluate, longest_prompt
from rlbench.evaluation.judging import Answer, choose_contexts, judge_answers
from rlbench.lists.film_facts import FilmFacts
from rlbench.lists.relevance import Judge, make_judge
from rlbench.models.generation import notices
from rlbench.models.loading import check_model, load_model, load_tokenizer, locate_model, max_positions
from rlbench.models.sources import differing_files
from rlbench.objective.guards import caveats
from rlbench.running import memory, plan
from rlbench.running.checks import check_config
from rlbench.runs import attempts, inputs, processes, sharing, versions
from rlbench.runs.attempts import Attempt, RunConsole, logged
from rlbench.runs.budget import Ledger
from rlbench.runs.claiming import note_unlocated, noted
from rlbench.runs.completions import CompletionLog
from rlbench.runs.directory import (
    DONE,
    Run,
    check_done,
    locate,
    validation_means,
)
from rlbench.runs.existing import (
    check_curve,
    check_plugins,
    check_recorded,
    check_start,
    superseded,
)
from rlbench.runs.identity import differing_keys
from rlbench.runs.provenance import manifest, model_origin
from rlbench.runs.record import BUDGET, MANIFEST, RESULT, SCHEMA, Manifest, ModelOrigin, Outcome
from rlbench.runs.tables import predictions_file, samples_file
from rlbench.tracking import Tracker, TrackerIdentity, make_tracker
from rlbench.training.arguments import on_cpu
from rlbench.training.checkpoints import rewind_logs
from rlbench.training.demonstrations import check_ends
from rlbench.training.engine_checks import check_engine, check_server
from rlbench.training.made import cannot_update, without_signal
from rlbench.training.rl import needs_demonstrations, train_rl
from rlbench.training.sft import Validation, train_sft

console = RunConsole(stderr=True, highlight=False, quiet=not processes.is_main())


MANIFEST_REMEDY = "remove it, and give the same command again; it writes the file anew"


@dataclass
class Session:
    """What all stages of a cell share after the checks."""

    config: Config
    dataset: RankedListDataset
    model_source: str
    model_files: ModelOrigin
    tokenizer: PreTrainedTokenizerBase
    judge: Judge
    facts: FilmFacts
    validation: list[Record]
    test: list[Record]
    memory: memory.MemoryEstimate | memory.NoEstimate


def prepare(config: Config) -> Session:
    """Check the config, and load data and tokenizer. Spends no compute.

    Raises:
        BadInput: all problems found, in one report.
    """
    problems = check_config(config, processes.count()) + check_places(config, to_write=True)
    problems += check_model(config.model) + check_engine(config)
    dataset: RankedListDataset | None = None
    try:
        dataset = inputs.load(config.dataset)
        problems += check_dataset(dataset, config.dataset.list_length)
        if not dataset.splits.get("sft") and ("sft" in config.stages or not problems and needs_demonstrations(config)):
            problems.append(
                f"{config.dataset.name} has no demonstrations (split sft), which stage={config.stage} needs"
            )
        elif not problems:
            problems += cannot_update(config, len(dataset.splits["train"]), len(dataset.splits.get("sft", [])))
    except BadInput as error:
        problems += error.problems
    if dataset is None or problems:
        raise BadInput(*problems)
    for notice in dataset.notices:
        console.print(f"{config.dataset.name}: {notice}", style="dim", markup=False)
    for caveat in caveats([config]):
        console.print(f"note: {caveat}", style="yellow", markup=False)
    source = locate_model(config.model, dataset, Path(config.cache_dir))
    tokenizer = load_tokenizer(source, config.generation.template_date)
    for notice in notices(source, config.generation):
        console.print(f"note: {notice}", style="yellow", markup=False)
    positions = readable(config.generation, max_positions(source))
    problems = check_lengths(dataset, tokenizer, config.generation.max_new_tokens, positions)
    problems += check_server(config, source)
    if "sft" in config.stages or needs_demonstrations(config):
        problems += check_ends(dataset.splits["sft"], tokenizer, config.trainer.sft.max_length, source)
    if problems:
        raise BadInput(*problems)
    judge = make_judge(config.matching, dataset.catalog, config.dataset.list_length)
    if judge.catalog is not dataset.catalog:
        for notice in judge.catalog.report():
            console.print(f"matching={config.matching.name}: {notice}", style="dim", markup=False)
    expected = memory.estimate_or_reason(config, dataset, source, tokenizer, processes.count())
    if not config.runtime.dry_run:
        memory.tell(config, expected, console)
    return Session(
        config,
        dataset,
        source,
        model_origin(config.model, source),
        tokenizer,
        judge,
        film_facts(dataset, judge.catalog),
        choose_contexts(dataset.splits["validation"], config.evaluation.validation_contexts),
        choose_contexts(dataset.splits["test"], config.evaluation.test_contexts),
        expected,
    )


def check_lengths(
    dataset: RankedListDataset, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, positions: int | None
) -> list[str]:
    """Check that the longest prompt of each split leaves room for a completion."""
    problems: list[str] = []
    if positions is None:
        return problems
    for split, records in dataset.splits.items():
        longest = longest_prompt(records, tokenizer)
        if longest and longest + max_new_tokens > positions:
            problems.append(
                f"{split}: the longest prompt has {longest} tokens; with generation.max_new_tokens = "
                f"{max_new_tokens} that is more than the model's {positions} positions: limit them with "
                "dataset.max_conversation_chars (dataset.long_prompts says what becomes of longer ones), or lower "
                "generation.max_new_tokens"
            )
    return problems


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
        _run_stages(config, wanted)
    return wanted


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
                f"the data or the model's files have changed since this run was scheduled as {reserved}: now it would "
                f"be {wanted.root.resolve()}. Give the command of the sweep again"
            )
        return wanted
    except BadInput as error:
        found = check_config(config, processes.count()) + check_model(config.model) + check_engine(config)
        together = BadInput(*dict.fromkeys([*found, *error.problems]))
        if processes.is_main():
            note_unlocated(together)
        raise together from error


def _run_stages(config: Config, wanted: Run) -> None:
    if processes.on_main(lambda: _done_already(config, wanted)):
        console.print(f"[green]done already[/green] {wanted.root}", soft_wrap=True)
        _note_versions(locate(config, stage).root for stage in (*config.stages, "oracle"))
        return
    session = processes.main_first(lambda: prepare(config))
    _note_versions(processes.on_main(lambda: _used(session)))
    for stage in (*config.stages, "oracle"):
        for notice in superseded(locate(config, stage)):
            console.print(f"note: {notice}", markup=False, soft_wrap=True)
    if config.runtime.dry_run:
        plan.show([config], 1, console)
        return
    if config.runtime.gpu_share is not None and not on_cpu(config):
        torch.cuda.set_per_process_memory_fraction(config.runtime.gpu_share)
    if session.dataset.oracle is not None:
        _stage(session, "oracle", _oracle)
    for stage, work in (("zero_shot", _zero_shot), ("sft", _sft), ("rl", _rl)):
        if stage in config.stages:
            _stage(session, stage, work)


def _used(session: Session) -> list[Path]:
    """Return the directories of the cell's started or finished stages, or of stages to be adopted from elsewhere.

    Raises:
        BadInput: if a stage to be adopted is damaged.
    """
    targets = [locate(session.config, stage) for stage in (*session.config.stages, "oracle")]
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
    problems = [said for stage in (*config.stages, "oracle") for said in check_recorded(locate(config, stage))]
    problems += check_plugins(wanted.root, config.plugins)
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


Work = Callable[[Session, Run, Tracker, Ledger], Outcome]


def _stage(session: Session, stage: str, work: Work) -> Run:
    """Run one stage in its directory, unless it is done."""
    config = session.config
    target = locate(config, stage)
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
        plugins = config.plugins if stage == "rl" else []  # shared stages do not depend on plugins
        here = manifest(session.dataset, template, session.model_files, plugins)
        origin: Manifest = {**here, **processes.facts(config)}
        if processes.is_main():
            _note_origin(target, attempt, origin, "cpu" if on_cpu(config) else "cuda")
        identity = TrackerIdentity(
            experiment=config.experiment_name,
            group=target.name,
            job_type=stage,
            name=f"{target.label}-seed{target.seed}",
            tags=(config.dataset.name, config.model.name, target.label),
            attempt=attempt.number,
            project=config.tracker.project,
            entity=config.tracker.entity,
        )
        tracker = make_tracker(
            [config.tracker.mode, *config.tracker.also] if processes.is_main() else ["none"],
            directory=target.root,
            shared=Path(config.runs_dir),
            identity=identity,
            config={**asdict(config), "manifest": origin},
        )
        ledger = Ledger(on_gpu=not on_cpu(config))
        try:
            with memory.explained(config, stage, ledger, session.memory):
                result = work(session, target, tracker, ledger)
        except BaseException as error:
            tracker.finish(failed=not isinstance(error, preemption.Preempted))
            raise
        if processes.is_main():
            _write_result(config, target, result)
        _track_result(tracker, target, result)
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
    if target.stage == "oracle" or not (target.root / MANIFEST.name).exists():
        return
    there = MANIFEST.read(target.root, MANIFEST_REMEDY).get("model")
    if there and (differing := differing_files(there["files"], now["files"])):
        raise BadInput(
            f"{target.root} was begun with other model files than those of {now['folder']}: {'; '.join(differing)}. "
            "Put the files of then back, or move the run away, and the same command makes it again"
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
    variant = {"sft": config.dataset.demonstration_source, "rl": config.row_variant}.get(target.stage)
    BUDGET.write(target.root, outcome["budget"])
    RESULT.write(
        target.root,
        {
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
        },
    )


def _track_result(tracker: Tracker, target: Run, outcome: Outcome) -> None:
    means = {f"{split}/{name}": value for split, table in outcome["metrics"].items() for name, value in table.items()}
    tracker.summary({f"final/{name}": value for name, value in means.items()})
    tracker.log_table("final", ["split", "metric", "value"], [[*name.split("/", 1), v] for name, v in means.items()])


def _progress(session: Session, target: Run, what: str, total: int, unit: str) -> Progress:
    target.root.mkdir(parents=True, exist_ok=True)
    return Progress(
        f"{target.label} {what}",
        total,
        file=target.root / PROGRESS.name if processes.is_main() else None,
        show=session.config.runtime.progress and processes.is_main(),
        unit=unit,
    )


def _finish(
    session: Session,
    target: Run,
    tracker: Tracker,
    lists: Callable[[str, list[Record]], Evaluation],
    step: int,
    rule: str | None,
    ledger: Ledger,
    updates: int = 0,
) -> Outcome:
    """Evaluate on validation and test, write predictions and the last points of curves, and return the result."""
    metrics: dict[str, dict[str, float]] = {}
    completions = CompletionLog(target, tracker, session.config.tracker.completions, session.config.dataset.list_length)
    for split, records in (("validation", session.validation), ("test", session.test)):
        with ledger.phase("evaluation"):
            evaluation = lists(split, records)
        ledger.add(evaluation_tokens=evaluation.generated_tokens)
        metrics[split] = evaluation.means
        if not processes.is_main():
            continue
        with whole_file(target.root / predictions_file(split, step)) as beside:
            evaluation.predictions.to_parquet(beside)
        if len(evaluation.samples):
            with whole_file(target.root / samples_file(split, step)) as beside:
                evaluation.samples.to_parquet(beside)
        if split == "test" or target.stage != "rl":  # the RL stage recorded its validation during training
            target.replace_metrics(step, split, evaluation.means)
            tracker.log({f"{split}/{name}": value for name, value in evaluation.means.items()}, step)
            completions.add(step, split, records, evaluation.predictions)
    budget = ledger.report(updates, target.attempts())
    return {"metrics": metrics, "checkpoint": {"rule": rule, "step": step}, "budget": budget}


def _greedy(session: Session, target: Run, source: str | Path) -> Callable[[str, list[Record]], Evaluation]:
    config = session.config
    model = load_model(source, config.model.dtype)
    if not on_cpu(config):
        model.to("cuda")

    def lists(split: str, records: list[Record]) -> Evaluation:
        samples = config.evaluation.samples if split == "test" else 0
        n_lists = len({record.context_id for record in records}) * (1 + samples)
        progress = _progress(session, target, split, n_lists, "list")
        result = evaluate(
            model,
            session.tokenizer,
            records,
            session.judge,
            session.facts,
            config,
            progress=progress.to,
            samples=samples,
            seed=target.seed,
        )
        progress.close()
        return result

    return lists


def _oracle(session: Session, target: Run, tracker: Tracker, ledger: Ledger) -> Outcome:
    config, oracle = session.config, session.dataset.oracle
    assert oracle is not None
    if processes.is_main():
        rewind_logs(target, None)

    def lists(split: str, records: list[Record]) -> Evaluation:
        contexts = {record.context_id for record in records}
        texts = {c: "\n".join(f"{title} ({year})" for title, year in oracle[c]) for c in contexts}
        unknown = np.full(config.dataset.list_length, np.nan)
        answers = {
            context: Answer(text, session.judge.parse(text), True, 0, unknown) for context, text in texts.items()
        }
        predictions, means = judge_answers(records, answers, session.judge, session.facts, config.dataset.cutoffs)
        return Evaluation(predictions, means, 0, pd.DataFrame())

    return _finish(session, target, tracker, lists, 0, None, ledger)


def _zero_shot(session: Session, target: Run, tracker: Tracker, ledger: Ledger) -> Outcome:
    if processes.is_main():
        rewind_logs(target, None)
    return _finish(session, target, tracker, _greedy(session, target, session.model_source), 0, None, ledger)


def _sft_validation(session: Session) -> Validation | None:
    if session.config.trainer.sft.evaluate_every is None:
        return None
    initial = validation_means(locate(session.config, "zero_shot"))
    return Validation(session.validation, session.judge, session.facts, initial)


def _sft(session: Session, target: Run, tracker: Tracker, ledger: Ledger) -> Outcome:
    config, updates = session.config, session.config.trainer.sft.updates
    start_streams(config.trainer.sft.seed)
    progress = _progress(session, target, "training", updates, "update")
    kept = train_sft(
        config,
        target,
        Path(session.model_source),
        session.tokenizer,
        session.dataset.splits["sft"],
        tracker,
        progress,
        ledger,
        _sft_validation(session),
    )
    progress.close()
    lists = _greedy(session, target, target.final_model)
    result = _finish(session, target, tracker, lists, updates, "last", ledger, updates)
    return {**result, "demonstrations": kept.result}


def _rl(session: Session, target: Run, tracker: Tracker, ledger: Ledger) -> Outcome:
    config = session.config
    before = locate(config, config.stages[-2])
    start = before.final_model if before.stage == "sft" else Path(session.model_source)
    updates = config.trainer.rl.updates
    if found := without_signal(validation_means(before), config.evaluation.metric):
        console.print(f"note: RL begins without a signal: {before.label} ends where {found}", style="yellow")
    start_streams(config.seed)
    progress = _progress(session, target, f"seed {config.seed}", updates, "update")
    trained = train_rl(
        config,
        target,
        start,
        session.tokenizer,
        session.dataset.splits["train"],
        session.dataset.splits.get("sft", []),
        session.judge,
        session.facts,
        session.validation,
        validation_means(before),
        tracker,
        progress,
        ledger,
    )
    progress.close()
    lists, rule = _greedy(session, target, target.final_model), config.evaluation.checkpoint
    result = _finish(session, target, tracker, lists, trained.step, rule, ledger, trained.updates)
    result["stopped"] = trained.stop.result if trained.stop else None
    if trained.kept is not None:
        result["demonstrations"] = trained.kept.result
    return result
