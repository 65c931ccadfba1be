"""Evaluate a model as it is, under its own name: greedy lists, and sampled ones (docs/scoring.md)."""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from rlbench.base.errors import BadInput
from rlbench.base.program import as_started
from rlbench.score import add_place

BACKENDS = ("transformers", "vllm")
EPILOG = """\
examples:
  a checkpoint beside the runs of an experiment, with their prompts and decoding:
    rlbench eval --model checkpoints/step-300 --beside runs/mini
  a model of the hub, with eight sampled lists for each context:
    rlbench eval --model HuggingFaceTB/SmolLM2-135M-Instruct --samples 8 --dataset redial dataset.path=FOLDER
  a model behind an OpenAI-compatible server, such as vllm serve:
    rlbench eval --model gpt-4.1-mini --endpoint https://api.openai.com/v1 --beside runs/redial

exit codes: 0 done, 1 some requests got no answer (run it again: answers are kept), 2 invalid input"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    console = Console(stderr=True, highlight=False)
    try:
        if options.samples is not None and not 0 <= options.samples <= 10_000:
            raise BadInput(f"--samples {options.samples} must lie in 0..10000")
        if options.seed < 0:
            raise BadInput(f"--seed {options.seed} must be at least 0")
        if options.endpoint and options.backend:
            raise BadInput("--endpoint asks a server, so --backend has no effect; remove one of them")
        from rlbench.commands.evaluating import evaluate  # loads pandas and, for a local model, torch

        return evaluate(options)
    except BadInput as error:
        for problem in error.problems:
            console.print(problem, style="red", markup=False, soft_wrap=True)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=as_started("python -m rlbench.evaluate"),
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", required=True, metavar="FOLDER|ID", help="a model folder, a hub id, or the server's name of a model"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of the dataset and of decoding")
    add_place(parser)
    parser.add_argument("--name", metavar="NAME", help="name of the row (default: the last part of --model)")
    parser.add_argument("--samples", type=int, metavar="N", help="sampled lists for each test context, for pass@k")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of sampled lists, and of the row")
    parser.add_argument("--validation", action="store_true", help="evaluate validation as well as test")
    parser.add_argument("--backend", choices=BACKENDS, help="what runs the model here (default: transformers)")
    parser.add_argument("--endpoint", metavar="URL", help="an OpenAI-compatible server instead, such as http://host/v1")
    parser.add_argument(
        "--key-env",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable with the server's key; without it no key is sent (default: %(default)s)",
    )
    parser.add_argument("--concurrency", type=int, default=8, metavar="N", help="open requests (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
