"""Cost of holding lists to the catalogue, beside free lists: seconds per token of rollouts and of passes with gradient.

    python -m benchmarks.constraint
    python -m benchmarks.constraint --items 7404 --list-length 20

The model is an untrained `tiny`, so free lists go on to the limit on tokens, which is the mean length of held lists.
Both sides run in one process on one thread, alternating. The median of several rounds counts.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from benchmarks.lists import make_world
from rlbench.config.arguments import count
from rlbench.config.schema import MatchingConfig
from rlbench.data.mini import read_films
from rlbench.lists.catalog import Catalog
from rlbench.lists.held import HeldLines
from rlbench.lists.relevance import make_judge
from rlbench.models.batches import Completions
from rlbench.models.completing import complete
from rlbench.models.constraint import Constraint, options_of
from rlbench.models.shared_prompt import prompt_rows, shared_scores
from rlbench.models.tiny import train_tokenizer
from rlbench.models.token_bytes import token_bytes
from rlbench.models.token_head import LogitRule

PROMPT, GROUP, ROWS = 60, 8, 64
SIDES = {"free": None, "held": [], "held, no repeats": ["repeats"], "held, no repeats, not seen": ["repeats", "seen"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=count, default=None, help="items of a made-up catalogue; by default mini's")
    parser.add_argument("--list-length", type=count, default=10)
    parser.add_argument("--rounds", type=count, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.items is None:
        items = [(title, year) for title, year, _ in read_films()]
    else:
        items = make_world(1, np.random.default_rng(0)).catalog.items[: arguments.items]
    lines = [f"{title} ({year})" for title, year in items]
    tokenizer = train_tokenizer(["\n".join(lines)] * 2, 1700, "titles")
    judge = make_judge(MatchingConfig("casefold", "ours", ["nfkc", "spaces", "casefold"], 0, None), Catalog(items), 10)
    started = time.perf_counter()
    held = HeldLines.of(judge)
    options = options_of(held, token_bytes(tokenizer), [tokenizer.eos_token_id])
    setup = time.perf_counter() - started
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
        )
    )
    prompts = [torch.randint(4, 260, (PROMPT,)).tolist() for _ in range(ROWS // GROUP) for _ in range(GROUP)]
    prompts = [prompts[row // GROUP * GROUP] for row in range(ROWS)]
    seen = [[items[row // GROUP][0]] * 3 for row in range(ROWS)]
    rollouts: dict[str, list[float]] = {side: [] for side in SIDES}
    passes: dict[str, list[float]] = {side: [] for side in SIDES}
    follows: list[float] = []
    length = 0
    for turn in range(arguments.rounds + 1):  # the first turn fills the table of options
        for side, exclude in reversed(SIDES.items()):
            constraint = None if exclude is None else Constraint(held, options, arguments.list_length, exclude)
            most = length if constraint is None else 1000
            config = GenerationConfig(
                max_new_tokens=most, eos_token_id=[tokenizer.eos_token_id], pad_token_id=0, do_sample=True
            )
            began = time.perf_counter()
            excluded = None if constraint is None else constraint.excluded(seen)
            walk = None if constraint is None else constraint.start(ROWS, excluded, "cpu")
            found = complete(model, prompts, config, walk=walk)
            spent = time.perf_counter() - began
            tokens = sum(len(row.ids) for row in found)
            length = tokens // ROWS if constraint is not None else length
            batch = Completions.of_rows([(p, row.ids) for p, row in zip(prompts, found, strict=True)], 0, model.device)
            allowed = None
            if constraint is not None:
                began = time.perf_counter()
                allowed = constraint.followed(batch.completion_ids, batch.completion_mask, excluded)
                following = time.perf_counter() - began
            rows = prompt_rows(*list(vars(batch).values())[:4], allowed)
            began = time.perf_counter()
            shared_scores(model, rows, LogitRule(), wants_entropy=True).logps.sum().backward()
            if turn:
                rollouts[side].append(spent / tokens)
                passes[side].append((time.perf_counter() - began) / tokens)
                if constraint is not None:
                    follows.append(following / tokens)
    table = Table("lists", "rollout, µs per token", "ratio", "pass with gradient, µs per token", "ratio")
    for side in SIDES:
        mine = [statistics.median(times[side]) for times in (rollouts, passes)]
        base = [statistics.median(times["free"]) for times in (rollouts, passes)]
        table.add_row(
            side, f"{mine[0] * 1e6:.1f}", f"{mine[0] / base[0]:.2f}", f"{mine[1] * 1e6:.1f}", f"{mine[1] / base[1]:.2f}"
        )
    console = Console()
    console.print(f"{len(items)} items, lists of {arguments.list_length}, {length} tokens on average, {ROWS} lists")
    console.print(table)
    console.print(
        f"once per run: {setup:.2f} s; allowed tokens of finished lists: {statistics.median(follows) * 1e6:.1f} µs "
        "per token"
    )


if __name__ == "__main__":
    main()
