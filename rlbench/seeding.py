"""The streams of random numbers that a run has, and how each follows from a seed of the config.

| stream | draws | follows from |
|---|---|---|
| data order of RL | which prompts an update has | `seed`; one stream for all processes (TRL's sampler) |
| rollout | completions, and their order in micro-batches | `seed` + number of the process; torch's own, set by TRL |
| demonstrations | which demonstrations a loss beside RL has | `seed` and the round; one stream for all processes |
| preference optimisation: prompts | whose lists are drawn | `seed` and the turn; a stream of its own |
| its lists | completions | `seed`, round, part and number of the process; anew for each part |
| its tuples | which an update has | `seed`, round and turn; one stream for all processes |
| sampled lists of an evaluation | `evaluation.samples` | the seed in the run directory's name; anew each time |
| data order of SFT | which demonstrations an update has | `trainer.sft.seed` + epoch; one stream for all processes |
| weights of `tiny`, data | | `model.seed`, `dataset.seed` |

Greedy lists draw nothing. Whoever draws from a stream of its own leaves torch's generator as it was, so that rollouts
do not depend on how often a run evaluates or what its loss has beside them. Checkpoints hold the generators of every
process.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def start_streams(seed: int) -> None:
    """Start the generators of Python, numpy and torch for a training stage."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def demonstration_order(seed: int, turn: int, count: int) -> list[int]:
    """The order of `count` demonstrations in a round."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + turn)
    return torch.randperm(count, generator=generator).tolist()


def stream_seed(*numbers: int) -> int:
    """One seed from several numbers: different ones give streams that have nothing to do with each other."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def order(count: int, *numbers: int) -> list[int]:
    """An order of `count` things that follows from some numbers."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(stream_seed(*numbers))).tolist()


@contextmanager
def evaluation_stream(seed: int) -> Iterator[None]:
    """torch's generator started from `seed`, and put back afterwards."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
