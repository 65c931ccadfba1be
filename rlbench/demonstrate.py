"""Make SFT demonstrations from a teacher's lists, using Stage 1 of the Rank-GRPO paper (docs/stage1.md)."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rlbench.base.command import command_parser, exit_code
from rlbench.base.errors import BadInput
from rlbench.base.program import as_started
from rlbench.running.cli import config_of

STEPS = ("teacher", "remap", "remap_reflect", "remap_adjust", "remap_reflect_adjust")
"""What may be done to the lists; a contract test keeps this equal to `rlbench.data.stage1.scores.STEPS`."""

EPILOG = """examples:
  write the candidates that the teacher should rate, then turn its ratings into demonstrations:
    python -m rlbench.demonstrate lists.jsonl --candidates candidates.jsonl dataset=redial dataset.path=FOLDER
    python -m rlbench.demonstrate lists.jsonl --ratings ratings.jsonl --out full.jsonl dataset=redial ...
  skip Reflect, or use the teacher's own lists:
    python -m rlbench.demonstrate lists.jsonl --steps remap_adjust --out remap_adjust.jsonl dataset=redial ...
    python -m rlbench.demonstrate lists.jsonl --steps teacher --out teacher.jsonl dataset=redial ...
  run SFT on the demonstrations:
    python run.py stage=sft dataset=redial dataset.path=FOLDER dataset.demonstrations_from=remap_adjust.jsonl

exit codes: 0 done, 2 invalid input"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return exit_code(lambda: _demonstrate(options))


def _demonstrate(options: argparse.Namespace) -> int:
    _check(options)
    config = config_of(options.overrides)
    from rlbench.commands.demonstration import demonstrate  # loads scipy

    demonstrate(options, config)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("rlbench.demonstrate", __doc__, EPILOG)
    parser.add_argument(
        "lists", type=Path, metavar="LISTS", help="the teacher's lists, JSONL with context_id and response"
    )
    parser.add_argument(
        "overrides", nargs="+", metavar="KEY=VALUE", help=as_started("settings of the dataset, as for run.py")
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="output file of the demonstrations; its name becomes the name of the SFT row",
    )
    parser.add_argument(
        "--candidates", type=Path, metavar="FILE", help="output file of the films that the teacher should rate"
    )
    parser.add_argument(
        "--ratings", type=Path, metavar="FILE", help="the teacher's ratings, JSONL with context_id and response"
    )
    parser.add_argument(
        "--films", type=Path, metavar="FILE", help="descriptions of films, JSONL with title, year and text"
    )
    parser.add_argument(
        "--steps",
        choices=STEPS,
        default="remap_reflect_adjust",
        help="steps applied to the lists (default: %(default)s)",
    )
    parser.add_argument(
        "--encoder", metavar="NAME", help="hub id or folder of the text encoder (default: all-MiniLM-L6-v2 from PyPI)"
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="allow the encoder to run its own code")
    return parser


def _check(options: argparse.Namespace) -> None:
    problems = [f"{p} already exists; move it away or give another file" for p in _written(options) if p.exists()]
    if not _written(options):
        problems.append("nothing to write: give --out FILE, --candidates FILE, or both")
    if options.out is not None and "reflect" in options.steps and options.ratings is None:
        problems.append(
            f"--steps {options.steps} needs the teacher's ratings; give --ratings FILE (write the films to rate with "
            "--candidates FILE), or use --steps remap_adjust"
        )
    if options.ratings is not None and "reflect" not in options.steps:
        problems.append(f"--ratings {options.ratings} has no effect with --steps {options.steps}; remove it")
    if problems:
        raise BadInput(*problems)


def _written(options: argparse.Namespace) -> list[Path]:
    manifest = None if options.out is None else options.out.with_suffix(".manifest.json")
    return [path for path in (options.out, manifest, options.candidates) if path is not None]


if __name__ == "__main__":
    sys.exit(main())
