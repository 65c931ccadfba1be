"""Evaluates a model for `rlbench eval`: with transformers, with vLLM, or behind a server."""

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from rlbench.base.errors import BadInput
from rlbench.base.progress import Progress
from rlbench.commands.external import (
    ListPlace,
    find_place,
    fold,
    judge_lists,
    judged,
    pass_at,
    run_of,
    settings_of,
    show,
    write_baselines,
    wrong_names,
)
from rlbench.config.decoding import evaluation_identity, greedy_identity, sampling_identity
from rlbench.config.names import odd_name
from rlbench.config.schema import Config
from rlbench.data.record import Messages
from rlbench.evaluation.external_lists import SystemLists
from rlbench.runs.directory import DONE, check_done, status_of
from rlbench.runs.written import JudgedSplit, budget_of, origin_of, outcome_of, write_run
from rlbench.teacher.answers import AnswerCache, TeacherAnswer
from rlbench.teacher.asking import AnswerReading, Asking, AskOutcome, AskSettings, Question
from rlbench.teacher.endpoint import Endpoint, check_endpoint, key_in
from rlbench.teacher.pace import Pace

SECONDS = 600.0
"""Seconds that a request may take."""
NAMED = 3
"""Number of contexts without an answer that are named."""

console = Console(stderr=True, highlight=False)


@dataclass
class Evaluated:
    """What a model has written: judged splits, evaluation tokens, and facts for the manifest."""

    splits: dict[str, JudgedSplit]
    tokens: int
    facts: dict[str, Any] = field(default_factory=dict)


class Unanswered(Exception):
    """Some requests got no answer; the others are in the cache."""


def evaluate(options: argparse.Namespace) -> int:
    """Evaluate the model that the parsed options of `rlbench.evaluate` name, and write its run.

    Raises:
        BadInput: all problems of options and settings, or of the model's files.
    """
    name = options.name or Path(options.model.rstrip("/")).name
    problems = [f"--name {name}: the name {wrong}"] if (wrong := odd_name(name)) else []
    problems += [problem] if options.endpoint and (problem := check_endpoint(options.endpoint)) else []
    if problems:
        raise BadInput(*problems)
    whole = find_place(options)
    place = fold(whole, ("test", "validation") if options.validation else ("test",))
    n = place.config.evaluation.samples if options.samples is None else options.samples
    evaluation = replace(place.config.evaluation, samples=n, pass_at=pass_at(place.config, n) if n else [])
    place = replace(place, config=replace(place.config, evaluation=evaluation))
    taken = wrong_names(place, [name], options.config_dir)
    if problems := [*taken.values(), *unsupported(options, evaluation_identity(evaluation))]:
        raise BadInput(*problems)
    run = run_of(place, name, options.seed, _details(options, place.config))
    if status_of(run.root) == DONE:
        check_done(run.root)
        console.print(f"[green]already done[/green] {run.root}", soft_wrap=True)
    else:
        console.print(f"[bold]external[/bold] {run.root}", soft_wrap=True)
        started = time.monotonic()
        try:
            work = _ask if options.endpoint else _vllm if options.backend == "vllm" else _transformers
            made = work(options, place, name)
        except Unanswered as error:
            console.print(str(error), style="red", markup=False, soft_wrap=True)
            return 1
        outcome = outcome_of(made.splits, budget_of(time.monotonic() - started, made.tokens))
        origin = origin_of(place.dataset, {"system": name, "model": options.model, **made.facts})
        write_run(run, place.config, settings_of(place, n), made.splits, outcome, origin)
    baselines = write_baselines(whole, lambda said: console.print(said, markup=False))
    show(place, [*baselines, run], console)
    return 0


def unsupported(options: argparse.Namespace, own: Mapping[str, Any]) -> list[str]:
    """Settings of evaluation that only transformers can follow, where another backend is asked.

    Args:
        own: the settings that differ from greedy or sampled lists without a constraint.
    """
    asked = "--endpoint" if options.endpoint else "--backend vllm" if options.backend == "vllm" else ""
    if not asked:
        return []
    plain = {"constraint": "none", "exclude": "[]", "beams": 1}
    return [
        f"evaluation.{key} = {value} is not supported by {asked}; use evaluation.{key}={plain[key]}, or transformers"
        for key, value in own.items()
        if key != "exclude"
    ]


def _details(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    """What a model's lists depend on, for the identity of its run."""
    decoding = greedy_identity(config.generation)
    if config.evaluation.samples:
        decoding = sampling_identity(config.generation) | {"samples": config.evaluation.samples}
    if options.endpoint:
        return {"model": options.model, "endpoint": options.endpoint.rstrip("/"), "decoding": decoding}
    from rlbench.models.sources import model_folder, with_adapter_digests

    files = with_adapter_digests(model_folder(options.model), options.model)
    own = evaluation_identity(config.evaluation)
    return {"files": files, "dtype": config.model.dtype, "backend": options.backend or "transformers",
            "decoding": decoding | own}  # fmt: skip


def _prompts(place: ListPlace, split: str) -> dict[str, Messages]:
    return {record.context_id: record.prompt for record in place.splits[split]}


def _transformers(options: argparse.Namespace, place: ListPlace, name: str) -> Evaluated:
    """Greedy and sampled lists by transformers, as the stages of a cell make them."""
    from transformers.utils import logging as hf_logging

    from rlbench.evaluation.evaluate import Sampling, longest_prompt
    from rlbench.evaluation.evaluate import evaluate as evaluate_model
    from rlbench.models.loading import load_model, load_tokenizer, max_positions
    from rlbench.models.sources import model_folder
    from rlbench.models.token_bytes import special_lines, special_words
    from rlbench.training.arguments import on_cpu

    hf_logging.disable_progress_bar()
    config, source = place.config, model_folder(options.model)
    tokenizer = load_tokenizer(source, config.generation.template_date)
    if special := special_lines(place.dataset.catalog.lines(), tokenizer):
        console.print(f"note: {special_words(special, place.dataset.item)}", markup=False, soft_wrap=True)
    positions, limit = max_positions(source), config.generation.max_new_tokens
    longest = max(longest_prompt(records, tokenizer) for records in place.splits.values())
    if positions is not None and longest + limit > positions:
        raise BadInput(
            f"the longest prompt has {longest} tokens; with generation.max_new_tokens = {limit} this is more than the "
            f"{positions} positions of {options.model}"
        )
    model = load_model(source, config.model.dtype)
    if not on_cpu(config):
        model.to("cuda")
    found, tokens = {}, 0
    for split, records in place.splits.items():
        n = config.evaluation.samples if split == "test" else 0
        total = len(_prompts(place, split)) * (1 + n)
        progress = Progress(f"{name} {split}", total, file=None, show=sys.stderr.isatty(), unit="list")
        sampling = Sampling(n, options.seed) if n else None
        made = evaluate_model(model, tokenizer, records, place.criteria, config, progress.to, sampling)
        progress.close()
        found[split] = judged(place, split, made.predictions, made.means, made.samples)
        tokens += made.generated_tokens
    return Evaluated(found, tokens)


def _vllm(options: argparse.Namespace, place: ListPlace, name: str) -> Evaluated:
    """Greedy and sampled lists by vLLM in this process."""
    import importlib.util

    if importlib.util.find_spec("vllm") is None:
        raise BadInput("--backend vllm needs vllm, which is not installed; install it (docs/generation.md), or leave "
                       "--backend out")  # fmt: skip
    from vllm import LLM, SamplingParams

    from rlbench.evaluation.evaluate import prompt_ids
    from rlbench.models.loading import load_tokenizer
    from rlbench.models.sources import ADAPTER_CONFIG, model_folder

    config, source, generation = place.config, model_folder(options.model), place.config.generation
    if (source / ADAPTER_CONFIG).is_file():
        raise BadInput(f"--backend vllm reads whole models, but --model {options.model} has an adapter; merge the two "
                       "(docs/low-memory.md), or leave --backend out")  # fmt: skip
    tokenizer = load_tokenizer(source, generation.template_date)
    engine = LLM(str(source), dtype=config.model.dtype, seed=options.seed)
    shaping = {"max_tokens": generation.max_new_tokens, "repetition_penalty": generation.repetition_penalty}
    greedy = SamplingParams(temperature=0.0, **shaping)
    drawn = SamplingParams(
        n=max(config.evaluation.samples, 1),
        temperature=generation.temperature,
        top_p=generation.top_p,
        top_k=generation.top_k or -1,
        min_p=generation.min_p,
        seed=options.seed,
        **shaping,
    )
    texts: dict[str, str] = {}
    samples: dict[str, list[str]] = {}
    endings: dict[str, tuple[bool, int]] = {}
    for split in place.splits:
        prompts = _prompts(place, split)
        inputs = [{"prompt_token_ids": prompt_ids(tokenizer, prompt)} for prompt in prompts.values()]
        for context, output in zip(prompts, engine.generate(inputs, greedy), strict=True):
            (one,) = output.outputs
            texts[context], endings[context] = one.text, (one.finish_reason == "stop", len(one.token_ids))
        if split == "test" and config.evaluation.samples:
            for context, output in zip(prompts, engine.generate(inputs, drawn), strict=True):
                samples[context] = [one.text for one in output.outputs]
    lists = SystemLists(name, options.seed, texts, samples, endings)
    return Evaluated(judge_lists(place, lists), sum(tokens for _, tokens in endings.values()))


def _ask(options: argparse.Namespace, place: ListPlace, name: str) -> Evaluated:
    """Greedy and sampled lists from a server. Answers are kept in the cache of `rlbench teach`.

    Raises:
        Unanswered: some requests got no answer.
    """
    config, generation = place.config, place.config.generation
    key = key_in(options.key_env)
    cache = AnswerCache(Path(config.cache_dir) / "teacher.sqlite", options.endpoint.rstrip("/"))
    common = {"model": options.model, "max_tokens": generation.max_new_tokens}
    sampled = {**common, "temperature": generation.temperature, "top_p": generation.top_p}
    questions = [
        Question(context, prompt) for split in place.splits for context, prompt in _prompts(place, split).items()
    ]
    of_test = [Question(context, prompt) for context, prompt in _prompts(place, "test").items()]
    jobs = [({**common, "temperature": 0}, questions)]
    jobs += [({**sampled, "seed": options.seed * 10_000 + k}, of_test) for k in range(config.evaluation.samples)]
    answers: list[dict[str, TeacherAnswer]] = []
    try:
        for number, (body, asked) in enumerate(jobs):
            source = Endpoint(options.endpoint, key, SECONDS, options.concurrency)
            what = f"{name}, sample {number}" if number else name
            answers.append(asyncio.run(_answers(source, cache, body, asked, options.concurrency, what)))
    finally:
        cache.close()
    greedy = answers[0]
    samples = {question.name: [of_job[question.name].text for of_job in answers[1:]] for question in of_test}
    lists = SystemLists(
        name,
        options.seed,
        {context: answer.text for context, answer in greedy.items()},
        samples if len(answers) > 1 else {},
        {context: (answer.finish == "stop", answer.completion_tokens) for context, answer in greedy.items()},
    )
    tokens = sum(answer.completion_tokens for of_job in answers for answer in of_job.values())
    models = sorted({answer.model for answer in greedy.values() if answer.model})
    return Evaluated(judge_lists(place, lists), tokens, {"endpoint": options.endpoint, "answered_by": models})


async def _answers(
    source: Endpoint,
    cache: AnswerCache,
    body: Mapping[str, Any],
    questions: Sequence[Question],
    concurrency: int,
    what: str,
) -> dict[str, TeacherAnswer]:
    """The answer to each question, by name.

    Raises:
        Unanswered: some got none.
    """
    found: dict[str, TeacherAnswer] = {}

    def read(question: Question, answers: list[TeacherAnswer]) -> AnswerReading:
        found[question.name] = answers[-1]
        return AnswerReading(answers[-1].text)

    progress = Progress(what, len(questions), file=None, show=sys.stderr.isatty(), unit="list")
    settings = AskSettings(dict(body), concurrency=concurrency, reasks=0)
    asking = Asking(source, cache, read, settings, Pace(), progress)
    try:
        outcome: AskOutcome = await asking.run(questions)
    finally:
        await source.close()
        progress.close()
    if outcome.stopped or len(found) < len(questions):
        told = "; ".join(f"{one.name}: {one.problem}" for one in outcome.failures[:NAMED])
        raise Unanswered(
            f"{len(questions) - len(found)} of {len(questions)} contexts got no answer. {outcome.stopped or told}. "
            "Nothing was written; run the same command again, which asks only for these"
        )
    return found
