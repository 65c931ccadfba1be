"""The stages of a cell: what each trains and evaluates. Each returns its part of `result.json`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import pandas as pd

from rlbench.base.files import whole_file
from rlbench.base.progress import PROGRESS, Progress
from rlbench.base.seeding import start_streams
from rlbench.baselines.recommend import recommend
from rlbench.data.record import Record
from rlbench.evaluation.evaluate import Evaluation, Sampling, evaluate
from rlbench.evaluation.given import judge_texts, text_of
from rlbench.evaluation.recording import Recording
from rlbench.lists.items import Item
from rlbench.models.loading import load_model
from rlbench.running.session import Session, console
from rlbench.runs import processes
from rlbench.runs.directory import Run, locate, validation_means
from rlbench.runs.record import INHERITED, Outcome, Tuning
from rlbench.runs.tables import PREDICTIONS, SAMPLES, predictions_file, samples_file, write_table
from rlbench.training.arguments import on_cpu
from rlbench.training.checkpoints import rewind_logs
from rlbench.training.made import cut_by_budget, without_signal
from rlbench.training.rl import TrainingData, train_rl
from rlbench.training.sft import train_sft
from rlbench.training.validation import Validation

EvaluateSplit = Callable[[str, Sequence[Record]], Evaluation]
"""Makes and judges the lists of a split, from its name and its records."""


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
    session: Session, recording: Recording, lists: EvaluateSplit, step: int, rule: str | None, updates: int = 0
) -> Outcome:
    """Evaluate on validation and test, write predictions and the last points of curves, and return the result.

    Args:
        session: shared by the cell's stages.
        recording: where the stage records what it does.
        lists: makes and judges the lists of a split.
        step: the update whose weights are evaluated.
        rule: why these weights, as `evaluation.checkpoint`; None in a stage without training.
        updates: number of updates that the stage has made.
    """
    metrics: dict[str, dict[str, float]] = {}
    target, ledger = recording.run, recording.ledger
    for split, records in (("validation", session.validation), ("test", session.test)):
        with ledger.phase("evaluation"):
            evaluation = lists(split, records)
        ledger.add(evaluation_tokens=evaluation.generated_tokens)
        ledger.needed(evaluation=evaluation.operations)
        metrics[split] = evaluation.means
        if not processes.is_main():
            continue
        with whole_file(target.root / predictions_file(split, step)) as beside:
            write_table(evaluation.predictions, PREDICTIONS, beside)
        if len(evaluation.samples):
            with whole_file(target.root / samples_file(split, step)) as beside:
                write_table(evaluation.samples, SAMPLES, beside)
        if split == "test" or target.stage != "rl":  # the RL stage recorded its validation during training
            recording.means(step, split, evaluation.means, again=True)
            recording.lists(step, split, records, evaluation.predictions)
    budget = ledger.report(updates, target.attempts())
    return {"metrics": metrics, "checkpoint": {"rule": rule, "step": step}, "budget": budget}


def _greedy(session: Session, target: Run, source: str | Path) -> EvaluateSplit:
    """Greedy lists of a model, and for the test split the sampled ones that the configuration asks for.

    A model that a stage has trained on weights in 4 bits is evaluated on them.
    """
    config = session.config
    model = load_model(source, config.model.dtype, config.adapter.quantization_of(target.stage))
    if not on_cpu(config):
        model.to("cuda")

    def lists(split: str, records: Sequence[Record]) -> Evaluation:
        samples = config.evaluation.samples if split == "test" else 0
        n_lists = len({record.context_id for record in records}) * (1 + samples)
        progress = _progress(session, target, split, n_lists, "list")
        sampling = Sampling(samples, target.seed) if samples else None
        result = evaluate(model, session.tokenizer, records, session.criteria, config, progress.to, sampling)
        progress.close()
        return result

    return lists


def oracle(session: Session, recording: Recording) -> Outcome:
    """The best lists of a dataset that knows them."""
    best = session.dataset.oracle
    assert best is not None
    if processes.is_main():
        rewind_logs(recording.run, None)
    return _finish(session, recording, lambda split, records: _given(session, records, best), 0, None)


def baseline(name: str, session: Session, recording: Recording) -> Outcome:
    """The lists of a classical baseline, with the settings that were best on validation."""
    config = session.config
    if processes.is_main():
        rewind_logs(recording.run, None)
    splits = {"validation": session.validation, "test": session.test}
    made = processes.on_main(
        lambda: recommend(
            name, session.dataset.splits["train"], splits, session.criteria.judge, max(config.dataset.cutoffs)
        )
    )
    result = _finish(session, recording, lambda split, records: _given(session, records, made.lists[split]), 0, None)
    if made.tuning is not None:
        result["tuning"] = cast(Tuning, made.tuning)
    return result


def _given(session: Session, records: Sequence[Record], lists: Mapping[str, Sequence[Item]]) -> Evaluation:
    """Judge lists of items, by context, as if a model had written them."""
    texts = {record.context_id: text_of(lists[record.context_id]) for record in records}
    return Evaluation(
        *judge_texts(records, texts, session.criteria, session.config.dataset.cutoffs), 0, 0, pd.DataFrame()
    )


def zero_shot(session: Session, recording: Recording) -> Outcome:
    """The lists of the untrained model."""
    if processes.is_main():
        rewind_logs(recording.run, None)
    return _finish(session, recording, _greedy(session, recording.run, session.model_source), 0, None)


def _sft_validation(session: Session) -> Validation | None:
    if session.config.trainer.sft.evaluate_every is None:
        return None
    initial = validation_means(locate(session.config, "zero_shot"))
    return Validation(session.validation, session.criteria, initial)


def sft(session: Session, recording: Recording) -> Outcome:
    """Supervised training on demonstrations."""
    config, target, updates = session.config, recording.run, session.config.trainer.sft.updates
    start_streams(config.trainer.sft.seed)
    progress = _progress(session, target, "training", updates, "update")
    kept = train_sft(
        config,
        recording,
        Path(session.model_source),
        session.tokenizer,
        session.dataset.splits["sft"],
        progress,
        _sft_validation(session),
    )
    progress.close()
    lists = _greedy(session, target, target.final_model)
    result = _finish(session, recording, lists, updates, "last", updates)
    return {**result, "demonstrations": kept.result}


def rl(session: Session, recording: Recording) -> Outcome:
    """Policy or preference optimisation, from the SFT stage's model or the untrained one."""
    config, target = session.config, recording.run
    before = locate(config, config.stages[-2])
    start = before.final_model if before.stage == "sft" else Path(session.model_source)
    updates = config.trainer.rl.updates
    if found := without_signal(validation_means(before), config.evaluation.metric):
        console.print(f"note: RL has almost no signal to learn from. After {before.label}, {found}", style="yellow")
    if said := cut_by_budget(config):
        console.print(f"note: {said}", style="yellow", markup=False, soft_wrap=True)
    start_streams(config.seed)
    progress = _progress(session, target, f"seed {config.seed}", updates, "update")
    trained = train_rl(
        config,
        recording,
        start,
        session.tokenizer,
        TrainingData(session.dataset.splits["train"], session.dataset.splits.get("sft", [])),
        Validation(session.validation, session.criteria, validation_means(before)),
        progress,
    )
    progress.close()
    if trained.stop is None and trained.updates < updates:
        console.print(
            f"note: trainer.rl.token_budget = {config.trainer.rl.token_budget:,} ended the training after update "
            f"{trained.updates} of {updates}",
            style="yellow",
            soft_wrap=True,
        )
    lists, rule = _greedy(session, target, target.final_model), config.evaluation.checkpoint
    result = _finish(session, recording, lists, trained.step, rule, trained.updates)
    result["stopped"] = trained.stop.result if trained.stop else None
    if config.clone is not None:
        result["budget"]["inherited"] = INHERITED.read(target.root, target.remedy)
    if config.trainer.rl.token_budget is not None:
        result["token_budget"] = config.trainer.rl.token_budget
    if trained.kept is not None:
        result["demonstrations"] = trained.kept.result
    return result
