"""Sweepers, which turn `-m` commands into cells: plain sweeps over lists and ranges, and searches."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.console import Console

from rlbench.base.errors import BadInput
from rlbench.config.bounds import COUNT, number_problem
from rlbench.config.places import check_places
from rlbench.config.resolving import resolve
from rlbench.config.schema import Config
from rlbench.launching.base import SweepLauncher
from rlbench.launching.cells import Cell, command_line, make_cells, plan_cells
from rlbench.launching.composing import compose_cells
from rlbench.launching.rows import Planned, Swept, named, naming_keys, one_each, swept
from rlbench.launching.search import Search, alone, summarise
from rlbench.launching.space import Space, ends, read_space
from rlbench.launching.study import Settings, Study, open_study
from rlbench.running.checks import check_values
from rlbench.running.cli import fail
from rlbench.runs.directory import locate


class _Sweeper(Sweeper):
    """Base class: creates the launcher and applies an experiment's overrides before those of the command.

    Args:
        params: the experiment's overrides.
    """

    hydra_context: HydraContext
    config: DictConfig
    launcher: SweepLauncher

    def __init__(self, params: Mapping[str, str] | None):
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        assert isinstance(launcher, SweepLauncher)
        self.hydra_context, self.config, self.launcher = hydra_context, config, launcher

    def overrides(self, arguments: Sequence[str]) -> list[Override]:
        """Return all overrides. The command's take precedence over the experiment's."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return merged(parser, self.params, arguments)


def merged(parser: OverridesParser, params: Mapping[str, str], arguments: Sequence[str]) -> list[Override]:
    """Combine overrides. Those of the experiment whose key the command sets are dropped."""
    of_command = parser.parse_overrides(list(arguments))
    set_by_command = {override.key_or_group for override in of_command}
    own = parser.parse_overrides([f"{key}={value}" for key, value in params.items()])
    return [*(override for override in own if override.key_or_group not in set_by_command), *of_command]


class PlainSweeper(_Sweeper):
    """All combinations of lists and ranges, as in Hydra's basic sweeper.

    Hydra's sweeper composes each cell to check it, and the launcher composes it again. Here only the launcher does.

    Args:
        max_batch_size: number of cells composed and started together; None for all.
        params: the experiment's sweeps.
    """

    def __init__(self, max_batch_size: int | None = None, params: Mapping[str, str] | None = None):
        super().__init__(params)
        self.max_batch_size = max_batch_size

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        try:
            if self.max_batch_size is not None and (wrong := number_problem(self.max_batch_size, COUNT)):
                raise BadInput(f"hydra.sweeper.max_batch_size = {self.max_batch_size} {wrong}, or be null")
            overrides = self.overrides(arguments)
            batches = combinations(overrides, self.max_batch_size)
            self.launcher.of_sweep = of_batches(self.hydra_context.config_loader, self.config, overrides, batches)
        except BadInput as error:
            fail(error)
        returns, started = [], 0
        for batch in batches:
            returns.append(self.launcher.launch(batch, initial_job_idx=started))
            started += len(batch)
        return returns


def of_batches(
    loader: ConfigLoader, composed: DictConfig, overrides: list[Override], batches: Sequence[Sequence[Sequence[str]]]
) -> Swept:
    """Return what a sweep varies. With several batches, row names take all cells into account.

    Raises:
        BadInput: all problems of all cells, if there are several batches.
    """
    of_sweep = swept(overrides)
    if len(batches) < 2 or not of_sweep.keys:
        return of_sweep
    cells = plan_cells(loader, composed, [cell for batch in batches for cell in batch], of_sweep)
    return replace(of_sweep, naming=naming_keys(cells))


def combinations(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
    """Return batches of cells, each a list of overrides.

    Raises:
        BadInput: if any override is an interval.
    """
    continuous = [o.input_line for o in overrides if o.is_sweep_override() and not o.is_discrete_sweep()]
    if continuous:
        advice = "a sweep cannot use an interval; add hydra/sweeper=optuna to search it, or give a list or a range"
        raise BadInput(*(f"{text}: {advice}" for text in continuous))
    return BasicSweeper.split_arguments(overrides, max_batch_size)


class SearchSweeper(_Sweeper):
    """Search with Optuna. The launcher runs the proposed cells.

    Args:
        params: the experiment's overrides; those of the command take precedence.
        settings: the fields of `Settings`.
    """

    def __init__(self, params: Mapping[str, str] | None = None, **settings: Any):
        super().__init__(params)
        self.settings = Settings(**settings)

    def sweep(self, arguments: list[str]) -> None:
        try:
            self.settings.check()
            space = read_space(self.overrides(arguments))
            with contextlib.ExitStack() as held:
                self._search(space, held)
        except BadInput as error:
            fail(error)

    def _search(self, space: Space, held: contextlib.ExitStack) -> None:
        console = self.launcher.console
        bases = [[*fixed, *space.seeds[:1]] for fixed in space.fixed]
        configs = [resolve(config) for config in compose_cells(self.hydra_context.config_loader, self.config, bases)]
        found = [p for config in configs for p in check_values(config) + check_places(config, to_write=True)]
        if found:
            raise BadInput(*dict.fromkeys(found))
        if configs[0].stage != "rl":
            raise BadInput(f"stage = '{configs[0].stage}': a search optimises the RL stage; use stage=rl")
        if configs[0].runtime.dry_run:
            console.print(
                f"{len(space.fixed)} searches of {self.settings.trials} proposals each, over "
                f"{', '.join(space.dimensions)}; {max(len(space.seeds), 1)} cells per proposal",
                soft_wrap=True,
                markup=False,
            )
            console.print("dry run: nothing was run (use runtime.dry_run=false to run it)")
            return
        rows = self._rows(space, bases, configs)
        folders = [config.group_dir.parent for config in configs]
        for folder in dict.fromkeys(folders):
            held.enter_context(alone(folder))
        studies = [
            open_study(
                folder,
                fixed,
                space,
                self.settings,
                self._compose,
                locate(config, "rl").identity,
                row,
            )
            for folder, fixed, config, row in zip(folders, space.fixed, configs, rows, strict=True)
        ]
        self._run(studies, max(len(space.seeds), 1))

    def _rows(self, space: Space, bases: Sequence[Sequence[str]], configs: Sequence[Config]) -> list[str]:
        """Return the variant that distinguishes each search from the others.

        Raises:
            BadInput: if a searched key, or the difference between searches, does not affect any run.
        """
        of_lists = Swept(space.varied)
        searches = [Planned(c, locate(c, "rl"), of_lists.of(base)) for c, base in zip(configs, bases, strict=True)]
        naming = naming_keys(searches)
        rows = [named(search, naming) for search in searches]
        one_each([replace(s, config=replace(s.config, variant=row)) for s, row in zip(searches, rows, strict=True)])
        problems = [
            f"{key.lstrip('+')} is searched, but it does not affect what a run computes, so all proposals would be "
            "the same run; remove it"
            for key, dimension in space.dimensions.items()
            if len(values := ends(dimension)) > 1 and self._same_run([[*bases[0], f"{key}={v}"] for v in values])
        ]
        if problems:
            raise BadInput(*problems)
        return rows

    def _same_run(self, cells: Sequence[Sequence[str]]) -> bool:
        """Whether all cells are the same run. False if one is invalid; its proposal reports the error."""
        try:
            configs = [
                resolve(config) for config in compose_cells(self.hydra_context.config_loader, self.config, cells)
            ]
            return len({locate(config, "rl").hash for config in configs}) == 1
        except BadInput:
            return False

    def _compose(self, overrides: Sequence[Sequence[str]]) -> list[Cell]:
        return make_cells(self.hydra_context, self.config, overrides, Console(quiet=True))

    def _run(self, studies: Sequence[Study], per_proposal: int) -> None:
        search, console = Search(studies), self.launcher.console
        first = search.first_cells()
        proposals = sum(study.wanted() for study in studies)
        there = sum(study.proposed() for study in studies) - len(search.open)
        console.print(f"{proposals} proposals, {there} already made, {proposals - there} to make")
        if first:
            self.launcher.run_feed(search, first, (proposals - there) * per_proposal)
        summarise(studies, lambda overrides: command_line(sys.argv[1:], overrides), console)
        if search.failed:
            self.launcher.report(search.failed, proposals * per_proposal)
            raise SystemExit(1)
