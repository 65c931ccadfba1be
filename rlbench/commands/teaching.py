"""Asks a teacher for `rlbench.teach`, and writes its answers as files of Stage 1. Loads scipy."""

import argparse
import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from rlbench import __version__
from rlbench.base.content import file_digest
from rlbench.base.errors import BadInput
from rlbench.base.files import write_json, write_text
from rlbench.base.progress import Progress
from rlbench.base.user_files import read_user_json
from rlbench.config.schema import Config
from rlbench.data import load_dataset
from rlbench.data.record import RankedListDataset
from rlbench.data.stage1.files import manifest_of, read_rows
from rlbench.teacher.answers import AnswerCache, Body, NoAnswer, TeacherAnswer, prompt_tokens
from rlbench.teacher.asking import (
    AnswerReading,
    AnswerSource,
    Asking,
    AskOutcome,
    AskSettings,
    Prices,
    Question,
    Reader,
    timed,
)
from rlbench.teacher.endpoint import Endpoint, check_endpoint, key_in
from rlbench.teacher.local import KNOWN, LocalTeacher
from rlbench.teacher.pace import Pace
from rlbench.teacher.prompts import Prompt, load_prompt
from rlbench.teacher.questions import (
    common_values,
    conversations,
    list_questions,
    metadata_questions,
    rating_questions,
    some,
)
from rlbench.teacher.reading import Form, read_description, read_list, read_ratings

console = Console(stderr=True, highlight=False)
SAMPLES = 2
"""Number of requests that a dry run prints."""
EXPECTED = {"lists": 12, "ratings": 14, "metadata": 150}
"""Expected tokens of an answer: per item of a list, per rating, and of a description."""


def teach(options: argparse.Namespace, config: Config) -> int:
    """Do what the parsed options of `rlbench.teach` ask for, and return the exit code.

    Raises:
        BadInput: all problems of options and files, before anything is asked.
    """
    source = _source(options, config)
    prompt = load_prompt(options.task, options.prompt)
    dataset = load_dataset(config.dataset)
    questions = _questions(options, config, dataset, prompt)
    if options.only is not None:
        names = {row["name"] for row in read_rows(options.only, {"name": str})}
        questions = [question for question in questions if question.name in names]
    if not questions:
        raise BadInput("there is nothing to ask; check --train, --validation and --only")
    settings = _settings(options, config)
    job = _job(options, config, dataset, prompt, settings, questions)
    if isinstance(source, LocalTeacher):
        job["teacher"] |= {"local": options.local, "engine": options.engine, "sha256": source.digest}
    if options.cache is None:
        options.cache = Path(config.cache_dir) / "teacher.sqlite"
    cache = None if options.answers else AnswerCache(options.cache, _name(source), read_only=options.dry_run)
    reader = _reader(options, config, Form.of(dataset.catalog))
    try:
        if options.dry_run:
            _dry_run(options, questions, settings, cache)
            return 0
        _check_out(options.out, job)
        started = time.time()
        drawn = sys.stderr.isatty()
        progress = Progress(options.task, len(questions), file=None, show=drawn, unit="question")
        tell = None if drawn else lambda words: console.print(words, markup=False, soft_wrap=True)
        pace = Pace(options.requests_per_minute, options.tokens_per_minute)
        outcome = asyncio.run(_ask(Asking(source, cache, reader, settings, pace, progress, tell), questions))
        progress.close()
    finally:
        if cache is not None:
            cache.close()
    return _finish(options, questions, outcome, job, timed(outcome.counts, started), settings)


def _key(options: argparse.Namespace) -> str | None:
    """The endpoint's key from the environment.

    Raises:
        BadInput: a bad URL; a key that cannot be sent, or that an option repeats.
    """
    problem = check_endpoint(options.endpoint)
    key = key_in(options.key_env)
    problems = [problem] if problem else []
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        problems.append(f"the key in {options.key_env} has characters that no key has; set it again")
    written = json.dumps([options.endpoint, options.model, options.body])
    if key is not None and len(key) > 8 and key in written:
        problems.append(f"an option contains the key in {options.key_env}, and options are written to files; remove it")
    if problems:
        raise BadInput(*problems)
    return key


def _questions(
    options: argparse.Namespace, config: Config, dataset: RankedListDataset, prompt: Prompt | None
) -> Sequence[Question]:
    form = Form.of(dataset.catalog)
    values = common_values(config.dataset, form)
    if options.task == "metadata":
        assert prompt is not None
        return metadata_questions(options.lists, dataset, form, prompt, values)
    known = conversations(dataset)
    if options.task == "ratings":
        assert prompt is not None
        return rating_questions(options.candidates, known, form, prompt, values)
    asked = [*some(known["train"], options.train), *some(known["validation"], options.validation)]
    return list(list_questions(asked, prompt, values))


def _reader(options: argparse.Namespace, config: Config, form: Form) -> Reader:
    length = config.dataset.list_length
    at_least = min(options.at_least or length, length)

    def read(question: Question, answers: list[TeacherAnswer]) -> AnswerReading:
        if options.task == "lists":
            return read_list(answers[-1], form, length, at_least)
        if options.task == "ratings":
            return read_ratings(answers, form, question.subject)
        return read_description(answers[-1])

    return read


def _settings(options: argparse.Namespace, config: Config) -> AskSettings:
    """How to ask. Answers of a file cannot be asked again."""
    body: dict[str, Any] = {
        "model": options.model,
        "temperature": options.temperature,
        "max_tokens": options.max_tokens,
    }
    body = {name: value for name, value in {**body, **options.body}.items() if value is not None}
    expected = EXPECTED[options.task] * (config.dataset.list_length if options.task == "lists" else 1)
    return AskSettings(
        sampling=body,
        concurrency=options.concurrency,
        retries=options.retries,
        backoff=options.backoff,
        reasks=0 if options.answers else options.reasks,
        answer_tokens=expected * (100 if options.task == "ratings" else 1),
        prices=Prices(options.price_in, options.price_out),
        max_cost=options.max_cost,
    )


class _File:
    """A teacher whose answers are already in a file, by the names of the questions.

    Raises:
        BadInput: problems of the file.
    """

    def __init__(self, path: Path):
        rows = read_rows(path, {"context_id": str, "response": str})
        self.texts = {row["context_id"]: row["response"] for row in rows}
        if len(self.texts) < len(rows):
            raise BadInput(f"{path}: {len(rows) - len(self.texts)} ids have more than one line; keep one line per id")

    async def ask(self, body: Body, name: str) -> TeacherAnswer:
        if name not in self.texts:
            raise NoAnswer("no line", "the file of answers has no line for it")
        text = self.texts[name]
        return TeacherAnswer(text, "stop", "", 0, 0, model="file")

    async def close(self) -> None:
        pass


def _source(options: argparse.Namespace, config: Config) -> AnswerSource:
    if options.answers is not None:
        return _File(options.answers)
    if options.local is not None:
        unknown = sorted(set(options.body) - set(KNOWN))
        if unknown:
            raise BadInput(f"--body has {', '.join(unknown)}, which --local does not know; known: {', '.join(KNOWN)}")
        return LocalTeacher(options.local, options.engine, config.runtime.device, options.concurrency)
    return Endpoint(options.endpoint, _key(options), options.timeout, options.concurrency)


def _name(source: AnswerSource) -> str:
    """Name of a teacher in the cache's keys."""
    if isinstance(source, LocalTeacher):
        return f"{source.kind}:{source.digest}"
    assert isinstance(source, Endpoint)
    return source.url


async def _ask(asking: Asking, questions: Sequence[Question]) -> AskOutcome:
    try:
        return await asking.run(questions)
    finally:
        await asking.source.close()


def _job(
    options: argparse.Namespace,
    config: Config,
    dataset: RankedListDataset,
    prompt: Prompt | None,
    settings: AskSettings,
    questions: Sequence[Question],
) -> dict[str, Any]:
    """What decides the results of a job, as JSON for the manifest."""
    if options.answers is not None:
        teacher: dict[str, Any] = {"answers": str(options.answers), "sha256": file_digest(options.answers)}
    else:
        sampling = {name: value for name, value in settings.sampling.items() if name != "model"}
        teacher = {"model": options.model, "endpoint": options.endpoint, "sampling": sampling}
    inputs = {
        name: {"path": str(path), "sha256": file_digest(path)}
        for name, path in (("candidates", options.candidates), ("lists", options.lists), ("only", options.only))
        if path is not None
    }
    asked = hashlib.sha256()
    for question in questions:
        asked.update(json.dumps([question.name, question.messages]).encode())
    return {
        "task": options.task,
        "teacher": teacher,
        "prompt": {"origin": "dataset"} if prompt is None else {**vars(prompt), "sha256": prompt.sha256},
        "dataset": {"name": dataset.name, "sha256": dataset.fingerprint, "list_length": config.dataset.list_length},
        "inputs": inputs,
        "questions": {"count": len(questions), "sha256": asked.hexdigest()},
        "accepted": {"at_least": options.at_least, "reasks": settings.reasks},
    }


def _places(out: Path) -> tuple[Path, Path]:
    """The files beside the output: its manifest, and its failures."""
    return manifest_of(out), out.with_suffix(".failed.jsonl")


def _check_out(out: Path, job: dict[str, Any]) -> None:
    """Refuse to overwrite files, except those that the same job has written.

    Raises:
        BadInput: names them.
    """
    manifest, failed = _places(out)
    there = [path for path in (out, failed) if path.exists()]
    known: Any = {}
    if manifest.exists():
        found = read_user_json(manifest)
        if isinstance(found, dict) and found.get("job") == job and isinstance(found.get("files"), dict):
            known = found["files"]
        else:
            there.append(manifest)
    problems = [
        f"{path} already exists; move it away or give another --out"
        for path in there
        if path.is_dir() or known.get(path.name) != file_digest(path)
    ]
    if problems:
        raise BadInput(*problems)


def _finish(
    options: argparse.Namespace,
    questions: Sequence[Question],
    outcome: AskOutcome,
    job: dict[str, Any],
    counts: dict[str, Any],
    settings: AskSettings,
) -> int:
    """Write the files, tell what was done, and return the exit code."""
    _tell(outcome, settings)
    if outcome.stopped:
        console.print(
            f"stopped: {outcome.stopped}. {len(outcome.responses)} of {len(questions)} questions have a result so far. "
            f"All answers are kept; the same command continues from there. {options.out} is not written yet",
            markup=False,
            soft_wrap=True,
        )
        return 1
    out, (manifest, failed) = options.out, _places(options.out)
    files = {}
    rows = [_row(options.task, q, outcome.responses[q.name]) for q in questions if q.name in outcome.responses]
    for path, lines in ((out, rows), (failed, [vars(failure) for failure in outcome.failures])):
        if lines:
            # Escaped: the raw text of a failure may hold what UTF-8 cannot encode.
            write_text(path, "".join(json.dumps(line, ensure_ascii=path == failed) + "\n" for line in lines))
            files[path.name] = file_digest(path)
        else:
            path.unlink(missing_ok=True)
    total = [counts[f"{part}prompt_tokens"] for part in ("", "cached_")]
    total_out = [counts[f"{part}completion_tokens"] for part in ("", "cached_")]
    prices = settings.prices
    cost = {
        "price_in": prices.prompt,
        "price_out": prices.completion,
        "this_run": prices.cost(total[0], total_out[0]),
        "all_answers": prices.cost(sum(total), sum(total_out)),
    }
    write_json(
        manifest,
        {
            "rlbench": __version__,
            "job": job,
            "counts": {"results": len(rows), **counts},
            "cost": cost,
            "cache": None if options.answers else str(options.cache),
            "files": files,
        },
    )
    if outcome.failures:
        console.print(f"{len(outcome.failures)} failed questions are listed in {failed}", markup=False, soft_wrap=True)
    if not rows:
        console.print(f"no answer is usable, so {out} is not written", markup=False, soft_wrap=True)
        return 1
    console.print(f"wrote {len(rows)} of {len(questions)} results to {out}", markup=False, soft_wrap=True)
    return 0


def _row(task: str, question: Question, response: str) -> dict[str, Any]:
    if task == "metadata":
        title, year = question.subject
        return {"title": title, **({} if year is None else {"year": year}), "text": response}
    return {"context_id": question.name, "response": response}


def _tell(outcome: AskOutcome, settings: AskSettings) -> None:
    """Say what was asked, what it cost, and what was repaired or failed."""
    counts = outcome.counts
    said = [f"{counts.asked} requests answered, {counts.cached} answers from the cache"]
    said.append(f"{counts.prompt_tokens:,} + {counts.completion_tokens:,} tokens")
    if settings.prices != Prices():
        said.append(f"cost {settings.prices.cost(counts.prompt_tokens, counts.completion_tokens):.2f}")
    if counts.estimated:
        said.append(f"tokens of {counts.estimated} answers are estimated")
    console.print("; ".join(said), markup=False, soft_wrap=True)
    for words, found in (
        ("tried again", counts.retries),
        ("asked again", counts.reasked),
        ("repaired", counts.repairs),
        ("failed", counts.failed),
    ):
        if found:
            listed = ", ".join(f"{count} {kind}" for kind, count in found.most_common())
            console.print(f"{words}: {listed}", markup=False, soft_wrap=True)


def _dry_run(
    options: argparse.Namespace, questions: Sequence[Question], settings: AskSettings, cache: AnswerCache | None
) -> None:
    """Print sample requests and estimates. Asks nothing."""
    bodies = ({**settings.sampling, "messages": question.messages} for question in questions)
    new = tokens = 0
    counted: set[str] = set()
    for number, body in enumerate(bodies):
        if number < SAMPLES:
            print(json.dumps(body, indent=2, ensure_ascii=False))
        key = str(number) if cache is None else cache.key(body)
        if key not in counted and (cache is None or cache.get(body) is None):
            new, tokens = new + 1, tokens + prompt_tokens(body["messages"])
        counted.add(key)
    answers = new * settings.answer_tokens
    said = [
        f"{len(questions)} questions, of which {len(questions) - new} need no request (answered, or equal to another)",
        f"to ask: {new} requests, about {tokens:,} prompt tokens and {answers:,} answer tokens",
    ]
    if settings.prices != Prices():
        said.append(f"about {settings.prices.cost(tokens, answers):.2f} in cost")
    limits = [(options.requests_per_minute, new), (options.tokens_per_minute, tokens + answers)]
    minutes = max((amount / limit for limit, amount in limits if limit), default=0.0)
    if minutes:
        said.append(f"at least {minutes:,.1f} minutes at the limits per minute")
    said.append("tokens are estimated at one per four bytes; unusable answers are asked again and add to this")
    for sentence in said:
        console.print(sentence, markup=False, soft_wrap=True)
