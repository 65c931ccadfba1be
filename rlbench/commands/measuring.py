"""Measures the models of a run for `rlbench.measure`. Loads torch."""

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from rlbench.base.errors import BadInput
from rlbench.base.files import new_folder
from rlbench.config.schema import Config
from rlbench.data.record import Messages, Record
from rlbench.evaluation.evaluate import BatchLimit, eos_ids, generate, prompt_ids
from rlbench.evaluation.geometry import alpha_req, effective_rank, rank_me
from rlbench.evaluation.judging import Criteria, make_criteria
from rlbench.evaluation.patterns import PATTERNS
from rlbench.lists.metrics import ndcg
from rlbench.lists.reader import ListReader
from rlbench.lists.relevance import JudgedLists
from rlbench.models.batches import Completions
from rlbench.models.loading import load_model, load_tokenizer
from rlbench.rewards.reward_model import ItemPairs, RewardModel, compared_items, title_codes
from rlbench.runs.directory import locate
from rlbench.runs.inputs import load
from rlbench.runs.recorded import read_config
from rlbench.training.checkpoints import last_checkpoint, steps_of

RATE = 0.01
"""Learning rate of a judge."""
YEAR = re.compile(r"\s*\(\d{4}\)")
BOUNDS = (1, 3, 10)
"""Largest token ranks of the bins in token_ranks.csv."""


@dataclass(frozen=True)
class Stage:
    """A model of a run: the number of updates before it, and its folder."""

    update: int
    folder: Path


@dataclass
class Probe:
    """The probe set, and what belongs to all models of the run."""

    config: Config
    records: Sequence[Record]
    criteria: Criteria
    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def limit(self) -> BatchLimit:
        return BatchLimit(self.config.evaluation.batch_size, self.config.evaluation.batch_tokens)

    def judged(self, texts: Sequence[str], lengths: Sequence[int]) -> JudgedLists:
        """The lists of all records."""
        judge = self.criteria.judge
        truths, seen = [r.ground_truth for r in self.records], [r.seen_titles for r in self.records]
        return judge(judge.read(texts), truths, seen, lengths)


@dataclass
class Measured:
    """A model on the probe set."""

    probe: Probe
    stage: Stage
    model: PreTrainedModel

    @property
    def reader(self) -> ListReader:
        length = self.probe.config.dataset.list_length
        return ListReader(self.probe.tokenizer, length, eos_ids(self.model, self.probe.tokenizer))

    def lists(self, prompts: Sequence[Messages]) -> list[list[int]]:
        """The greedy lists of prompts, as token ids."""
        found = generate(self.model, self.reader, prompts, self.probe.config.generation, self.probe.limit)
        return [one.ids for one in found]

    @cached_property
    def own(self) -> list[list[int]]:
        """The greedy lists of the probe set."""
        return self.lists([record.prompt for record in self.probe.records])

    @cached_property
    def texts(self) -> list[str]:
        return self.reader.decode(self.own)

    @cached_property
    def judged(self) -> JudgedLists:
        return self.probe.judged(self.texts, list(map(len, self.own)))

    @cached_property
    def states(self) -> torch.Tensor:
        """(n, H) last hidden states at the last token of each prompt."""
        rows = []
        with torch.no_grad():
            for record in self.probe.records:
                ids = torch.tensor([prompt_ids(self.probe.tokenizer, record.prompt)], device=self.model.device)
                rows.append(self.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1].double())
        return torch.stack(rows).cpu()


def measure(options: argparse.Namespace) -> int:
    """Measure the models of the run and write the files.

    Raises:
        BadInput: the folder is no RL run with a model, or its base is not there.
    """
    hf_logging.disable_progress_bar()
    config = read_config(options.run)
    stages, base = _stages(options.run, config, options.base)
    dataset = load(config)
    records = list({record.context_id: record for record in dataset.splits["validation"]}.values())[: options.contexts]
    if len(records) < 2:
        raise BadInput(f"{options.run}: a probe set needs at least two validation contexts")
    tokenizer = load_tokenizer(stages[-1].folder, config.generation.template_date)
    criteria = make_criteria(config.matching, dataset, config.dataset.list_length)
    probe = Probe(config, records, criteria, tokenizer)
    under = _model(base, config) if "token_ranks" in options.kinds else None
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in options.kinds}
    answers: dict[int, JudgedLists] = {}
    for stage in stages:
        one = Measured(probe, stage, _model(stage.folder, config))
        for kind in options.kinds:
            if kind == "token_ranks":
                assert under is not None
                rows[kind] += token_ranks(one, under)
            elif kind == "judge":
                answers[stage.update] = one.judged
            else:
                rows[kind] += SIMPLE[kind](one)
    if "judge" in options.kinds:
        rows["judge"] = list(judge_staleness(probe, answers, options.steps))
    _write(new_folder(options.out, "--out"), rows, Console())
    return 0


def _model(folder: Path, config: Config) -> PreTrainedModel:
    return load_model(folder, config.model.dtype).eval()


def _stages(run: Path, config: Config, base: Path | None) -> tuple[list[Stage], Path]:
    """The models of a run in the order of updates, and the folder of the base."""
    if config.stage != "rl":
        raise BadInput(f"{run} is a run of the stage {config.stage}; give one of the RL stage")
    if base is None:
        beside = replace(config, runs_dir=str(run.resolve().parents[3]))
        start = locate(beside, "sft").final_model
        if config.trainer.rl.start != "sft" or not start.is_dir():
            raise BadInput(f"the model from which {run} started is not at {start}; give it with --base FOLDER")
        base = start
    found = {0: base} | {step: path for step, path in steps_of(run / "checkpoints").items() if step > 0}
    last = last_checkpoint(run / "checkpoints")
    if last is not None:
        found[last.update] = last.folder
    if len(found) < 2:
        raise BadInput(f"{run} has no checkpoint to measure")
    return [Stage(step, found[step]) for step in sorted(found)], base


def geometry(one: Measured) -> Iterator[dict[str, Any]]:
    """RankMe, effective rank and alpha-ReQ of the states at the ends of prompts."""
    yield {
        "update": one.stage.update,
        "rank_me": rank_me(one.states),
        "effective_rank": effective_rank(one.states),
        "alpha_req": alpha_req(one.states),
    }


def token_ranks(one: Measured, base: PreTrainedModel) -> Iterator[dict[str, Any]]:
    """How likely the tokens of a model's lists are under the base: shares of their ranks, by place in the list."""
    ranks: list[int] = []
    places: list[int] = []
    reader = one.reader
    for record, ids in zip(one.probe.records, one.own, strict=True):
        ranks += ranks_under(base, prompt_ids(one.probe.tokenizer, record.prompt), ids)
        lines = one.probe.criteria.judge.read(reader.decode([ids]))[0].lines
        row = torch.tensor([ids])
        places += reader.segment(row, torch.ones_like(row), [lines]).unit_ids[0].tolist()
    table, place = np.array(ranks), np.array(places)
    for name, chosen in (
        ("all", place >= 0),
        ("first rank", place == 0),
        ("later ranks", (place > 0) & (place < reader.units.list_length)),
        ("end", place == reader.units.eos),
    ):
        own = table[chosen]
        if len(own):
            low, shares = 0, {}
            for bound in BOUNDS:
                shares[f"share_to_{bound}"] = float(((own > low) & (own <= bound)).mean())
                low = bound
            yield {
                "update": one.stage.update,
                "place": name,
                "tokens": len(own),
                "mean_rank": float(own.mean()),
                **shares,
                "share_beyond": float((own > low).mean()),
            }


def ranks_under(base: PreTrainedModel, prompt: Sequence[int], ids: Sequence[int]) -> list[int]:
    """Rank of each token of a list under a model, from 1: one more than the number of likelier tokens."""
    whole = Completions.of_rows([(prompt, ids)], 0, base.device).joined()[0]
    with torch.no_grad():
        logits = base(input_ids=whole).logits[0, len(prompt) - 1 : -1]
    own = logits.gather(1, torch.tensor(ids, device=logits.device)[:, None])
    return [int(likelier) + 1 for likelier in (logits > own).sum(dim=1).tolist()]


def patterns(one: Measured) -> Iterator[dict[str, Any]]:
    """The share of lists with each pattern."""
    titles = [[title for title, _ in parsed.items] for parsed in one.probe.criteria.judge.read(one.texts)]
    for name, pattern in PATTERNS.items():
        share = float(pattern(one.judged, one.probe.criteria.facts, titles).mean())
        yield {"update": one.stage.update, "pattern": name, "share": share}


def solved(one: Measured) -> Iterator[dict[str, Any]]:
    """The hits of each context's list."""
    for record, hits in zip(one.probe.records, one.judged.hits.sum(axis=1), strict=True):
        yield {"update": one.stage.update, "context_id": record.context_id, "hits": int(hits)}


def judge_staleness(probe: Probe, answers: Mapping[int, JudgedLists], steps: int) -> Iterator[dict[str, Any]]:
    """Accuracy of a judge trained on one model's lists on each model's lists.

    A judge is trained to rank relevant items above the wrong items of a list, on half of the contexts. Its accuracy is
    the share of such pairs that it orders well on the other half.
    """
    catalog = probe.criteria.judge.catalog
    half = len(probe.records) // 2
    compared = {update: comparisons(probe, lists) for update, lists in answers.items()}
    for trained, own in compared.items():
        judge = RewardModel.of_catalog(catalog, probe.config.seed)
        judge.learn(own[:half], steps, RATE)
        for update, others in compared.items():
            yield {"trained_at": trained, "update": update, "accuracy": judge.accuracy(others[half:])}


def comparisons(probe: Probe, lists: JudgedLists) -> list[ItemPairs]:
    """For each context: relevant items of the catalogue against the misses of its list."""
    catalog = probe.criteria.judge.catalog
    titles = [title_codes(catalog, record.seen_titles) for record in probe.records]
    return compared_items(lists, catalog, [record.ground_truth for record in probe.records], titles)


def own_words(prompt: Messages) -> Messages:
    """The prompt as it is."""
    return prompt


def lower_case(prompt: Messages) -> Messages:
    """All texts in lower case."""
    return [message | {"content": message["content"].lower()} for message in prompt]


def no_years(prompt: Messages) -> Messages:
    """Without the years of films."""
    return [message | {"content": YEAR.sub("", message["content"])} for message in prompt]


def one_message(prompt: Messages) -> Messages:
    """All turns in one message of the user, each with the name of who said it."""
    told = "\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in prompt)
    return [{"role": "user", "content": told}]


FORMS: Mapping[str, Callable[[Messages], Messages]] = {
    "own": own_words,
    "lower case": lower_case,
    "no years": no_years,
    "one message": one_message,
}


def transfer(one: Measured) -> Iterator[dict[str, Any]]:
    """NDCG@N under the forms of the prompt."""
    n = one.probe.config.dataset.list_length
    for name, form in FORMS.items():
        ids = one.own if name == "own" else one.lists([form(record.prompt) for record in one.probe.records])
        lists = one.probe.judged(one.reader.decode(ids), list(map(len, ids)))
        value = float(ndcg(lists.hits, lists.n_truth, n, lists.gains, lists.graded).mean())
        yield {"update": one.stage.update, "form": name, f"ndcg@{n}": value}


SIMPLE: Mapping[str, Callable[[Measured], Iterator[dict[str, Any]]]] = {
    "geometry": geometry,
    "patterns": patterns,
    "solved": solved,
    "transfer": transfer,
}


def _write(folder: Path, rows: Mapping[str, Sequence[dict[str, Any]]], console: Console) -> None:
    for kind, of_kind in rows.items():
        table = pd.DataFrame(of_kind)
        table.to_csv(folder / f"{kind}.csv", index=False)
        if kind != "solved":
            _show(kind, table, console)
        console.print(f"wrote {folder / kind}.csv", soft_wrap=True, highlight=False)


def _show(kind: str, table: pd.DataFrame, console: Console) -> None:
    if kind in ("patterns", "transfer", "judge"):
        first, across = list(table.columns[:2])
        table = table.pivot(index=first, columns=across, values=table.columns[2]).reset_index()
    shown = Table(*map(str, table.columns), title=kind)
    for row in table.itertuples(index=False):
        shown.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
    console.print(shown)
