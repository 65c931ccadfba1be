"""One search as an Optuna study: its proposals, their values, and the journal that stores them.

A proposal is a variant with one cell per seed. Its value is the mean over seeds of `evaluation.metric` on validation,
at the checkpoint chosen by `evaluation.checkpoint`. The test split is never used. Pruning looks at the validation curve
of the first seed.
"""

import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlbench.base.errors import BadInput, nearest
from rlbench.base.program import install
from rlbench.config.bounds import COUNT, COUNT_OR_NONE, SEED, number_problem
from rlbench.config.row_names import variant
from rlbench.launching.cells import Cell
from rlbench.launching.rows import override_of
from rlbench.launching.space import Choice, Dimension, SearchInterval, Space, grid
from rlbench.runs.directory import DONE, validation_means
from rlbench.runs.identity import config_hash
from rlbench.runs.record import RESULT

if TYPE_CHECKING:
    import optuna

JOURNAL = "search.journal"
"""File in an experiment's folder: Optuna's journal of all its searches."""
SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("median", "halving", "none")
REMEDY = "Restore it from a backup. Or move it away: the search then starts again, but finished runs are not repeated"
BAD_JOURNAL = (ValueError, TypeError, LookupError, AttributeError, AssertionError)
"""Exceptions that Optuna raises on records that are JSON but hold values that it did not write."""
SHOWN = 120
"""Number of characters of such an exception that a message shows."""
REFUSED = "refused"
"""Trial attribute with the reason why it could not be run."""


@dataclass(frozen=True)
class Settings:
    """The `hydra.sweeper` settings of a search.

    Attributes:
        trials: number of proposals per search.
        sampler: one of SAMPLERS.
        seed: seed of the sampler.
        startup_trials: number of finished proposals before tpe stops sampling at random and before median prunes.
        pruner: one of PRUNERS.
        warmup_updates: no proposal is pruned before this update.
    """

    trials: int
    sampler: str
    seed: int
    startup_trials: int
    pruner: str
    warmup_updates: int

    def check(self) -> None:
        """Raise BadInput if any setting is invalid."""
        problems = []
        for key, value, known in (("sampler", self.sampler, SAMPLERS), ("pruner", self.pruner, PRUNERS)):
            if value not in known:
                problems.append(
                    f"hydra.sweeper.{key} = '{value}' is unknown; known: {', '.join(known)}."
                    f"{nearest(str(value), list(known))}"
                )
        bounds = {"trials": COUNT, "seed": SEED, "startup_trials": COUNT, "warmup_updates": COUNT_OR_NONE}
        for key, bound in bounds.items():
            value = getattr(self, key)
            if wrong := number_problem(value, bound):
                problems.append(f"hydra.sweeper.{key} = {value} {wrong}")
        if importlib.util.find_spec("optuna") is None:
            problems.append(f"hydra/sweeper=optuna needs Optuna, which is not installed; run {install('search')}")
        if problems:
            raise BadInput(*problems)


@dataclass(eq=False)
class Proposal:
    """A trial and its cells. The first cell is that of the first seed."""

    study: "Study"
    trial: "optuna.Trial"
    cells: list[Cell]
    reported: int = 0
    stopped: str = ""

    @property
    def first(self) -> Cell:
        return self.cells[0]

    def curve(self) -> list[tuple[int, float]]:
        """Return (update, validation metric) of the first seed, without update 0."""
        return _curve(self.first)

    def report(self) -> str:
        """Report new points of the curve to Optuna. Return why to prune the proposal, or ""."""
        for step, value in self.curve():
            if step <= self.reported:
                continue
            self.trial.report(value, step)
            self.reported = step
            if step < self.first.updates and self.trial.should_prune():
                metric = self.first.config.evaluation.metric
                return f"pruned at update {step} by the search: validation {metric} {value:.4f}"
        return ""

    def value(self) -> float:
        """Return the mean over seeds of the validation metric at the chosen checkpoint.

        Raises:
            BadInput: if a result is damaged.
        """
        return _mean(self.cells)


def _mean(cells: Sequence[Cell]) -> float:
    """Return the mean validation metric of the cells."""
    found = [_value(cell) for cell in cells]
    return sum(found) / len(found)


def _curve(cell: Cell) -> list[tuple[int, float]]:
    """Return (update, validation metric) of a cell, without update 0."""
    metric = cell.config.evaluation.metric
    return [
        (row["step"], row["value"])
        for row in cell.run.read_metrics()
        if row["split"] == "validation" and row["metric"] == metric and row["step"] > 0
    ]


def _value(cell: Cell) -> float:
    """Return the validation metric of a finished cell at its checkpoint."""
    metric, means = cell.config.evaluation.metric, validation_means(cell.run)
    value = means.get(metric)
    if value is None:
        path = cell.run.root / RESULT.name
        raise BadInput(f"{path} is damaged: it has no {metric} on validation; {cell.run.remedy}")
    return float(value)


Compose = Callable[[Sequence[Sequence[str]]], list[Cell]]
"""Builds cells from their overrides. Raises BadInput if one is invalid."""


@dataclass
class Study:
    """One search: its fixed settings, its space and its Optuna study.

    Attributes:
        fixed: overrides shared by every proposal.
        space: what is searched, and the seeds of every proposal.
        settings: settings of the sweeper.
        compose: builds a proposal's cells.
        name: name of the Optuna study: its fixed overrides and a hash of everything that affects results.
        study: the Optuna study.
        row: variant that separates its proposals from those of other searches in the same command.
        journal: the file of the Optuna study.
    """

    fixed: tuple[str, ...]
    space: Space
    settings: Settings
    compose: Compose
    name: str
    study: "optuna.Study"
    row: str = ""
    journal: Path = Path(JOURNAL)

    def _made(self) -> "list[optuna.trial.FrozenTrial]":
        """Return the trials of all proposals, except unfinished ones that are run again."""
        from optuna.trial import TrialState

        left = (TrialState.FAIL, TrialState.WAITING)
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state not in left or REFUSED in trial.user_attrs]

    def proposed(self) -> int:
        """Return the number of proposals made."""
        return len(self._made())

    def take_up(self) -> None:
        """Queue the unfinished proposals of an earlier command as the next ones.

        Raises:
            BadInput: if the journal disagrees with the runs of a finished proposal.
        """
        from optuna.trial import TrialState

        if problems := self._unlike_their_runs():
            raise BadInput(*problems)
        for trial in self.study.get_trials(states=[TrialState.RUNNING]):
            self.study.tell(trial.number, state=TrialState.FAIL)
            self.study.enqueue_trial(trial.params)

    def _unlike_their_runs(self) -> list[str]:
        """Return one sentence per finished proposal for which the journal and the runs disagree.

        The journal has no digest. A changed digit in it would lead to other proposals or another best one.
        """
        from optuna.trial import TrialState

        ended = self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED])
        if odd := [trial.number for trial in ended if trial.params.keys() != self.space.dimensions.keys()]:
            return [f"{self.journal} is damaged: proposal {odd[0]} belongs to another search space. {REMEDY}"]
        texts = [self.overrides(trial.params) for trial in ended]
        try:
            cells = iter(self.compose([cell for own in texts for cell in own])) if ended else iter(())
        except BadInput as error:
            return [f"{self.journal} has an invalid proposal: {problem}. {REMEDY}" for problem in error.problems]
        problems = []
        for trial, own in zip(ended, texts, strict=True):
            if words := _difference(trial, [next(cells) for _ in own]):
                problems.append(f"{self.journal} and the runs disagree on proposal {trial.number}: {words}. {REMEDY}")
        return problems

    def wanted(self) -> int:
        """Return the total number of proposals to make."""
        if self.settings.sampler != "grid":
            return self.settings.trials
        return min(self.settings.trials, len(list(grid(self.space.dimensions))))

    def ask(self) -> Proposal | None:
        """Return the next proposal, or None if it cannot be run. Only its number determines the sampler's seed.

        Raises:
            BadInput: if the very first proposal cannot be run.
        """
        from optuna.trial import TrialState

        number = self.proposed()
        self.study.sampler = _sampler(self.settings, number)
        if self.settings.sampler == "grid" and not self.study.get_trials(states=[TrialState.WAITING]):
            made = [trial.params for trial in self._made()]
            self.study.enqueue_trial(next(point for point in grid(self.space.dimensions) if point not in made))
        trial = self.study.ask({key: _distribution(dimension) for key, dimension in self.space.dimensions.items()})
        try:
            return Proposal(self, trial, self.compose(self.overrides(trial.params)))
        except BadInput as error:
            trial.set_user_attr(REFUSED, list(error.problems))
            self.study.tell(trial, state=TrialState.FAIL)
            if number == 0:
                raise
            return None

    def texts(self, params: Mapping[str, Any]) -> dict[str, str]:
        """Return the searched values of a proposal as texts of overrides, by key."""
        return {key: _text(dimension, params[key]) for key, dimension in self.space.dimensions.items()}

    def overrides(self, params: Mapping[str, Any]) -> list[list[str]]:
        """Return the overrides of a proposal's cells."""
        texts = self.texts(params)
        name = "-".join(part for part in (self.row, variant(texts)) if part)
        own = [*self.fixed, *(f"{key}={text}" for key, text in texts.items()), override_of(name)]
        return [[*own, seed] for seed in self.space.seeds] or [own]

    def tell(self, proposal: Proposal) -> None:
        """Report the end of a proposal to Optuna: either all of it is done, or it was pruned."""
        from optuna.trial import TrialState

        proposal.report()
        if all(cell.run.status() == DONE for cell in proposal.cells):
            self.study.tell(proposal.trial, proposal.value())
        else:
            self.study.tell(proposal.trial, state=TrialState.PRUNED)


def _difference(trial: "optuna.trial.FrozenTrial", cells: list[Cell]) -> str:
    """Return in one sentence how the journal and the runs of a finished proposal disagree, or ""."""
    statuses = [cell.run.status() for cell in cells]
    first, metric = cells[0], cells[0].config.evaluation.metric
    if (trial.state.name == "COMPLETE") != all(status == DONE for status in statuses):
        ended = "done" if trial.state.name == "COMPLETE" else "pruned"
        names = ", ".join(
            f"{cell.run.root} has the status {status or 'none'}" for cell, status in zip(cells, statuses, strict=True)
        )
        return f"in the journal it is {ended} with {trial.params}, but {names}"
    if first.run.status() is None:
        return ""  # pruned, and removed since
    if trial.state.name == "COMPLETE" and (value := _mean(cells)) != trial.value:
        return f"{metric} on validation is {trial.value} in the journal and {value} in {first.run.root / 'result.json'}"
    curve = dict(_curve(first))
    for step, value in trial.intermediate_values.items():
        if curve.get(step) != value:
            there = f"{value} at update {step} in the journal and {curve.get(step, 'not measured')}"
            return f"{metric} on validation is {there} in {first.run.metrics_file}"
    return ""


def open_study(
    folder: Path,
    fixed: tuple[str, ...],
    space: Space,
    settings: Settings,
    compose: Compose,
    identity: Mapping[str, Any],
    row: str = "",
) -> Study:
    """Open the study of a search in an experiment's folder, new or from an earlier command.

    Args:
        folder: the experiment's folder.
        fixed: overrides shared by every proposal.
        space: what is searched, and the seeds of every proposal.
        settings: settings of the sweeper.
        compose: builds a proposal's cells.
        identity: everything that affects a run's results, except what is searched.
        row: variant that separates its proposals from those of other searches in the same command.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    dimensions = {key: repr(dimension) for key, dimension in space.dimensions.items()}
    digest = config_hash({"identity": identity, "space": dimensions, "seeds": list(space.seeds)})
    name = f"{' '.join(fixed)} {digest}".strip()
    folder.mkdir(parents=True, exist_ok=True)
    check_journal(folder / JOURNAL)
    try:
        study = optuna.create_study(
            study_name=name,
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            direction="maximize",  # higher is better in every metric that `evaluation.metric` may name
            load_if_exists=True,
            pruner=_pruner(settings),
        )
        study.get_trials(deepcopy=False)
    except BAD_JOURNAL as error:
        said = f"{type(error).__name__}: {error}"[:SHOWN]
        raise BadInput(f"{folder / JOURNAL} is damaged: Optuna cannot read it ({said}). {REMEDY}") from error
    return Study(fixed, space, settings, compose, name, study, row, folder / JOURNAL)


def check_journal(path: Path) -> None:
    """Check every line of Optuna's journal. Optuna itself would fail later without naming the file.

    A last line truncated by a kill is removed. Optuna would skip it and append the next record to it.

    Raises:
        BadInput: names the first damaged line.
    """
    remedy = REMEDY[0].lower() + REMEDY[1:]
    if not path.exists():
        return
    if not path.is_file():
        raise BadInput(f"{path} is damaged: it is a folder; {remedy}")
    content = path.read_bytes()
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        whole = isinstance(entry, dict) and isinstance(entry.get("op_code"), int)
        if not (whole and isinstance(entry.get("worker_id"), str)):
            raise BadInput(f"{path} is damaged in line {number}; {remedy}")
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def _text(dimension: Dimension, value: Any) -> str:
    return dimension.text(value) if isinstance(dimension, SearchInterval) else str(value)


def _distribution(dimension: Dimension) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.texts)
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _sampler(settings: Settings, number: int) -> "optuna.samplers.BaseSampler":
    """Return the sampler of one proposal. It has its own seed, so that a restart draws the same."""
    from optuna.samplers import RandomSampler, TPESampler

    seed = settings.seed * 1_000_003 + number
    if settings.sampler == "tpe":
        return TPESampler(seed=seed, n_startup_trials=settings.startup_trials, constant_liar=True)
    return RandomSampler(seed=seed)


def _pruner(settings: Settings) -> "optuna.pruners.BasePruner":
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    if settings.pruner == "median":
        return MedianPruner(n_startup_trials=settings.startup_trials, n_warmup_steps=settings.warmup_updates)
    if settings.pruner == "halving":
        return SuccessiveHalvingPruner(min_resource=max(settings.warmup_updates, 1))
    return NopPruner()
