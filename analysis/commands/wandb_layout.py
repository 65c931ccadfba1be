"""Make saved views in W&B, with panels for the curves that the runs of an experiment have."""

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.collection import find_runs
from analysis.collection.sources import read_config
from analysis.collection.stored import is_collection
from analysis.command import say, terminal
from rlbench.base.errors import BadInput
from rlbench.base.files import write_text
from rlbench.base.program import install
from rlbench.base.records import PUT_BACK
from rlbench.lists.metric_catalogue import COMPUTING, EVALUATION, TRAINING, Metric, entry_of, metric_of
from rlbench.runs.record import MEASUREMENTS
from rlbench.tracking import curve_name

if TYPE_CHECKING:
    import wandb_workspaces.workspaces as ws

FIRST = ("reward", "success", "kl", "entropy", "clip_low", "clip_high", "completion_length", "list_length")
"""Curves of training that come first; the others follow in the catalogue's order."""
X_AXIS = "update"


@dataclass(frozen=True)
class Pane:
    """A panel: title, and its curves or final values by their names in W&B."""

    title: str
    names: tuple[str, ...]
    is_final: bool = False


@dataclass(frozen=True)
class Section:
    """Panels under a heading. Only an open section is drawn at once."""

    title: str
    panels: tuple[Pane, ...]
    is_open: bool = True


@dataclass
class Viewed:
    """What a view shows.

    Attributes:
        metric: the metric that chooses checkpoints; its panel comes first.
        recorded: names of curves as in metrics.jsonl, `<split>/<metric>`.
        trains: whether a run has a speed, which only RL has.
    """

    metric: str
    recorded: set[str] = field(default_factory=set)
    trains: bool = False


def run(options: argparse.Namespace) -> int:
    """Run the command with its parsed options, and return its exit code."""
    if is_collection(options.runs):
        raise BadInput(
            f"{options.runs} is a collection, which does not say how its runs were tracked; give their folder"
        )
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise BadInput(f"views need the package wandb-workspaces, which is not installed: {install('wandb-layout')}")
    views = read_views(options.runs, options.entity, options.project)
    if not views:
        raise BadInput(f"there is no run below {options.runs}")
    console = terminal()
    if options.out is not None:
        content = [_description(*view, shown) for view, shown in views.items()]
        try:
            write_text(options.out, json.dumps(content, indent=2) + "\n")
        except OSError as error:
            raise BadInput(f"--out {options.out} cannot be written: {error.strerror}") from None
        say(console, f"wrote {options.out}")
        return 0
    return _send(views, lambda line: say(console, line))


View = tuple[str, str | None, str]
"""Experiment, entity or None for the account's own, and project."""


def read_views(folder: Path, entity: str | None = None, project: str | None = None) -> dict[View, Viewed]:
    """Return what each view has to show: the curves that the runs below a folder have recorded.

    Raises:
        BadInput: if a run's settings or measurements cannot be read.
    """
    views: dict[View, Viewed] = {}
    for path in find_runs(folder):
        config = read_config(path)
        missing = [key for key in ("experiment_name", "evaluation.metric", "tracker.project") if key not in config]
        if missing:
            raise BadInput(f"{path / 'config.yaml'} has no {' and no '.join(missing)}; it is not a run's config")
        view = (config["experiment_name"], entity or config.get("tracker.entity"), project or config["tracker.project"])
        shown = views.setdefault(view, Viewed(config["evaluation.metric"]))
        shown.recorded |= {f"{row['split']}/{row['metric']}" for row in MEASUREMENTS.read(path, PUT_BACK)}
        shown.trains |= "train/reward" in shown.recorded
    return views


def sections(shown: Viewed) -> list[Section]:
    """Return the panels of a view, in order. Every recorded curve of training and validation has one place."""
    by_split: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for name in sorted(shown.recorded):
        split, _, metric = name.partition("/")
        if split in by_split:
            by_split[split].append(metric)
    validation = list(_in_order(by_split["validation"], EVALUATION))
    training = list(_in_order(by_split["train"], TRAINING))
    first = [shown.metric, *(name for name in validation if name != shown.metric)]
    of_training = [name for wanted in FIRST for name in training if name == wanted]
    of_training += [name for name in training if name not in of_training]
    scores = [name for name in _in_order(by_split["test"], EVALUATION) if metric_of(name).is_accuracy]
    made = [
        Section("Validation", _curves("validation", first, validation, lambda metric: metric.is_accuracy)),
        Section("Training", _curves("train", of_training, training, lambda metric: True)),
        Section("Test", tuple(Pane(metric_of(name).label, (f"final/test/{name}",), is_final=True) for name in scores)),
        Section("Lists", _curves("validation", validation, validation, lambda metric: not metric.is_accuracy), False),
        Section("Ranks", (*_ranks("validation", validation), *_ranks("train", training)), False),
    ]
    if shown.trains:
        speeds = [f"{kind}_{phase}" for kind in ("tokens_per_second", "mfu") for phase, _ in COMPUTING]
        made.append(Section("Speed", tuple(Pane(metric_of(name).label, (f"speed/{name}",)) for name in speeds), False))
    return [section for section in made if section.panels]


def _in_order(names: Collection[str], catalogue: Collection[Metric]) -> Iterator[str]:
    """Yield recorded metrics in the order of the catalogue, those of one entry by their number; others last."""
    places = {metric.name: place for place, metric in enumerate(catalogue)}

    def place(name: str) -> tuple[int, int, str]:
        entry = entry_of(name)
        number = name.partition("@")[2]
        return places.get(entry.name if entry else "", len(places)), int(number) if number.isdigit() else 0, name

    yield from sorted(names, key=place)


def _curves(split: str, order: list[str], names: list[str], wanted: Callable[[Metric], bool]) -> tuple[Pane, ...]:
    """Return a panel for each curve of a split that is recorded and wanted, without those of single ranks."""
    return tuple(
        Pane(metric_of(name).label, (curve_name(f"{split}/{name}"),))
        for name in order
        if name in names and metric_of(name).k != "rank" and wanted(metric_of(name))
    )


def _ranks(split: str, names: list[str]) -> Iterator[Pane]:
    """Yield a panel for each metric of single ranks, with a curve per rank."""
    families: dict[str, list[str]] = {}
    for name in names:
        if metric_of(name).k == "rank":
            families.setdefault(name.partition("@")[0], []).append(curve_name(f"{split}/{name}"))
    for stem, curves in families.items():
        entry = entry_of(f"{stem}@1")
        assert entry is not None
        yield Pane(f"{entry.label.replace('{k}', 'k')}, {split}", tuple(curves))


def _workspace(experiment: str, entity: str, project: str, shown: Viewed) -> "ws.Workspace":
    """Return W&B's view of an experiment."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def drawn(panel: Pane) -> Any:
        if panel.is_final:
            return wr.BarPlot(title=panel.title, metrics=[wr.SummaryMetric(panel.names[0])])
        return wr.LinePlot(title=panel.title, x=X_AXIS, y=list(panel.names), title_x="Updates")

    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"rlbench {experiment}",
        sections=[
            ws.Section(name=each.title, panels=[drawn(panel) for panel in each.panels], is_open=each.is_open)
            for each in sections(shown)
        ],
        settings=ws.WorkspaceSettings(x_axis=X_AXIS),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Config("experiment_name") == experiment], groupby=[ws.Config("identity.row")]
        ),
    )


def _description(experiment: str, entity: str | None, project: str, shown: Viewed) -> dict[str, Any]:
    """Return a view as it is sent: W&B's `spec`, its name, and where it belongs."""
    view = _workspace(experiment, entity or "", project, shown)
    spec = view._to_model().spec.model_dump(mode="json", by_alias=True, exclude_none=True)  # as its `save` does
    return {"entity": entity, "project": project, "name": view.name, "spec": spec}


def _send(views: dict[View, Viewed], tell: Callable[[str], None]) -> int:
    """Save views on the server. Return the command's exit code.

    Raises:
        BadInput: if nobody is logged in.
    """
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    if not wandb.login(prompt=False, verify=False):
        raise BadInput("no W&B login was found; run `wandb login`, or write the views to a file with --out FILE")
    try:
        own = wandb.Api().default_entity if any(entity is None for _, entity, _ in views) else None
        for (experiment, entity, project), shown in views.items():
            where = entity or own or ""
            saved = _workspace(experiment, where, project, shown).save()
            tell(f"{experiment}: {saved.url}")
    except (wandb.Error, WandbApiFailedError, OSError) as error:
        print(f"W&B did not save the view: {error}", file=sys.stderr)
        return 1
    return 0
