"""Datasets: what there is, whether files are sound, what is in them, and reading them ahead of a run."""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from rlbench.base.command import command_parser, exit_code
from rlbench.base.errors import BadInput, nearest
from rlbench.base.program import as_started
from rlbench.base.user_files import unreachable
from rlbench.config.datasets import DATASETS
from rlbench.config.schema import DatasetConfig
from rlbench.running.cli import config_of, groups

COMMANDS = {
    "list": "list: every dataset, and where its files come from",
    "check": "check PATH: every problem of a file or folder of own records, or of another dataset with dataset=NAME",
    "stats": "stats NAME: counts, leakage and near-duplicates",
    "prepare": "prepare NAME: fill the data cache",
}

EPILOG = """examples:
  every dataset, and where its files come from:
    python -m rlbench.datasets list
  all problems of a file or folder of your own, or of a dataset's folder:
    python -m rlbench.datasets check books/ 'dataset.line_format="{title}"' dataset.item=book
    python -m rlbench.datasets check FOLDER dataset=redial
  counts, leakage between splits and near-duplicates, also with tokens:
    python -m rlbench.datasets stats mini
    python -m rlbench.datasets stats redial dataset.path=FOLDER --tokenizer HuggingFaceTB/SmolLM2-135M-Instruct
  read, check and store a dataset, so that runs start at once:
    python -m rlbench.datasets prepare reddit_v2 dataset.path=FOLDER

exit codes: 0 done, 1 the data have problems (check), 2 invalid input"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    if options.command == "list":
        return _list(options)
    if options.command == "check":
        return _check(options)
    target, settings = _target(options)
    config = config_of([*_of_name(target), *settings], options.config_dir)
    from rlbench.commands import datasets  # loads numpy and pyarrow

    if options.command == "stats":
        return datasets.stats(config, options.tokenizer)
    return datasets.prepare(config)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("rlbench.datasets", __doc__, EPILOG)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="; ".join(COMMANDS.values()))
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="PATH for check, NAME for stats and prepare; then settings KEY=VALUE"
    )
    parser.add_argument("--tokenizer", metavar="NAME", help="stats: hub id or folder of a tokenizer, to count tokens")
    parser.add_argument(
        "--config-dir", type=Path, metavar="FOLDER", help=as_started("your own folder of settings, as for run.py")
    )
    return parser


def _target(options: argparse.Namespace) -> tuple[str, list[str]]:
    """The first word and the settings."""
    what = "PATH, a file or folder" if options.command == "check" else f"NAME, one of {', '.join(DATASETS)}"
    if not options.words or _is_setting(options.words[0]):
        raise BadInput(f"{options.command} needs {what}, before any settings")
    first, *settings = options.words
    if more := [word for word in settings if not _is_setting(word)]:
        raise BadInput(f"{options.command} takes one {what}, and settings KEY=VALUE; got {' '.join(more)} too")
    return first, settings


def _is_setting(word: str) -> bool:
    return re.match(r"[+~]?[\w./@]+=", word) is not None and (
        unreachable(Path(word)) is not None or not Path(word).exists()
    )


def _of_name(name: str) -> list[str]:
    if not re.fullmatch(r"\w+", name):
        known = list(DATASETS)
        raise BadInput(f"'{name}' is not the name of a dataset; known: {', '.join(known)}.{nearest(name, known)}")
    return [f"dataset={name}"]


def _check(options: argparse.Namespace) -> int:
    """Load the data of a place and report every problem."""
    target, settings = _target(options)
    place = Path(target)
    chosen = any(word.startswith("dataset=") for word in settings)
    of_datasets = unreachable(place) is None and any(
        (place / name).is_file() for name in ("dataset_dict.json", "state.json")
    )
    kind = [] if chosen else [f"dataset={'hf' if of_datasets else 'jsonl'}"]
    config = config_of([*kind, *settings, f"dataset.path={_quoted(target)}"], options.config_dir)
    from rlbench.commands import datasets

    return datasets.check(config)


def _quoted(text: str) -> str:
    """A value for Hydra's grammar, whatever characters it has."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _list(options: argparse.Namespace) -> int:
    """Print each option of the group dataset: what it is, whether its files are there, and where to get them."""
    console = Console(highlight=False)
    names = groups(options.config_dir)["dataset"]
    width = max(map(len, names)) + 2
    problems: dict[str, list[str]] = {}
    for name in names:
        try:
            config = config_of([f"dataset={name}", *options.words], options.config_dir)
        except BadInput as error:  # the others are listed all the same
            problems[name] = error.problems
            continue
        entry, cache = DATASETS[config.dataset.kind], config.runtime.data_cache
        stored = len(list(Path(cache).glob(f"{config.dataset.name}-*/records"))) if cache else 0
        more = f"; {stored} in the data cache" if stored else ""
        console.print(f"{name:<{width}}{entry.about}", markup=False, soft_wrap=True)
        console.print(f"{'':<{width}}{_files(config.dataset, entry.get)}{more}", markup=False, soft_wrap=True)
    if problems:
        whole = len(problems) == len(names)  # then it is the command line that is wrong
        raise BadInput(*dict.fromkeys(p if whole else f"dataset={n}: {p}" for n, ps in problems.items() for p in ps))
    return 0


def _files(config: DatasetConfig, get: str) -> str:
    """Whether the files of a dataset are there."""
    if "path" not in config.paths:
        return "no files needed"
    path = asdict(config)["path"]
    if path is None:
        return f"dataset.path is not set; files: {get}"
    if Path(path).exists():
        return f"files in {path}"
    return f"{path} on the hub" if config.kind == "hf" else f"{path} is missing; files: {get}"


if __name__ == "__main__":
    sys.exit(main())
