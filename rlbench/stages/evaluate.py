"""Greedy lists on a split: generation, judging, per-query metrics, predictions.

Contexts shared by several samples are generated once and judged against each answerer. Nothing here draws random
numbers, so that evaluating more or less often does not change a training run.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from transformers import GenerationConfig as HFGenerationConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlbench.catalog import Catalog
from rlbench.config import Config
from rlbench.data.record import Messages, Record
from rlbench.lists import ListReader, parse_list
from rlbench.metrics import ranking_metrics
from rlbench.relevance import Verdict, judge, truth_size

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """Result of one evaluation.

    Attributes:
        predictions: one row a sample, the columns that docs/results-schema.md names.
        means: mean of every metric over samples.
        generated_tokens: tokens generated, EOS included.
    """

    predictions: pd.DataFrame
    means: dict[str, float]
    generated_tokens: int


def choose_contexts(records: Sequence[Record], limit: int | None) -> list[Record]:
    """Records of at most `limit` contexts, evenly spaced over the split in its own order; all where limit is None."""
    contexts = list(dict.fromkeys(record.context_id for record in records))
    if limit is None or limit >= len(contexts):
        return list(records)
    kept = {contexts[math.floor(i * len(contexts) / limit)] for i in range(limit)}
    return [record for record in records if record.context_id in kept]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: Messages) -> list[int]:
    """Token ids of a prompt in the model's chat template, up to where the answer begins."""
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)[
        "input_ids"
    ]


def generate_greedily(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    *,
    max_new_tokens: int,
    batch_size: int,
    eos_token_ids: Sequence[int],
    progress: Progress | None = None,
) -> list[list[int]]:
    """Completion ids of each prompt, up to and with EOS; prompts of like length share a batch."""
    ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    config = HFGenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=list(eos_token_ids),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    completions: list[list[int]] = [[] for _ in ids]
    was_training = model.training
    model.eval()
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer.pad({"input_ids": [ids[i] for i in rows]}, padding_side="left", return_tensors="pt")
        batch = {key: value.to(model.device) for key, value in batch.items()}
        with torch.no_grad():
            output = model.generate(**batch, generation_config=config)[:, batch["input_ids"].size(1) :]
        for i, row in zip(rows, output.tolist(), strict=True):
            end = next((at for at, token in enumerate(row) if token in eos_token_ids), len(row) - 1)
            completions[i] = row[: end + 1]
        if progress is not None:
            progress(min(start + batch_size, len(order)), len(order))
    model.train(was_training)
    return completions


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends a completion: the tokenizer's and those the model's generation config declares."""
    declared = model.generation_config.eos_token_id
    ids = declared if isinstance(declared, list) else [] if declared is None else [declared]
    return list(dict.fromkeys([tokenizer.eos_token_id, *ids]))


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    catalog: Catalog,
    config: Config,
    progress: Progress | None = None,
) -> Evaluation:
    """Generate one greedy list a context and judge it against every sample of the context."""
    list_length, cutoffs = config.dataset.list_length, config.dataset.cutoffs
    ends = eos_ids(model, tokenizer)
    reader = ListReader(tokenizer, list_length, ends)
    of_context = {record.context_id: record.prompt for record in records}
    completion_ids = generate_greedily(
        model,
        tokenizer,
        list(of_context.values()),
        max_new_tokens=config.generation.max_new_tokens,
        batch_size=config.evaluation.batch_size,
        eos_token_ids=ends,
        progress=progress,
    )
    texts = dict(zip(of_context, reader.decode(completion_ids), strict=True))
    finished = dict(zip(of_context, reader.is_finished(completion_ids), strict=True))
    predictions = judge_lists(records, texts, finished, catalog, list_length=list_length, cutoffs=cutoffs)
    return Evaluation(predictions, mean_metrics(predictions), sum(len(ids) for ids in completion_ids))


def judge_lists(
    records: Sequence[Record],
    texts: dict[str, str],
    finished: dict[str, bool],
    catalog: Catalog,
    *,
    list_length: int,
    cutoffs: Sequence[int],
) -> pd.DataFrame:
    """Predictions table from texts by context_id; the one place where a report's per-query numbers are made."""
    entries_of = {context: parse_list(text) for context, text in texts.items()}
    hits = np.zeros((len(records), list_length))
    rows = []
    for sample, record in enumerate(records):
        entries = entries_of[record.context_id]
        films = [(entry.title, entry.year) for entry in entries[:list_length]]
        verdicts = judge(films, record.ground_truth, record.seen_titles, catalog)
        hits[sample, : len(verdicts)] = [verdict is Verdict.HIT for verdict in verdicts]
        rows.append(
            {
                "context_id": record.context_id,
                "sample": sample,
                "text": texts[record.context_id],
                "titles": [title for title, _ in films],
                "years": [year for _, year in films],
                "verdicts": [str(verdict) for verdict in verdicts],
                "n_truth": truth_size(record.ground_truth),
                "finished": finished[record.context_id],
                "in_catalog": 1 - _share(verdicts, Verdict.OUT_OF_CATALOG) if verdicts else 0.0,
                "duplicates": _share(verdicts, Verdict.DUPLICATE),
                "seen": _share(verdicts, Verdict.SEEN),
                "list_length": float(len(entries)),
            }
        )
    table = pd.DataFrame(rows)
    metrics = ranking_metrics(hits, table["n_truth"].to_numpy(), cutoffs)
    return table.assign(eos=table["finished"].astype(float), **metrics)


def _share(verdicts: Sequence[Verdict], which: Verdict) -> float:
    return sum(verdict is which for verdict in verdicts) / max(len(verdicts), 1)


def mean_metrics(predictions: pd.DataFrame) -> dict[str, float]:
    """Mean of every metric column over samples."""
    skip = {"sample", "n_truth", "finished"}
    columns = [c for c in predictions.select_dtypes("number").columns if c not in skip]
    return {str(c): float(predictions[c].mean()) for c in columns}
