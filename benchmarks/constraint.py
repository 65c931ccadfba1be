"""Cost of holding lists to the catalogue, in rollouts and in passes with gradient.

    python -m benchmarks.constraint
    python -m benchmarks.constraint --items 7404 --list-length 20

The model has the size of `tiny`. Its steps are cheap, so the constraint's share of the time is large. Everything runs
in one process on one thread. Results are medians of several rounds. A rollout is compared with the same rollout without
the time in the constraint. A pass is compared with a pass over the same lists without the constraint.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from benchmarks.lists import make_world
from rlbench.config.arguments import count
from rlbench.config.schema import MatchingConfig
from rlbench.data.mini import read_films
from rlbench.lists.catalog import Catalog
from rlbench.lists.held import HeldLines
from rlbench.lists.items import Item, line_of
from rlbench.lists.relevance import make_judge
from rlbench.models import completing
from rlbench.models.batches import Completions
from rlbench.models.constraint import Allowed, Constraint, Options, Walk, options_of
from rlbench.models.shared_prompt import prompt_rows, shared_scores
from rlbench.models.tiny import train_tokenizer
from rlbench.models.token_bytes import token_bytes
from rlbench.models.token_head import LogitRule

PROMPT, GROUP, ROWS = 60, 8, 64
EXCLUDED = {"held": [], "held, no repeats": ["repeats"], "held, no repeats, not seen": ["repeats", "seen"]}
MATCHING = MatchingConfig("casefold", "ours", ["nfkc", "spaces", "casefold"], 0, None)


class Clock:
    """Seconds spent in some functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time added to the clock."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def catalogue(size: int | None) -> list[Item]:
    """mini's items, or made-up ones."""
    if size is None:
        return [(title, year) for title, year, _ in read_films()]
    return make_world(1, np.random.default_rng(0)).catalog.items[:size]


def model_of(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """An untrained model of the size of `tiny`."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        )
    )


def timed_pass(model: LlamaForCausalLM, batch: Completions, allowed: Allowed | None) -> float:
    """Seconds of a pass with gradient."""
    rows = prompt_rows(batch.prompt_ids, batch.prompt_mask, batch.completion_ids, batch.completion_mask, allowed)
    began = time.perf_counter()
    shared_scores(model, rows, LogitRule(), wants_entropy=True).logps.sum().backward()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=count, default=None, help="items of a made-up catalogue; by default mini's")
    parser.add_argument("--list-length", type=count, default=10)
    parser.add_argument("--rounds", type=count, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    items = catalogue(arguments.items)
    tokenizer = train_tokenizer(["\n".join(line_of(*item) for item in items)] * 2, 1700, "titles")
    began = time.perf_counter()
    held = HeldLines.of(make_judge(MATCHING, Catalog(items), arguments.list_length))
    options: Options = options_of(held, token_bytes(tokenizer), [tokenizer.eos_token_id])
    setup, clock = time.perf_counter() - began, Clock()
    Walk.allowed, Walk.advance = clock.on(Walk.allowed), clock.on(Walk.advance)  # type: ignore[method-assign]
    Walk.keep, completing.among = clock.on(Walk.keep), clock.on(completing.among)  # type: ignore[method-assign]
    model = model_of(tokenizer)
    prompts = [prompt for _ in range(ROWS // GROUP) for prompt in [torch.randint(4, 260, (PROMPT,)).tolist()] * GROUP]
    seen = [[items[row // GROUP][0]] * 3 for row in range(ROWS)]
    config = GenerationConfig(max_new_tokens=1500, eos_token_id=tokenizer.eos_token_id, pad_token_id=0, do_sample=True)
    table = Table("lists", "tokens", "rollout, µs per token", "/ without", "pass, µs per token", "/ free pass")
    for name, exclude in EXCLUDED.items():
        constraint = Constraint(held, options, arguments.list_length, exclude)
        excluded = constraint.excluded(seen)
        measured: list[tuple[float, float, float, float, float]] = []
        for _ in range(arguments.rounds + 1):
            clock.seconds, began = 0.0, time.perf_counter()
            found = completing.complete(model, prompts, config, walk=constraint.start(ROWS, excluded, "cpu"))
            spent, tokens = time.perf_counter() - began, sum(len(row.ids) for row in found)
            batch = Completions.of_rows([(p, row.ids) for p, row in zip(prompts, found, strict=True)], 0, model.device)
            inside = clock.seconds
            allowed = constraint.followed(batch.completion_ids, batch.completion_mask, excluded)
            free, bound = timed_pass(model, batch, None), timed_pass(model, batch, allowed)
            measured.append(
                (tokens / ROWS, spent / tokens * 1e6, spent / (spent - inside), bound / tokens * 1e6, bound / free)
            )
        # The first round fills the table of options.
        length, rollout, share, of_pass, ratio = (
            statistics.median(column) for column in zip(*measured[1:], strict=True)
        )
        table.add_row(name, f"{length:.0f}", f"{rollout:.0f}", f"{share:.2f}", f"{of_pass:.0f}", f"{ratio:.2f}")
    console = Console()
    console.print(f"{len(items)} items, lists of {arguments.list_length}, {ROWS} lists; {setup:.2f} s once per run")
    console.print(table)


if __name__ == "__main__":
    main()
