"""Metrics from plugins: one value per query, recorded beside those of `rlbench.lists.metrics`. Loads no torch.

@query_metric(title="Precision@{k}", unit="share", better="higher")
def precision(lists: JudgedLists, facts: ItemFacts, k: int) -> Floats: ...
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlbench.base.errors import BadInput
from rlbench.config.plugins import for_every_stage
from rlbench.lists.item_facts import ItemFacts
from rlbench.lists.metric_catalogue import METRICS, Metric

if TYPE_CHECKING:
    from rlbench.lists.relevance import JudgedLists

Floats = NDArray[np.float64]
Function = TypeVar("Function", bound=Callable[..., Floats])


@dataclass(frozen=True)
class QueryMetric:
    """A metric of a plugin.

    Attributes:
        function: (lists, facts), or (lists, facts, k) for one value at each cut-off k, -> (Q,).
        at_cutoffs: whether it takes k. It is then recorded as NAME@k.
    """

    function: Callable[..., Floats]
    at_cutoffs: bool


QUERY_METRICS: dict[str, QueryMetric] = {}


def query_metric(
    *, title: str, unit: str = "", better: Literal["higher", "lower"] | None = None
) -> Callable[[Function], Function]:
    """Register a function as a metric under its own name.

    Args:
        title: as shown; {k} stands for the cut-off.
        unit: as shown in parentheses. "share" and "0 to 1" also mean that values lie in [0, 1].
        better: direction of better values. Only metrics whose higher values are better can choose a checkpoint.

    Raises:
        ValueError: there is a metric of this name already.
    """

    def enter(function: Function) -> Function:
        at_cutoffs = "k" in inspect.signature(function).parameters
        name = f"{function.__name__}@k" if at_cutoffs else function.__name__
        if name in METRICS or function.__name__ in QUERY_METRICS:
            raise ValueError(f"two metrics are called '{name}'")
        METRICS[name] = Metric(name, title, unit, better, "query", "cut-off" if at_cutoffs else "")
        QUERY_METRICS[function.__name__] = QueryMetric(function, at_cutoffs)
        for_every_stage(function)
        return function

    return enter


def query_metrics(lists: "JudgedLists", facts: ItemFacts, cutoffs: Sequence[int]) -> dict[str, Floats]:
    """The values of all metrics of plugins, (Q,) each.

    Raises:
        BadInput: a metric returns another type or shape, or a value that is not finite.
    """
    table: dict[str, Floats] = {}
    for name, metric in QUERY_METRICS.items():
        if metric.at_cutoffs:
            table |= {f"{name}@{k}": metric.function(lists, facts, k) for k in cutoffs}
        else:
            table[name] = metric.function(lists, facts)
    for name, values in table.items():
        if not isinstance(values, np.ndarray) or values.shape != (len(lists),) or values.dtype != np.float64:
            shown = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
            raise BadInput(f"metric {name}: must return numpy float64 of shape ({len(lists)},), but returned {shown}")
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values)))
            raise BadInput(f"metric {name}: returned {values[row]} for query {row}; values must be finite")
    return table
