"""Shared parts of the commands in `analysis`: options, terminal and error messages."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.markup import escape

from analysis.outputs import move_aside, output_file
from analysis.problems import Problem, Unusable, printable
from analysis.render.templates import TEMPLATES
from analysis.resamples import FEWEST_RESAMPLES, MOST_RESAMPLES, RESAMPLES
from rlbench.base.command import command_parser
from rlbench.base.errors import BadInput
from rlbench.base.files import new_folder
from rlbench.base.program import as_started
from rlbench.config.arguments import whole

if TYPE_CHECKING:
    from analysis.collection import Collection  # loads pandas


class Command(Protocol):
    """A command: takes arguments, by default those of the process, and returns an exit code."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int: ...


COLLECTED = "collected"
"""Default folder name of a collection of runs."""

TERMINAL_WIDTH = 120
"""Line width when output goes to a file."""


def make_parser(
    name: str, description: str, epilog: str, runs: str, *, several: bool = False
) -> argparse.ArgumentParser:
    """A parser with the argument RUNS, whose help text is `runs`. With `several`, RUNS may be repeated."""
    parser = plain_parser(name, description, epilog)
    parser.add_argument("runs", type=Path, metavar="RUNS", nargs="+" if several else None, help=runs)
    return parser


def plain_parser(name: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser without arguments, for a module of `analysis`. Description and epilog are shown verbatim."""
    return command_parser(f"analysis.{name}", description, epilog)


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add --out and --resamples, for commands that write a folder of tables and figures."""
    add_folder(parser)
    add_resamples(parser)


def add_folder(parser: argparse.ArgumentParser, default: str = "reports/<RUNS below runs/>") -> None:
    """Add --out; `default` describes the default folder."""
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"where to write (default: {default})")


def add_resamples(parser: argparse.ArgumentParser) -> None:
    """Add --resamples."""
    parser.add_argument(
        "--resamples",
        type=_resamples,
        default=RESAMPLES,
        metavar="N",
        help="bootstrap resamples behind each interval (default: %(default)s)",
    )


def _resamples(text: str) -> int:
    number = whole(1, MOST_RESAMPLES)(text)
    if number < FEWEST_RESAMPLES:
        raise argparse.ArgumentTypeError(
            f"{number} is too few: a 95 % interval ends at the 2.5 % and 97.5 % quantiles of the resamples; use at "
            f"least {FEWEST_RESAMPLES}, or {RESAMPLES} for numbers to report"
        )
    return number


def add_paper(parser: argparse.ArgumentParser) -> None:
    """Add --template and --width, for files that go into a paper."""
    parser.add_argument(
        "--template", choices=list(TEMPLATES), help="paper template: its widths and letters, and LaTeX with a caption"
    )
    parser.add_argument(
        "--width", metavar="WIDTH", help="column, full (of the template; default) or a number of inches"
    )


def out_folder(options: argparse.Namespace, top: str = "reports") -> Path:
    """Output folder: --out, or the default folder of RUNS."""
    return options.out if options.out is not None else default_folder(options.runs, top)


def default_folder(runs: Path, top: str = "reports") -> Path:
    """Default output folder for RUNS, such as reports/mini for runs/mini.

    It follows the path of RUNS below the working folder, so that two RUNS with the same name do not share a folder. A
    leading `runs` or `reports` is dropped. So is a trailing `collected`, so that a collection shares the folder of its
    runs. RUNS outside the working folder use only their name.
    """
    whole, here = runs.resolve(), Path.cwd().resolve()
    if not whole.is_relative_to(here) or whole == here:
        return Path(top) / whole.name
    parts = whole.relative_to(here).parts
    if len(parts) > 1 and parts[-1] == COLLECTED:
        parts = parts[:-1]
    if len(parts) > 1 and parts[0] in ("runs", "reports"):
        parts = parts[1:]
    return Path(top, *parts)


def default_folder_of_several(runs: Sequence[Path]) -> Path:
    """Default output folder for several RUNS, such as reports/a+b for runs/a and runs/b."""
    first, *others = [default_folder(folder) for folder in runs]
    return first.with_name("+".join([first.name, *(folder.name for folder in others)]))


def missing_runs(options: argparse.Namespace) -> list[str]:
    """Report each RUNS that is no folder."""
    runs = options.runs if isinstance(options.runs, list) else [options.runs]
    return [f"there is no folder {path}" for path in runs if not path.is_dir()]


def usable_groups(
    collection: "Collection",
    runs: Path,
    console: Console,
    use: Callable[["Collection"], object],
    what: str,
    purpose: str,
) -> list["Collection"]:
    """The groups of a collection that a command can use.

    Args:
        runs: the folder that was searched.
        use: true for a group that can be used.
        what: the runs that a usable group has, in words.
        purpose: what the command would do with them, in words.

    Raises:
        BadInput: if there is no such group; the problems of the runs are printed first.
    """
    groups = [group for group in collection.groups() if use(group)]
    if not groups:
        show_problems(console, runs, collection.problems)
        raise BadInput(f"no finished {what} below {runs}, so there is {purpose}")
    return groups


def make_folder(folder: Path, out: Path) -> Path:
    """Create a folder in --out, for example the folder of one experiment.

    Raises:
        BadInput: if a link in its path leads out of --out, or the folder cannot be created.
    """
    if not folder.resolve().is_relative_to(out.resolve()):
        raise BadInput(f"{folder} leads out of {out} through a link; remove the link, or choose another --out")
    return new_folder(folder, "--out")


def write_texts(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write text files into a folder, and return their paths. Files of the user are kept (`output_file`)."""
    for name, text in texts.items():
        with output_file(folder / name) as beside:
            beside.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def set_aside(folder: Path, names: Iterable[str], written: Sequence[Path] = ()) -> None:
    """Move the files of these names that were not written now to the folder `older` in their folder, and say so.

    They would look like files of this call. They are kept, because the user may have made them.
    """
    for path in (folder / name for name in names):
        if path not in written and (path.is_file() or path.is_symlink()):
            say(terminal(), f"{path} is not of this call; moved to {move_aside(path)}")


def show_older(console: Console, out: Path, patterns: Iterable[str], written: Sequence[Path]) -> None:
    """Name the files below --out that match a pattern and were not written now. They may be of an earlier call."""
    older = sorted({path for pattern in patterns for path in out.glob(pattern) if path.is_file()} - set(written))
    if older:
        console.print(f"[bold yellow]Not written now[/] (of an earlier call?), below {escape(str(out))}:")
        for path in older:
            say(console, f"  {printable(str(path.relative_to(out)))}")


class _PipedConsole(Console):
    """A console whose reader may stop reading, as `head` does. The command goes on and writes its files."""

    def on_broken_pipe(self) -> None:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def terminal(width: int = TERMINAL_WIDTH) -> Console:
    """The terminal, or a console of `width` columns if output goes to a file."""
    return _PipedConsole() if sys.stdout.isatty() else _PipedConsole(width=width)


def say(console: Console, line: str) -> None:
    """Print a line as it is: without markup, colours or line breaks."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def parsing(
    name: str,
    parser: Callable[[], argparse.ArgumentParser],
    check: Callable[[argparse.Namespace], Sequence[str]] = missing_runs,
) -> Callable[[Callable[[argparse.Namespace], int]], Command]:
    """Make a command of a function that takes parsed options and returns an exit code.

    The command reports bad input and returns 2.

    Args:
        name: module of `analysis`.
        parser: makes its parser.
        check: returns problems of the options. It is called before the function, which loads large packages.
    """

    def wrapped(main: Callable[[argparse.Namespace], int]) -> Command:
        def command(arguments: Sequence[str] | None = None) -> int:
            options = parser().parse_args(arguments)
            try:
                if problems := check(options):
                    raise BadInput(*problems)
                return main(options)
            except (BadInput, Unusable) as error:
                print(printable(f"{spoken(name)}: {error}"), file=sys.stderr)
                return 2

        return command

    return wrapped


def spoken(name: str) -> str:
    """The name of a command in front of its messages."""
    return as_started(f"python -m analysis.{name}").removeprefix("python -m ")


def show_problems(console: Console, folder: Path, problems: Sequence[Problem]) -> None:
    """Print the excluded runs, then the unusual runs that are used."""
    for left_out, heading in ((True, "Left out"), (False, "Used, but note")):
        concerned = [problem for problem in problems if problem.left_out == left_out]
        if concerned:
            console.print(f"[bold yellow]{heading}[/] (paths below {escape(str(folder))}):")
            for problem in concerned:
                say(console, f"  {problem}")
            console.print()


def show_written(console: Console, paths: Sequence[Path]) -> None:
    """Print the files that were written."""
    console.print("Wrote")
    for path in paths:
        say(console, f"  {path}")
