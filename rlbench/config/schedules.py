"""Numbers of a config that change during training. Loads no torch.

A schedule maps a dotted key to a shape, for example

    schedule.values:
      algorithm.kl.beta: {shape: linear, start: 0.01, end: 0.001}

Values change at rollouts: a rollout and all updates on it have the same values. A shape is one function; its
keyword-only parameters are its options. `shape` registers it, also from plugins.
"""

import copy
import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from fnmatch import fnmatch
from typing import Any, TypeVar

from rlbench.base.errors import nearest
from rlbench.config.options import Option, Positive, PositiveInt, Share, check_options, filled, options_of
from rlbench.config.schema import Config

CHANGEABLE = (
    "algorithm.kl.beta",
    "algorithm.entropy_quantile",
    "algorithm.length_shaping.*",
    "algorithm.options.*.*",
    "algorithm.regularisers.*",
    "reward.gamma",
    "reward.power",
    "reward.success.threshold",
    "reward.terms.*.*",
    "generation.temperature",
    "generation.top_p",
    "generation.top_k",
    "generation.min_p",
    "generation.max_new_tokens",
    "sampler.replay",
    "sampler.options.*.*",
    "rollout.ranks",
    "rollout.options.*.*",
    "trainer.rl.learning_rate",
)
"""Keys that may have a schedule. All other settings shape the data, the model or the run as a whole."""
NOT_FROM_ZERO = ("algorithm.kl.beta", "algorithm.regularisers.*")
"""Keys whose value at the start of a run decides what it loads, so 0 there cannot be raised later."""


@dataclass(frozen=True)
class When:
    """A point of a run.

    Attributes:
        update: number of finished updates, u.
        updates: number of all updates, T.
        statistics: latest values of training metrics, by name. Empty before the first update.
        memory: numbers that a shape keeps; it may change them. Saved with checkpoints.
    """

    update: int
    updates: int
    statistics: Mapping[str, float] = field(default_factory=dict)
    memory: MutableMapping[str, float] = field(default_factory=dict)

    @property
    def progress(self) -> float:
        """u / T."""
        return self.update / self.updates


Shape = Callable[..., float]
Function = TypeVar("Function", bound=Shape)
SHAPES: dict[str, Shape] = {}


def shape(function: Function) -> Function:
    """Register a shape under its function's name.

    Raises:
        ValueError: another shape has this name.
    """
    if function.__name__ in SHAPES:
        raise ValueError(f"two shapes are called '{function.__name__}'")
    SHAPES[function.__name__] = function
    return function


@shape
def constant(when: When, *, value: float) -> float:
    """One value."""
    return value


@shape
def linear(when: When, *, start: float, end: float, begin: Share = 0.0, until: Share = 1.0) -> float:
    """From `start` to `end` on a line, between the shares `begin` and `until` of the run."""
    return start + (end - start) * _share(when, begin, until)


@shape
def cosine(when: When, *, start: float, end: float, begin: Share = 0.0, until: Share = 1.0) -> float:
    """From `start` to `end` on half a period of a cosine, between the shares `begin` and `until` of the run."""
    return end + (start - end) * (1 + math.cos(math.pi * _share(when, begin, until))) / 2


@shape
def sigmoid(when: When, *, start: float, end: float, middle: Share = 0.9, width: Positive = 0.2) -> float:
    """From `start` to `end` as 1 / (1 + exp((u - middle T) / (width T))) falls (GlobalRAG, arXiv 2510.20548).

    GlobalRAG's code has T = 50, middle .9, and 10 updates of width, which is .2 of T.
    """
    # The exponent is bounded, because math.exp overflows at 710.
    at = min(max((when.progress - middle) / width, -700.0), 700.0)
    return end + (start - end) / (1 + math.exp(at))


@shape
def inverse(when: When, *, start: float, least: float = 0.0) -> float:
    """start / (u + 1), at least `least` (EAPO's chance to consult the expert, arXiv 2509.23730)."""
    return max(start / (when.update + 1), least)


@shape
def geometric(when: When, *, start: float, factor: Positive, least: float = 0.0) -> float:
    """max(least, start * factor^(u / T)) (RMT's token budget, arXiv 2509.24375: 800, 0.2, 1)."""
    return max(least, start * factor**when.progress)


@shape
def stair(when: When, *, high: float, low: float, period: PositiveInt) -> float:
    """`high` and `low` in turn, for half of `period` updates each (SIRI, arXiv 2509.25176)."""
    return high if (when.update % period) * 2 < period else low


@shape
def waves(when: When, *, high: float, low: float, period: PositiveInt) -> float:
    """(high + low) / 2 + (high - low) / 2 cos(2 pi u / period) (SIRI's cosine)."""
    return (high + low) / 2 + (high - low) / 2 * math.cos(2 * math.pi * when.update / period)


@shape
def stair_waves(when: When, *, high: float, low: float, period: PositiveInt) -> float:
    """`high` and `low` with half a cosine between them, a quarter of `period` updates each (SIRI's stair-cosine)."""
    at = 2 * math.pi * (when.update % period) / period
    middle, half = (high + low) / 2, (high - low) / 2
    if at < math.pi / 4 or at >= 7 * math.pi / 4:
        return high
    if at < 3 * math.pi / 4:
        return middle + half * math.cos(2 * (at - math.pi / 4))
    if at < 5 * math.pi / 4:
        return low
    return middle + half * math.cos(2 * (at - 3 * math.pi / 4))


@shape
def pulse(when: When, *, off: float, on: float, begin: Share, length: PositiveInt) -> float:
    """`on` for `length` updates after the share `begin` of the run, and `off` otherwise."""
    first = math.ceil(begin * when.updates)
    return on if first <= when.update < first + length else off


@shape
def statistic(
    when: When, *, of: str, offset: float = 0.0, scale: float = 1.0, low: float, high: float, first: float
) -> float:
    """offset + scale * the latest value of the training metric `of`, within [low, high]; `first` before there is one.

    CANON's annealed weight (arXiv 2509.23962) is 1 - mean reward of the batch: of=reward, offset=1, scale=-1.
    """
    if of not in when.statistics:
        return first
    return min(max(offset + scale * when.statistics[of], low), high)


@shape
def after_minimum(when: When, *, of: str, rise: Positive, low: float, high: float, length: PositiveInt) -> float:
    """`high` for `length` updates once the training metric `of` is `rise` times its minimum so far, and else `low`.

    It acts once. Annealed-RLVR (arXiv 2509.23629, known from notes) inserts supervised updates at the minimum of the
    response length: of=completion_length on the weight algorithm.regularisers.sft. There the supervised updates replace
    those of RL; here the term is added to them.
    """
    memory, found = when.memory, when.statistics.get(of)
    if "since" not in memory and found is not None:
        memory["minimum"] = min(found, memory.get("minimum", found))
        if found > rise * memory["minimum"]:
            memory["since"] = when.update
    since = memory.get("since", math.inf)
    return high if since <= when.update < since + length else low


def _share(when: When, begin: float, until: float) -> float:
    """How much of the way from `begin` to `until` is done, in [0, 1]."""
    if until <= begin:
        return float(when.progress >= begin)
    return min(max((when.progress - begin) / (until - begin), 0.0), 1.0)


class Schedules:
    """The schedules of a config.

    Args:
        config: a config whose schedules `check_schedules` accepts.

    Attributes:
        statistics: names of the training metrics that the shapes read.
        readers: the keys whose shapes read each of them.
    """

    def __init__(self, config: Config):
        self.config = config
        self.of_key = {
            key: filled(SHAPES[str(given["shape"])], {k: v for k, v in given.items() if k != "shape"})
            for key, given in flat(config.schedule.values).items()
        }
        self.readers: dict[str, list[str]] = {}
        for key, given in flat(config.schedule.values).items():
            if "of" in given:
                self.readers.setdefault(str(given["of"]), []).append(key)
        self.statistics = set(self.readers)

    def at(
        self,
        update: int,
        statistics: Mapping[str, float] | None = None,
        memory: MutableMapping[str, float] | None = None,
    ) -> dict[str, float]:
        """The value of each key at a rollout; whole numbers are rounded.

        Args:
            update: number of finished updates.
            statistics: latest values of training metrics.
            memory: numbers that shapes keep, by "key/name". Changed in place.
        """
        memory = {} if memory is None else memory
        values = {}
        for key, function in self.of_key.items():
            own = {name.removeprefix(f"{key}/"): memory[name] for name in memory if name.startswith(f"{key}/")}
            value = function(When(update, self.config.trainer.rl.updates, statistics or {}, own))
            memory.update({f"{key}/{name}": number for name, number in own.items()})
            values[key] = round(value) if is_whole(key) else value
        return values

    def drawn(self) -> dict[str, list[float]]:
        """The values of each key at all rollouts. Shapes that read a statistic show their value without one."""
        rl = self.config.trainer.rl
        every = [self.at(update) for update in range(0, rl.updates, rl.num_iterations)]
        return {key: [values[key] for values in every] for key in self.of_key}

    def counting_updates(self) -> list[str]:
        """Keys whose course depends on `trainer.rl.updates`: a run that ends earlier cuts it short."""
        updates = self.config.trainer.rl.updates
        longer = Schedules(with_values(self.config, {"trainer.rl.updates": 2 * updates}))
        ours, theirs = self.drawn(), longer.drawn()
        return [key for key, values in ours.items() if theirs[key][: len(values)] != values]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Mapping[str, Any]]:
    """Schedules by dotted key. Keys may be nested, as the command line writes them."""
    found: dict[str, Mapping[str, Any]] = {}
    for key, given in values.items():
        name = f"{prefix}{key}"
        if isinstance(given, Mapping) and "shape" not in given and given:
            found |= flat(given, f"{name}.")
        else:
            found[name] = given
    return found


def value_of(config: Config, key: str) -> Any:
    """The value of a dotted key; None if there is none."""
    value: Any = config
    for part in key.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif is_dataclass(value) and part in value.__dataclass_fields__:
            value = getattr(value, part)
        else:
            return None
    return value


def is_whole(key: str) -> bool:
    """Whether a key takes whole numbers only. Options of pieces and terms say so themselves."""
    return key in ("rollout.ranks", "generation.max_new_tokens", "generation.top_k")


def with_values(config: Config, values: Mapping[str, float]) -> Config:
    """A copy of a config with other values of dotted keys."""
    changed = copy.deepcopy(config)
    for key, value in values.items():
        *above, last = key.split(".")
        target = value_of(changed, ".".join(above))
        if isinstance(target, MutableMapping):
            target[last] = value
        else:
            setattr(target, last, value)
    return changed


def check_schedules(config: Config, check: Callable[[Config], list[str]], metrics: Sequence[str]) -> list[str]:
    """Every problem of a config's schedules, one sentence each.

    Args:
        config: a config that is valid without its schedules.
        check: the problems of a config, to which each schedule's smallest and largest value are given.
        metrics: names of the training metrics that shapes may read.
    """
    problems = []
    for key, given in flat(config.schedule.values).items():
        problems += _check_one(config, key, given) or _check_metric(key, given, metrics)
    if problems:
        return problems
    schedules = Schedules(config)
    for key, values in schedules.drawn().items():
        given = flat(config.schedule.values)[key]
        # Between two rollouts nothing is drawn, and a statistic stays within its bounds.
        ends = [given["low"], given["high"]] if "of" in given else []
        whole = is_whole(key)
        fractions = [value for value in values if value % 1][:1]
        for value in sorted({min([*values, *ends]), max([*values, *ends]), *fractions}):
            wrong = check(with_values(config, {key: round(value) if whole else value}))
            problems += [f"schedule.values.{key} reaches {value:g}: {problem}" for problem in wrong]
    return list(dict.fromkeys(problems))


def _check_metric(key: str, given: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    if "of" not in given or given["of"] in metrics:
        return []
    name = str(given["of"])
    return [
        f"schedule.values.{key}.of = '{name}' is no training metric, so the value would never change; "
        f"docs/metrics.md has them.{nearest(name, list(metrics))}"
    ]


def _check_one(config: Config, key: str, given: Any) -> list[str]:
    name = f"schedule.values.{key}"
    if not any(fnmatch(key, pattern) for pattern in CHANGEABLE):
        known = ", ".join(CHANGEABLE)
        return [f"{name}: this key cannot change during a run; keys that can: {known}.{nearest(key, list(CHANGEABLE))}"]
    if not isinstance(given, Mapping) or "shape" not in given:
        return [f"{name} = {ascii(given)[:80]} must have a shape and its options, as in {{shape: constant, value: 1}}"]
    chosen = str(given["shape"])
    if chosen not in SHAPES:
        return [f"{name}.shape = '{chosen}' is unknown; known: {', '.join(SHAPES)}.{nearest(chosen, list(SHAPES))}"]
    base = value_of(config, key)
    if key != "rollout.ranks" and (isinstance(base, bool) or not isinstance(base, int | float)):
        return [f"{name}: {key} is not a number in this config; give it one, since a schedule changes numbers only"]
    if base == 0 and any(fnmatch(key, pattern) for pattern in NOT_FROM_ZERO):
        return [f"{name}: {key} = 0 leaves out what it weighs; set it to a number above 0"]
    if key == "trainer.rl.learning_rate" and config.trainer.rl.learning_rate_steps:
        return [f"{name} and trainer.rl.learning_rate_steps both change the learning rate; remove one of them"]
    if key == "trainer.rl.learning_rate" and "of" in given:
        return [f"{name}.shape = '{chosen}' reads a training metric, which a learning rate cannot; use another shape"]
    options: dict[str, Option] = options_of(SHAPES[chosen])
    found = check_options(options, {k: v for k, v in given.items() if k != "shape"}, ("shape",))
    return [f"{name}.{problem}" for problem in found]
