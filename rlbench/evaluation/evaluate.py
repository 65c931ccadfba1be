"""Evaluates a model on a split: generation, judging, per-query metrics, predictions.

Contexts shared by several samples are generated once and judged against each answerer. Greedy lists draw no random
numbers, and sampled lists use a stream of their own, so the frequency of evaluations does not change a training run.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlbench.base.seeding import evaluation_stream
from rlbench.config.schema import Config, GenerationConfig
from rlbench.data.record import Messages, Record
from rlbench.evaluation.judging import Answer, Criteria, judge_answers, sampled_metrics
from rlbench.lists.reader import ListReader
from rlbench.lists.relevance import Judge
from rlbench.models.beams import ListForm, beam_search
from rlbench.models.completing import Completion, complete, most_likely_logps
from rlbench.models.constraint import HeldPrompts, constraint_of
from rlbench.models.generation import generation_config, shares
from rlbench.models.operations import ModelShape
from rlbench.objective.units import scatter_mean, unit_sizes
from rlbench.runs import processes
from rlbench.runs.tables import SAMPLES, table_of

Progress = Callable[[int], None]
"""Called with the number of lists generated so far."""

PROMPTS_AT_ONCE = 256
"""Number of prompts tokenised together."""
SLACK_BYTES = 16
"""Bytes that a tokenizer may put in front of a text, such as a word-start marker."""
CONTEXTS_AT_ONCE = 512
"""Number of lists whose tokens are segmented together; bounds memory."""


@dataclass(frozen=True)
class BatchLimit:
    """The largest batch of prompts.

    Attributes:
        rows: number of prompts.
        tokens: number of tokens, with padding and completions. A longer prompt gets a batch of its own. None for no
            limit.
    """

    rows: int
    tokens: int | None = None


@dataclass(frozen=True)
class ListSearch:
    """How lists are found, besides the decoding settings.

    Attributes:
        beams: number of beams for lists that are not sampled; 1 decodes greedily.
        held: what the lists are held to; None for free lists.
    """

    beams: int = 1
    held: HeldPrompts | None = None


@dataclass(frozen=True)
class Sampling:
    """Sampled lists of an evaluation, in addition to the greedy ones: for pass@k and the recall of k lists together.

    Attributes:
        lists: number of lists per context.
        seed: seed of their random numbers.
    """

    lists: int
    seed: int


@dataclass(frozen=True)
class Evaluation:
    """Result of one evaluation.

    Attributes:
        predictions: one row per sample, with the columns in docs/results-schema.md.
        means: mean of every per-query metric over samples, and the metrics of the split as a whole.
        generated_tokens: tokens generated, EOS included.
        operations: floating-point operations that generation needed, each prompt once for its greedy list and once for
            its sampled ones.
        samples: the sampled lists, one row per context and list: context_id, list, text. Empty if none were requested.
    """

    predictions: pd.DataFrame
    means: dict[str, float]
    generated_tokens: int
    operations: int
    samples: pd.DataFrame


FREE = ListSearch()
"""Free lists, greedy or sampled."""


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: Messages) -> list[int]:
    """Token ids of a prompt in the model's chat template, up to the start of the answer."""
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)[
        "input_ids"
    ]


def longest_prompt(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest prompt; 0 without records."""
    return _longest(list({record.context_id: record.prompt for record in records}.values()), tokenizer, True)


def longest_demonstration(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest prompt with its demonstration; 0 without records."""
    return _longest([[*record.prompt, *(record.completion or [])] for record in records], tokenizer, False)


def _longest(prompts: Sequence[Messages], tokenizer: PreTrainedTokenizerBase, is_open: bool) -> int:
    """Tokens of the longest text that a chat template writes.

    A token stands for at least one byte of text. So prompts are tokenised in descending order of bytes, until no other
    can have more tokens than the longest found. Characters alone do not show which prompt is longest: rare characters
    take one token per byte, common words one token per four or five.

    Args:
        is_open: whether an answer follows.
    """
    bounds = _most_tokens(prompts, tokenizer, is_open)
    order = sorted(range(len(prompts)), key=lambda i: -bounds[i])
    longest = 0
    for start in range(0, len(order), PROMPTS_AT_ONCE):
        rows = order[start : start + PROMPTS_AT_ONCE]
        if bounds[rows[0]] <= longest:
            break
        texts = [_rendered(tokenizer, prompts[i], is_open) for i in rows]
        longest = max(longest, *map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))
    return longest


def _rendered(tokenizer: PreTrainedTokenizerBase, prompt: Messages, is_open: bool) -> str:
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=is_open, tokenize=False)


def _most_tokens(prompts: Sequence[Messages], tokenizer: PreTrainedTokenizerBase, is_open: bool) -> list[float]:
    """An upper bound on the tokens of each prompt: its bytes after the tokenizer's normaliser, plus the template's.

    The template's share is measured on the first prompt of each sequence of roles. Tokenizers that are not written in
    Rust have no bound, because their normaliser is not known.
    """
    if not tokenizer.is_fast:
        return [math.inf] * len(prompts)
    normalizer = tokenizer.backend_tokenizer.normalizer
    normalised: Callable[[str], str] = (lambda text: text) if normalizer is None else normalizer.normalize_str
    added: dict[tuple[str, ...], int] = {}
    bounds: list[float] = []
    for prompt in prompts:
        size = sum(len(normalised(message["content"]).encode()) for message in prompt)
        roles = tuple(message["role"] for message in prompt)
        if roles not in added:
            added[roles] = len(normalised(_rendered(tokenizer, prompt, is_open)).encode()) - size
        bounds.append(size + max(added[roles], 0) + SLACK_BYTES)
    return bounds


def batches_of(lengths: Sequence[int], limit: BatchLimit, new: int) -> list[list[int]]:
    """Positions of prompts by batch. Prompts of similar length share a batch, shortest first.

    Args:
        lengths: tokens of each prompt.
        limit: size of a batch.
        new: largest number of tokens in a completion.
    """
    found: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        last = found[-1] if found else []
        # This prompt is the longest so far: all rows of the batch are padded to its length.
        fits = limit.tokens is None or (len(last) + 1) * (lengths[i] + new) <= limit.tokens
        if last and len(last) < limit.rows and fits:
            last.append(i)
        else:
            found.append([i])
    return found


def generate(
    model: PreTrainedModel,
    reader: ListReader,
    prompts: Sequence[Messages],
    generation: GenerationConfig,
    limit: BatchLimit,
    *,
    sampled: bool = False,
    search: ListSearch = FREE,
    progress: Progress | None = None,
) -> list[Completion]:
    """Completions of prompts, greedy or sampled. Prompts of similar length share a batch (`batches_of`).

    Greedy lists are distributed over all processes by whole batches, so each list equals that of a single process.
    Every process returns all lists. Sampled lists are all generated by the calling process.

    Args:
        model: the policy, with all its weights on every process.
        reader: knows the tokenizer, and the ids that end a list.
        prompts: as messages.
        generation: how to decode.
        limit: size of a batch.
        sampled: whether to sample instead of decoding greedily.
        search: how lists are found.
        progress: called after each batch.
    """
    tokenizer, ends_list = reader.tokenizer, reader.eos_token_ids
    ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    beams = 1 if sampled else search.beams
    if beams > 1:
        limit = BatchLimit(max(limit.rows // beams, 1), None if limit.tokens is None else limit.tokens // beams)
    batches = batches_of([len(row) for row in ids], limit, generation.max_new_tokens)
    ends = list(itertools.accumulate(map(len, batches)))
    config = generation_config(generation, tokenizer, ends_list, sampled=sampled)
    completions: dict[int, Completion] = {}
    turns = list(zip(batches, ends, strict=True))
    if not sampled:
        turns = turns[processes.index() :: processes.count()]
    for rows, done in turns:
        # All weights are on this process, so no other process needs to take part in a step.
        record = None if sampled else most_likely_logps
        walk = None if search.held is None else search.held.start(rows, model.device)
        asked = [ids[i] for i in rows]
        if beams > 1:
            form = ListForm(reader.newlines_per_token, reader.units.list_length)
            found = beam_search(model, asked, config, beams, walk, form)
        else:
            found = complete(model, asked, config, record=record, shared=shares(generation), walk=walk)
        completions |= dict(zip(rows, found, strict=True))
        if progress is not None:
            progress(done)
    if not sampled:
        completions = {i: made for of_process in processes.gather(completions) for i, made in of_process.items()}
    return [completions[i] for i in range(len(ids))]


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends a completion: the tokenizer's own, and those declared by the model's generation config."""
    declared = model.generation_config.eos_token_id
    ids = declared if isinstance(declared, list) else [] if declared is None else [declared]
    return list(dict.fromkeys([tokenizer.eos_token_id, *ids]))


def read_answers(completions: Sequence[Completion], reader: ListReader, judge: Judge) -> list[Answer]:
    """Texts of completions and their entries, with the confidence in each of their ranks."""
    answers: list[Answer] = []
    for start in range(0, len(completions), CONTEXTS_AT_ONCE):
        chunk = completions[start : start + CONTEXTS_AT_ONCE]
        ids = [completion.ids for completion in chunk]
        texts = reader.decode(ids)
        parsed = judge.read(texts)
        confidence = rank_confidence(chunk, [read.lines for read in parsed], reader)
        answers += map(Answer, texts, parsed, reader.is_finished(ids), map(len, ids), confidence)
    return answers


def rank_confidence(
    completions: Sequence[Completion], lines: Sequence[Sequence[int]], reader: ListReader
) -> NDArray[np.float64]:
    """(B, N) exp of the mean log-probability of each rank's tokens (C2GSPG's confidence, per rank)."""
    width = max((len(completion.ids) for completion in completions), default=0)
    ids, mask = (torch.zeros(len(completions), width, dtype=torch.long) for _ in range(2))
    logps = torch.zeros(len(completions), width, dtype=torch.float64)
    for row, completion in enumerate(completions):
        length = len(completion.ids)
        ids[row, :length] = torch.tensor(completion.ids, dtype=torch.long)
        logps[row, :length] = torch.tensor(completion.recorded, dtype=torch.float64)
        mask[row, :length] = 1
    unit_ids = reader.segment(ids, mask, lines).unit_ids
    means = scatter_mean(logps, unit_ids, mask, reader.units.count)[:, : reader.units.list_length]
    has_tokens = unit_sizes(unit_ids, mask, reader.units.count)[:, : reader.units.list_length] > 0
    return means.exp().masked_fill(~has_tokens, math.nan).numpy()


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    criteria: Criteria,
    config: Config,
    progress: Progress | None = None,
    sampling: Sampling | None = None,
) -> Evaluation:
    """Generate one greedy list per context and judge it against every sample of the context.

    Args:
        model: the policy, with all its weights on every process.
        tokenizer: its tokenizer.
        records: samples of the split.
        criteria: what the lists are judged by.
        config: how to generate.
        progress: called with the number of lists generated so far.
        sampling: sampled lists to generate too; None for none.
    """
    reader = ListReader(tokenizer, config.dataset.list_length, eos_ids(model, tokenizer))
    limit = BatchLimit(config.evaluation.batch_size, config.evaluation.batch_tokens)
    prompts = {record.context_id: record.prompt for record in records}
    constraint = constraint_of(config.evaluation, reader, criteria.judge)
    named = list({record.context_id: record.seen_titles for record in records}.values())
    held = None if constraint is None else HeldPrompts(constraint, named)
    search = ListSearch(config.evaluation.beams, held)
    completions = generate(
        model, reader, list(prompts.values()), config.generation, limit, search=search, progress=progress
    )
    answers = dict(zip(prompts, read_answers(completions, reader, criteria.judge), strict=True))
    predictions, means = judge_answers(records, answers, criteria, config.dataset.cutoffs)
    n_tokens, operations = spent(model, completions, 1)
    if sampling is None:
        return Evaluation(predictions, means, n_tokens, operations, pd.DataFrame())

    def draw() -> list[Completion]:
        repeated = [prompt for prompt in prompts.values() for _ in range(sampling.lists)]
        after_greedy = None if progress is None else lambda done: progress(len(prompts) + done)
        of_lists = ListSearch(held=None if held is None else held.repeated(sampling.lists))
        return generate(
            model, reader, repeated, config.generation, limit, sampled=True, search=of_lists, progress=after_greedy
        )

    with evaluation_stream(sampling.seed):
        # One process draws all lists from one stream, so that the number of processes does not change them.
        drawn = processes.on_main(draw)
    table = table_of(
        SAMPLES,
        {
            "context_id": [context for context in prompts for _ in range(sampling.lists)],
            "list": list(range(sampling.lists)) * len(prompts),
            "text": reader.decode([completion.ids for completion in drawn]),
        },
    )
    together = sampled_metrics(records, table, criteria.judge, sampling.lists, config.evaluation.pass_at)
    predictions = predictions.assign(**together)
    means |= {name: float(values.mean()) for name, values in together.items()}
    of_drawn = spent(model, drawn, sampling.lists)
    return Evaluation(predictions, means, n_tokens + of_drawn[0], operations + of_drawn[1], table)


def spent(model: PreTrainedModel, completions: Sequence[Completion], group: int) -> tuple[int, int]:
    """Tokens and needed operations of completions; `group` of them in a row have the same prompt."""
    prompts, lengths = [one.prompt_tokens for one in completions], [len(one.ids) for one in completions]
    return sum(lengths), ModelShape.of(model).completions(prompts[::group], prompts, lengths)
