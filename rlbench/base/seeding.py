"""The random streams of a run, and how each derives from a seed in the config.

| stream | draws | derives from |
|---|---|---|
| data order of RL | prompts of an update | `seed`; one stream for all processes (TRL's sampler) |
| rollout | completions, and their order in micro-batches | `seed` + process index; torch's global stream, set by TRL |
| demonstrations | demonstrations of a loss added to RL | `seed` and the round; one stream for all processes |
| preference optimisation: prompts | prompts to draw lists for | `seed` and the turn; its own stream |
| its lists | completions | `seed`, round, part and process index; restarted for each part |
| its tuples | tuples of an update | `seed`, round and turn; one stream for all processes |
| sampled lists of an evaluation | `evaluation.samples` | the seed in the run directory's name; restarted each time |
| data order of SFT | demonstrations of an update | `trainer.sft.seed` + epoch; one stream for all processes |
| weights of `tiny`, data | | `model.seed`, `dataset.seed` |

Greedy lists draw nothing. A separate stream leaves torch's global generator unchanged, so that rollouts do not depend
on the number of evaluations or on other losses. Checkpoints hold the generators of every process.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def start_streams(seed: int) -> None:
    """Seed the generators of Python, numpy and torch for a training stage."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def demonstration_order(seed: int, turn: int, count: int) -> list[int]:
    """Return the order of `count` demonstrations in a round."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + turn)
    return torch.randperm(count, generator=generator).tolist()


def stream_seed(*numbers: int) -> int:
    """Combine several numbers into one seed. Different numbers give independent streams."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def order(count: int, *numbers: int) -> list[int]:
    """Return a permutation of `count` items, determined by the numbers."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(stream_seed(*numbers))).tolist()


@contextmanager
def evaluation_stream(seed: int) -> Iterator[None]:
    """Seed torch's generator, and restore its state afterwards."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
