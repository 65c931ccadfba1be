"""Ask a teacher model for the lists, ratings and descriptions of Stage 1 (docs/stage1.md)."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlbench.base.command import command_parser, exit_code
from rlbench.base.errors import BadInput
from rlbench.base.program import as_started
from rlbench.config.arguments import count, index
from rlbench.running.cli import config_of

TASKS = ("lists", "ratings", "metadata")
ENGINES = ("transformers", "vllm")
MAX_TOKENS = {"lists": 1024, "ratings": 4096, "metadata": 400}
"""Default maximum length of an answer, by task."""

EPILOG = """examples:
  see what would be asked, and what it may cost:
    python -m rlbench.teach lists --endpoint https://api.openai.com/v1 --model gpt-4o --dry-run \\
      --price-in 2.5 --price-out 10 dataset=redial dataset.path=FOLDER
  lists, then ratings of the candidates that rlbench demonstrate writes for them:
    python -m rlbench.teach lists --endpoint URL --model NAME --out lists.jsonl dataset=redial dataset.path=FOLDER
    python -m rlbench.demonstrate lists.jsonl --candidates candidates.jsonl dataset=redial dataset.path=FOLDER
    python -m rlbench.teach ratings --candidates candidates.jsonl --endpoint URL --model NAME \\
      --out ratings.jsonl dataset=redial dataset.path=FOLDER
  key words and a plot of every item, for rlbench demonstrate --films:
    python -m rlbench.teach metadata --lists lists.jsonl --endpoint URL --model NAME --out films.jsonl dataset=...

The same command continues an interrupted job: every answer is kept in the cache as soon as it arrives.

exit codes: 0 done (failed questions are counted and listed), 1 stopped before the end, 2 invalid input"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    return exit_code(lambda: _teach(options))


def _teach(options: argparse.Namespace) -> int:
    _check(options)
    options.max_tokens = options.max_tokens or MAX_TOKENS[options.task]
    config = config_of(options.overrides)
    from rlbench.commands.teaching import teach  # loads numpy and scipy

    return teach(options, config)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("rlbench.teach", __doc__, EPILOG)
    parser.add_argument("task", choices=TASKS, help="what to ask for")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help=as_started("settings of the dataset, as for run.py")
    )
    _add_input(parser.add_argument_group("input and output"))
    _add_teacher(parser.add_argument_group("teacher (one of --endpoint, --local, --answers)"))
    _add_speed(parser.add_argument_group("speed and cost"))
    return parser


def _add_input(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--out", type=Path, metavar="FILE", help="output file; its manifest and failures go beside it")
    group.add_argument(
        "--candidates", type=Path, metavar="FILE", help="ratings: the items to rate, from rlbench demonstrate"
    )
    group.add_argument(
        "--lists",
        type=Path,
        metavar="FILE",
        help="metadata: describe the items of these lists too, beside the catalogue",
    )
    for split in ("train", "validation"):
        group.add_argument(
            f"--{split}", type=index, metavar="N", help=f"lists: at most N contexts of {split} (default: all)"
        )
    group.add_argument(
        "--at-least",
        type=count,
        metavar="K",
        help="lists: accept a list with at least K different items (default: dataset.list_length)",
    )
    group.add_argument(
        "--only", type=Path, metavar="FILE", help="ask only about the questions of this file of failures"
    )
    group.add_argument("--prompt", type=Path, metavar="FILE", help="a prompt of your own, with names in braces")
    group.add_argument(
        "--cache", type=Path, metavar="FILE", help="file that keeps all answers (default: teacher.sqlite in cache_dir)"
    )
    group.add_argument(
        "--dry-run", action="store_true", help="print sample requests and the estimated tokens and cost; ask nothing"
    )


def _add_teacher(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--endpoint", metavar="URL", help="an OpenAI-compatible endpoint, such as http://localhost:8000/v1"
    )
    group.add_argument("--model", metavar="NAME", help="model of the endpoint")
    group.add_argument(
        "--key-env",
        metavar="NAME",
        default="OPENAI_API_KEY",
        help="environment variable with the endpoint's key; without it no key is sent (default: %(default)s)",
    )
    group.add_argument("--local", metavar="MODEL", help="a transformers model: a folder or a hub id")
    group.add_argument("--engine", choices=ENGINES, default="transformers", help="of --local (default: %(default)s)")
    group.add_argument("--answers", type=Path, metavar="FILE", help="existing answers: JSONL with an id and response")
    group.add_argument(
        "--temperature", type=_number(0), default=0.0, metavar="T", help="of sampling; 0 is greedy (default: 0)"
    )
    group.add_argument("--max-tokens", type=count, metavar="N", help=f"length of an answer (default: {_lengths()})")
    group.add_argument(
        "--body",
        type=_fields,
        default={},
        metavar="JSON",
        help="further fields of each request, such as '{\"top_p\": 0.9}'; null removes a field",
    )


def _add_speed(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--concurrency", type=count, default=8, metavar="N", help="open requests (default: 8)")
    group.add_argument("--requests-per-minute", type=_number(0.001), metavar="N", help="limit (default: none)")
    group.add_argument("--tokens-per-minute", type=_number(1), metavar="N", help="limit (default: none)")
    group.add_argument(
        "--timeout", type=_number(0.001), default=120, metavar="S", help="seconds of a request (default: 120)"
    )
    group.add_argument("--retries", type=index, default=6, metavar="N", help="further tries of a request (default: 6)")
    group.add_argument(
        "--backoff",
        type=_number(0),
        default=1.0,
        metavar="S",
        help="wait before the first of them, then twice as long",
    )
    group.add_argument(
        "--reasks",
        type=index,
        default=1,
        metavar="N",
        help="questions about an unusable answer (default: 1)",
    )
    group.add_argument("--price-in", type=_number(0), default=0.0, metavar="P", help="of a million prompt tokens")
    group.add_argument("--price-out", type=_number(0), default=0.0, metavar="P", help="of a million answer tokens")
    group.add_argument("--max-cost", type=_number(0), metavar="C", help="stop when the requests have cost so much")


def _lengths() -> str:
    return ", ".join(f"{length} for {task}" for task, length in MAX_TOKENS.items())


def _number(low: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not low <= number < float("inf"):
            raise argparse.ArgumentTypeError(f"{text[:40]!r} must be a number of at least {low:g}")
        return number

    return read


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or "messages" in fields:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} must be a JSON object without 'messages'")
    return fields


def _check(options: argparse.Namespace) -> None:
    given = [name for name in ("endpoint", "local", "answers") if getattr(options, name) is not None]
    problems = []
    if len(given) != 1:
        problems.append("give one teacher: --endpoint URL --model NAME, --local MODEL, or --answers FILE")
    if (options.endpoint is None) != (options.model is None):
        problems.append("--endpoint and --model belong together: give both, or neither")
    if options.out is None and not options.dry_run:
        problems.append("nothing to write: give --out FILE, or --dry-run")
    belongs = {
        "candidates": "ratings",
        "lists": "metadata",
        "train": "lists",
        "validation": "lists",
        "at_least": "lists",
    }
    for name, task in belongs.items():
        if getattr(options, name) is not None and options.task != task:
            problems.append(f"--{name.replace('_', '-')} belongs to {task}; remove it")
    if options.task == "ratings" and options.candidates is None:
        problems.append("ratings need --candidates FILE; rlbench demonstrate LISTS --candidates FILE writes it")
    if options.max_cost is not None and not options.price_in and not options.price_out:
        problems.append("--max-cost needs the prices of a million tokens: --price-in and --price-out")
    if not options.overrides:
        problems.append("give the dataset, for example dataset=redial dataset.path=FOLDER")
    if problems:
        raise BadInput(*problems)


if __name__ == "__main__":
    sys.exit(main())
