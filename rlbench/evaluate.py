"""Evaluate a model as it is, under its own name: greedy lists, and sampled ones (docs/scoring.md)."""

import argparse
import sys
from collections.abc import Sequence

from rlbench.base.command import command_parser, exit_code
from rlbench.base.errors import BadInput
from rlbench.config.arguments import count
from rlbench.score import add_place

BACKENDS = ("transformers", "vllm")
EPILOG = """\
examples:
  a checkpoint beside the runs of an experiment, with their prompts and decoding:
    python -m rlbench.evaluate --model checkpoints/step-300 --beside runs/mini
  a model of the hub, with eight sampled lists for each context:
    python -m rlbench.evaluate --model HuggingFaceTB/SmolLM2-135M-Instruct --samples 8 \\
      --dataset redial dataset.path=FOLDER
  a model behind an OpenAI-compatible server, such as vllm serve:
    python -m rlbench.evaluate --model gpt-4.1-mini --endpoint https://api.openai.com/v1 --beside runs/redial

exit codes: 0 done, 1 some requests got no answer (run it again: answers are kept), 2 invalid input"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    return exit_code(lambda: _evaluate(options))


def _evaluate(options: argparse.Namespace) -> int:
    problems = []
    if options.samples is not None and not 0 <= options.samples <= 10_000:
        problems.append(f"--samples {options.samples} must lie in 0..10000")
    if options.seed < 0:
        problems.append(f"--seed {options.seed} must be at least 0")
    if options.endpoint and options.backend:
        problems.append("--endpoint asks a server, so --backend has no effect; remove one of them")
    if problems:
        raise BadInput(*problems)
    from rlbench.commands.evaluating import evaluate  # loads pandas and, for a local model, torch

    return evaluate(options)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("rlbench.evaluate", __doc__, EPILOG)
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
    parser.add_argument(
        "--concurrency", type=count, default=8, metavar="N", help="open requests (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
