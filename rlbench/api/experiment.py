"""Runs of rlbench from Python: the command of an experiment, its problems, and its runs.

Cells run in a child process. The process of a notebook keeps its settings (threads, garbage collection, Hydra's state,
signals, memory of the GPU), and interrupting the cell stops the run as Ctrl-C does: it continues from its last
checkpoint when it is started again.
"""

import codecs
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import rlbench
from rlbench.api.arguments import out_of_order
from rlbench.api.overrides import words, written
from rlbench.base.errors import BadInput
from rlbench.base.program import started
from rlbench.config.resolving import resolve
from rlbench.config.schema import Config
from rlbench.running.cli import check_overrides, groups, in_config, without_hydra
from rlbench.running.words import parse, split
from rlbench.runs.directory import locate

if TYPE_CHECKING:
    from analysis.api.runs import Runs

Overrides: TypeAlias = "str | Sequence[str] | Mapping[str, Any]"
PROBLEM = "  - "
"""Start of a line in which a command names a problem of its input."""
KEPT = 4000
"""Characters of output that an error shows."""
WIDTH = "100"
"""Width of tables in the output."""


class ExperimentFailed(RuntimeError):
    """A run ended with an error. The message has the end of its output and the command."""


class Experiment:
    """One run, or a sweep of runs.

    Args:
        *overrides: settings as on the command line ("algorithm=rank_grpo", "+debug=smoke"), lists of them, or mappings.
        sweep: setting to the values that it takes; one cell runs for each combination.
        config_dir: folder of your own configs, laid out like `conf/`.
        **settings: further settings, such as `dataset="mini"`, `seed=1` or `trainer={"rl": {"updates": 20}}`.

    Raises:
        BadInput: a setting has a type that no setting has.

    Example:
        >>> experiment = rlbench.Experiment("+debug=smoke", algorithm="rank_grpo", tracker="none")
        >>> experiment.check()
        []
        >>> runs = experiment.run()
        >>> runs.runs[["label", "test.ndcg@10"]]
    """

    def __init__(
        self,
        *overrides: Overrides,
        sweep: Mapping[str, Iterable[Any]] | None = None,
        config_dir: str | os.PathLike[str] | None = None,
        **settings: Any,
    ):
        self.config_dir = None if config_dir is None else Path(config_dir)
        given = [word for one in overrides for word in _words(one)] + _words(settings)
        self.overrides = [*given, *_swept(sweep or {})]

    def __repr__(self) -> str:
        return f"<Experiment: {self.command()}>"

    @property
    def is_sweep(self) -> bool:
        """Whether a setting has several values."""
        arguments = split(self.overrides)
        try:
            parsed = parse(arguments.others, groups(self.config_dir), in_config())
        except BadInput:  # `check` and `run` say what is wrong
            parsed = []
        return "multirun" in arguments.flags or any(override.is_sweep_override() for override in parsed)

    @property
    def config(self) -> Config:
        """The typed settings; those of the first cell of a sweep.

        Raises:
            BadInput: a name is unknown or a value has a wrong type. All problems together.
        """
        return resolve(without_hydra(check_overrides(self._arguments())))

    def command(self) -> str:
        """The equivalent command line."""
        return shlex.join(["rlbench", "run", *self._arguments()])

    def check(self) -> list[str]:
        """Every problem of settings, data, model files and existing runs, one sentence each; empty if there is none.

        Trains nothing and writes nothing, as `runtime.dry_run=true` does.
        """
        try:
            _ = self.config
        except BadInput as error:
            return error.problems
        dry = [word for word in self._arguments() if not word.startswith("runtime.dry_run=")]
        code, said = _run([*dry, "runtime.dry_run=true"], show=False)
        if code == 0:
            return []
        return _problems(said) or [said[-KEPT:].strip()]

    def run(self) -> "Runs":
        """Run the cells and show their output. What is finished already is skipped.

        Returns:
            the run, or all runs of the experiment after a sweep, as `rlbench.read` gives them.

        Raises:
            BadInput: every problem of the input; nothing was run.
            ExperimentFailed: a cell ended with an error.
            KeyboardInterrupt: the run was interrupted, after it has stopped.
        """
        config = self.config
        code, said = _run(self._arguments(), show=True)
        if code == 2 and (problems := _problems(said)):
            raise BadInput(*problems)
        if code:
            raise ExperimentFailed(f"exit code {code} of: {self.command()}\n{said[-KEPT:].strip()}")
        if self.is_sweep:
            return rlbench.read(Path(config.runs_dir) / config.experiment_name)
        return rlbench.read(locate(config, config.stage).root)

    def _arguments(self) -> list[str]:
        folder = [] if self.config_dir is None else ["--config-dir", str(self.config_dir)]
        several = ["-m"] if self.is_sweep and "-m" not in self.overrides else []
        return [*several, *folder, *self.overrides]


def _words(overrides: Overrides) -> list[str]:
    """Settings as words of a command line.

    Raises:
        BadInput: they are no text, list of texts, or mapping.
    """
    if isinstance(overrides, str):
        return [overrides]
    if isinstance(overrides, Mapping):
        return [_added(word) for word in words(overrides)]
    if isinstance(overrides, Sequence) and all(isinstance(one, str) for one in overrides):
        return list(overrides)
    raise BadInput(f"overrides = {overrides!r:.80} must be texts such as 'seed=1', a list of them, or a mapping")


def _added(word: str) -> str:
    """A word that chooses an option of a group, with the + that a group outside the config needs."""
    key = word.partition("=")[0]
    return f"+{word}" if key in groups() and key not in in_config() else word


def _swept(sweep: Mapping[str, Iterable[Any]]) -> list[str]:
    several: dict[str, list[Any]] = {}
    problems = []
    for key, values in sweep.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            problems.append(f"sweep[{key!r}] = {values!r:.60} must be a list of values")
        elif isinstance(values, Set | Mapping):
            problems.append(out_of_order(f"sweep[{key!r}]", values))
        else:
            several[key] = list(values)
            if not several[key]:
                problems.append(f"sweep[{key!r}] is empty: give at least one value, or leave it out")
    if problems:
        raise BadInput(*problems)
    return [_added(f"{key}={','.join(written(key, value) for value in values)}") for key, values in several.items()]


def _run(arguments: Sequence[str], *, show: bool) -> tuple[int, str]:
    """Exit code and output of the command that runs cells, which is shown as it comes.

    Raises:
        KeyboardInterrupt: after the child has stopped.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": os.environ.get("COLUMNS", WIDTH)}
    # A session of its own: Ctrl-C reaches the child once, from here, and not a second time from the terminal.
    child = subprocess.Popen(
        [*started(1), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )
    said: list[str] = []
    try:
        _follow(child, said, show)
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        _follow(child, said, show)
        raise
    finally:
        if child.poll() is None:
            child.terminate()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
    return child.returncode, "".join(said)


def _follow(child: "subprocess.Popen[bytes]", said: list[str], show: bool) -> None:
    """Read the output of a child to its end. A progress bar comes in parts of lines."""
    assert child.stdout is not None
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    while part := child.stdout.read1():  # type: ignore[attr-defined]
        text = decoder.decode(part)
        said.append(text)
        if show:
            sys.stdout.write(text)
            sys.stdout.flush()


def _problems(said: str) -> list[str]:
    return [line.removeprefix(PROBLEM) for line in said.splitlines() if line.startswith(PROBLEM)]
