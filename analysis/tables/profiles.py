"""The scores behind performance profiles."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from analysis.statistics import Scores
from analysis.tables.prepare import Prepared
from analysis.tables.select import Folder
from analysis.tables.spec import ColumnSpec, TableSpec


@dataclass(frozen=True)
class Profile:
    """A trained row, as in `Row`, and its scores on one metric."""

    name: str
    label: str
    group: str
    stage: str
    algorithm: str
    reward: str
    scores: Scores


def profile_scores(folders: Sequence[Folder], spec: TableSpec) -> dict[str, list[Profile]]:
    """Each metric of the spec's profiles to the trained rows with that metric, ordered by group."""
    columns = tuple(ColumnSpec("metric", metric) for metric in spec.profiles)
    prepared = Prepared(folders, replace(spec, columns=columns, comparisons=(), split="test"))
    return {
        metric: [
            Profile(
                part.name,
                part.label,
                part.group,
                part.stage,
                str(part.first["algorithm"]),
                str(part.first["reward"]),
                side.metric(metric),
            )
            for part in prepared.parts
            if part.trained and metric in (side := prepared.sides[part.id]).metrics
        ]
        for metric in prepared.metrics(spec.profiles, "profiles")
    }
