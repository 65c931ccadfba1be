"""`python -m benchmarks.convergence`: how well `analysis.convergence` recovers a known truth.

A simulated seed learns along g (1 - exp(-k t)) for t from 0 to 1, with its own g (normal around 1) and k (log-normal).
It is evaluated at a few times with noise. Its true passage time has a closed form. The true restricted mean of a row is
that of a million seeds. Prints the tables of docs/validation.md; takes about two minutes on one core.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.statistics import Floats
from analysis.studies.convergence import passage_time, ratio_interval, restricted_interval
from rlbench.config.arguments import count

SPREAD_OF_GAIN, SPREAD_OF_RATE = 0.12, 0.35
"""Standard deviations between seeds of g and of log k."""

POPULATION = 1_000_000

Rule = Callable[[tuple[Floats, Floats], float, float], float]


@dataclass(frozen=True)
class Learner:
    """A method: its median rate k, and the threshold to reach."""

    rate: float
    threshold: float = 0.8

    def draw(self, rng: np.random.Generator, seeds: int, shared: Floats | None = None) -> tuple[Floats, Floats]:
        """Return (seeds,) g and k. `shared`, (seeds, 2) standard normal, contributes half of the variance."""
        own = rng.standard_normal((seeds, 2))
        deviations = own if shared is None else (own + shared) / 2**0.5
        return 1 + SPREAD_OF_GAIN * deviations[:, 0], self.rate * np.exp(SPREAD_OF_RATE * deviations[:, 1])

    def passages(self, gains: Floats, rates: Floats) -> Floats:
        """Return (seeds,) true times, infinite if the threshold exceeds g."""
        left = 1 - self.threshold / gains
        return np.where(left > 0, -np.log(np.where(left > 0, left, 1.0)) / rates, np.inf)

    def truth(self) -> tuple[float, float]:
        """Return the restricted mean, and the share of censored seeds."""
        times = self.passages(*self.draw(np.random.default_rng(1), POPULATION))
        return float(np.minimum(times, 1).mean()), float((times > 1).mean())

    def measured(
        self, rng: np.random.Generator, gains: Floats, rates: Floats, evaluations: int, noise: float
    ) -> Floats:
        """Return (seeds, evaluations) measured values. The start is the same model for all and has no noise."""
        t = np.linspace(0, 1, evaluations)
        curves = gains[:, None] * -np.expm1(-rates[:, None] * t)
        curves[:, 1:] += noise * rng.standard_normal((len(gains), evaluations - 1))
        return curves


LEARNERS = {
    "sure": Learner(5.0, 0.6),
    "fast": Learner(8.0),
    "middling": Learner(4.0),
    "slow": Learner(2.0),
}
"""Seeds of "sure" almost always reach the threshold; seeds of "fast" do so early or never."""


def first_passage(curve: tuple[Floats, Floats], threshold: float, horizon: float) -> float:
    """Return when a curve first reaches a threshold, including noise."""
    return _crossing(curve, np.flatnonzero(curve[1] >= threshold), threshold)


def kept_passage(curve: tuple[Floats, Floats], threshold: float, horizon: float) -> float:
    """Like `first_passage`, but the next evaluation must also be at or above the threshold."""
    above = curve[1] >= threshold
    return _crossing(curve, np.flatnonzero(above[:-1] & above[1:]), threshold)


def _crossing(curve: tuple[Floats, Floats], places: NDArray[np.int64], threshold: float) -> float:
    if not len(places):
        return np.inf
    x, y = curve
    at = int(places[0])
    if at == 0 or y[at - 1] >= threshold:
        return float(x[at])
    return float(x[at - 1] + (threshold - y[at - 1]) / (y[at] - y[at - 1]) * (x[at] - x[at - 1]))


RULES: dict[str, Rule] = {
    "first": first_passage,
    "kept at the next": kept_passage,
    "isotonic": passage_time,
}


def restricted(learner: Learner, curves: Floats, rule: Rule) -> Floats:
    """Return (seeds,) times found by a rule, at most 1."""
    t = np.linspace(0, 1, curves.shape[1])
    return np.array([min(rule((t, curve), learner.threshold, 1.0), 1.0) for curve in curves])


def bias(rule: Rule, learner: Learner, evaluations: int, noise: float, trials: int) -> float:
    """Return the mean of a rule's results minus the truth."""
    rng = np.random.default_rng(7)
    curves = learner.measured(rng, *learner.draw(rng, trials), evaluations, noise)
    return float(restricted(learner, curves, rule).mean() - learner.truth()[0])


def coverage(
    row: Learner, baseline: Learner, seeds: int, evaluations: int, noise: float, *, paired: bool, trials: int
) -> tuple[float, float]:
    """Return coverage of the row's restricted mean, and of its ratio to the baseline's.

    Rows whose seeds are all censored have no interval and are not counted.
    """
    rng = np.random.default_rng(11)
    times = []
    shared = rng.standard_normal((trials * seeds, 2)) if paired else None
    for learner in (row, baseline):
        curves = learner.measured(rng, *learner.draw(rng, trials * seeds, shared), evaluations, noise)
        times.append(restricted(learner, curves, passage_time).reshape(trials, seeds).T)
    shown = np.all([np.ptp(one, axis=0) > 0 for one in times], axis=0)
    a, b = (one[:, shown] for one in times)
    true_a, true_b = row.truth()[0], baseline.truth()[0]
    own = restricted_interval(a)
    other = range(seeds) if paired else range(seeds, 2 * seeds)
    ratio = ratio_interval(a, b, range(seeds), other)
    held = (own.low <= np.log(true_a)) & (np.log(true_a) <= own.high)
    ratio_held = (ratio.low <= np.log(true_a / true_b)) & (np.log(true_a / true_b) <= ratio.high)
    return float(held.mean()), float(ratio_held.mean())


def bias_table(trials: int) -> Iterator[str]:
    """Bias of each rule, in hundredths of the range."""
    columns = [(m, noise) for m in (6, 11, 51) for noise in (0.0, 0.05, 0.15, 0.3)]
    yield table_line(["learner", "rule", *(f"{m}, {noise:g}" for m, noise in columns)])
    yield table_line([":--", ":--", *["--:"] * len(columns)])
    for name, learner in LEARNERS.items():
        mean, censored = learner.truth()
        for rule_name, rule in RULES.items():
            values = [100 * bias(rule, learner, m, noise, trials) for m, noise in columns]
            title = f"{name} ({100 * mean:.0f}; {100 * censored:.0f} % censored)"
            yield table_line([title, rule_name, *(f"{value:+.0f}" for value in values)])


def coverage_table(trials: int) -> Iterator[str]:
    """Coverage in % of the restricted mean and of the ratio to `slow`."""
    columns = [(seeds, noise) for seeds in (2, 3, 5, 10) for noise in (0.0, 0.15)]
    yield table_line(["of", "row", *(f"{seeds}, {noise:g}" for seeds, noise in columns)])
    yield table_line([":--", ":--", *["--:"] * len(columns)])
    for name in LEARNERS:
        for paired in (False, True):
            found = [
                coverage(LEARNERS[name], LEARNERS["slow"], seeds, 21, noise, paired=paired, trials=trials)
                for seeds, noise in columns
            ]
            if not paired:
                yield table_line(["mean", name, *(f"{100 * mean:.1f}" for mean, _ in found)])
            kind = "ratio, paired" if paired else "ratio"
            yield table_line([kind, f"{name} to slow", *(f"{100 * ratio:.1f}" for _, ratio in found)])


def table_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convergence", description=__doc__)
    parser.add_argument("--trials", type=count, default=1_000, help="simulations a number (default: %(default)s)")
    trials = parser.parse_args().trials
    print("Bias of the restricted mean, in hundredths of the range, for evaluations, noise:\n")
    print("\n".join(bias_table(trials)))
    print("\nCoverage in % for seeds, noise (21 evaluations):\n")
    print("\n".join(coverage_table(trials)))


if __name__ == "__main__":
    main()
