"""One run with rollouts by vLLM, in a separate process: python -m tests.engines.vllm_run OUT OVERRIDE...

Writes the rollouts and the measurements to OUT. vLLM's CPU build repacks weights once and cannot take new ones, so
runs refuse it; this script skips the repacking on the CPU and leaves the rest of the engine unchanged.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rlbench.running import runner, session
from rlbench.training.trainer import RankedListTrainer
from tests.conftest import SMALL, composed

WIDE = ["model.hidden_size=64", "model.heads=2"]  # vLLM's attention on the CPU needs heads of at least 32
DEVICE = ["runtime.device=auto", "generation=vllm_colocate"]


def take_new_weights_on_the_cpu() -> None:
    """Make linear layers keep their weights as loaded."""
    from vllm.model_executor.layers import utils

    def as_loaded(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = as_loaded
    runner.check_engine = session.check_engine = lambda config: []


class Noted:
    """Record the rollouts of every trainer, and how many completions each request to an engine asks for."""

    def __init__(self) -> None:
        self.rollouts: list[list[list[int]]] = []
        self.seeds: list[int] = []
        self.requests: list[list[int]] = []
        of_class = RankedListTrainer._generate_single_turn

        def generate(trainer: RankedListTrainer, *args: Any, **kwargs: Any) -> Any:
            if trainer.vllm_mode == "colocate":
                engine = trainer.vllm_generation.llm.llm_engine
                self.seeds.append(engine.vllm_config.model_config.seed)
                self.requests.append([])
                if len(self.requests) == 1:
                    engine.add_request = self.noting(engine.add_request)
            found = of_class(trainer, *args, **kwargs)
            self.rollouts.append([list(ids) for ids in found[0]])
            return found

        RankedListTrainer._generate_single_turn = generate

    def noting(self, add_request: Callable[..., Any]) -> Callable[..., Any]:
        """The engine's own method, which also notes `n` of each request."""

        def noted(request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
            self.requests[-1].append(params.n)
            return add_request(request_id, prompt, params, *args, **kwargs)

        return noted


def main() -> None:
    out, *overrides = sys.argv[1:]
    if not torch.cuda.is_available():
        take_new_weights_on_the_cpu()
    noted = Noted()
    config = composed(*SMALL, *WIDE, "+debug=smoke", *DEVICE, *overrides)
    target = runner.run(config)
    found = {
        "root": str(target.root),
        "rollouts": noted.rollouts,
        "seeds": noted.seeds,
        "requests": noted.requests,
        "metrics": target.read_metrics(),
    }
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
