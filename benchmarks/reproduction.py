"""Error rates of the rule in `analysis.papers.verdicts`, on simulated trainings with known truth.

`python -m benchmarks.reproduction` prints the tables of docs/validation.md. A simulated method has a true score, and
a training deviates from it normally. Test-set noise affects both the reported training and ours, correlated as far as
the two share the test set. The reported standard error treats samples as independent and is therefore too small.
"""

import argparse
from dataclasses import dataclass

import numpy as np

from analysis.papers.verdicts import MARGIN, interval_of_difference
from rlbench.config.arguments import count

STREAM = 7
CONTEXTS = 2050
STATED, CLUSTERED = 0.0025, 0.0035
"""Standard errors of NDCG@20 on Reddit-v2: as stated, and clustered by context."""
SCORE = 0.1079
"""Reported NDCG@20 of Rank-GRPO exp∞ with 0.5B, to which the margin is relative."""


@dataclass(frozen=True)
class Rates:
    """Shares of verdicts over simulated comparisons."""

    reproduced: float
    differs: float


def simulate(seeds: int, spread: float, shared: float, offset: float, trials: int, margin: float = MARGIN) -> Rates:
    """Return the verdicts if our method is truly `offset` better than the reported one.

    Args:
        seeds: number of our seeds; the reported number is one training.
        spread: standard deviation of trainings.
        shared: correlation of both sides' test-set noise; 1 for the same samples and lists, 0 for different samples.
        offset: true difference.
        trials: number of simulated comparisons.
        margin: share of the reported number.
    """
    rng = np.random.default_rng(STREAM)
    common, own, other = rng.normal(size=(3, trials)) * CLUSTERED
    ours_noise = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
    reported_noise = np.sqrt(shared) * common + np.sqrt(1 - shared) * other
    trainings = SCORE + offset + rng.normal(size=(seeds, trials)) * spread
    reported = SCORE + rng.normal(size=trials) * spread + reported_noise
    ours = trainings.mean(axis=0) + ours_noise
    variance = trainings.var(axis=0, ddof=1) / seeds
    half = interval_of_difference(ours, variance, seeds, np.full(trials, CLUSTERED**2), CONTEXTS - 1, STATED)
    low, high = ours - reported - half, ours - reported + half
    differs = (low > 0) | (high < 0)
    reproduced = ~differs & (low >= -margin * reported) & (high <= margin * reported)
    return Rates(float(reproduced.mean()), float(differs.mean()))


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def show(trials: int) -> None:
    seeds, spreads = (2, 3, 5, 10), (0.001, 0.002, 0.004)
    for title, offset, of in (
        ("Equal methods: false *differs* in %", 0.0, "differs"),
        ("Equal methods: *reproduced* in %", 0.0, "reproduced"),
        (f"Ours truly {MARGIN:.0%} lower: false *reproduced* in %", -MARGIN * SCORE, "reproduced"),
        ("Ours truly 19 % lower (as the port of verl-GR is): *differs* in %", -0.19 * SCORE, "differs"),
        ("Ours truly 35 % lower (as SFT is): *differs* in %", -0.35 * SCORE, "differs"),
    ):
        print(f"\n{title}:\n\n| test sets | trainings differ by (sd) | {' | '.join(f'{n} seeds' for n in seeds)} |")
        print(f"|:--|--:|{'--:|' * len(seeds)}")
        for name, shared in (("same", 1.0), ("half shared", 0.5), ("independent", 0.0)):
            for spread in spreads:
                cells = [getattr(simulate(n, spread, shared, offset, trials), of) for n in seeds]
                print(f"| {name} | {spread} | {' | '.join(map(percent, cells))} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=count, default=20_000)
    show(parser.parse_args().trials)


if __name__ == "__main__":
    main()
