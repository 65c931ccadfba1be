"""The streams of random numbers that a run has, and how each follows from a seed of the config.

| stream | draws | follows from |
|---|---|---|
| data order of RL | which prompts an update has | `seed`; one stream for all processes (TRL's sampler) |
| rollout | completions, and their order in micro-batches | `seed` + number of the process; torch's own, set by TRL |
| demonstrations | which demonstrations a loss beside RL has | `seed` and the round; one stream for all processes |
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


@contextmanager
def evaluation_stream(seed: int) -> Iterator[None]:
    """torch's generator started from `seed`, and put back afterwards."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
