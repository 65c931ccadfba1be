"""`python -m benchmarks.coverage`: error rates and power of analysis.statistics in simulations with known truth.

Measures how often intervals contain the truth, and how often tests find false and true differences. Simulated scores
are y = truth + seed + context + own, for S seeds and C contexts. A mix such as (0.2, 0.5, 0.3) gives the share of each
part in the variance of the mean over seeds and contexts, so every mix occurs at every size. Prints the tables of
docs/validation.md; takes about three minutes on one core. The trials of one table row are the metrics of one call.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis import statistics
from analysis.statistics import Components, Estimate, Floats, Scores
from rlbench.config.arguments import count

Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]
Mix = tuple[float, float, float]

CHUNK = 250
"""Trials per call. Each call has its own resamples."""

RESAMPLES = 1_000


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return rng.standard_normal(shape)


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Mean 0, variance 1, skewness 2: most values below the mean, few far above, like scores with few hits."""
    return rng.exponential(size=shape) - 1


def peaked(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Mean 0, variance 1, kurtosis 6: most values near 0, few far off, like differences of lists that mostly agree."""
    return rng.laplace(scale=0.5**0.5, size=shape)


@dataclass(frozen=True)
class Kind:
    """Distributions of the parts of simulated scores. A context has 1 to `sizes` samples."""

    seed: Draw = normal
    context: Draw = normal
    own: Draw = normal
    sizes: int = 1


NORMAL = Kind()
SKEWED = Kind(context=skewed, own=peaked, sizes=5)
SKEWED_SEEDS = Kind(seed=skewed, context=skewed, own=peaked)

MIXES: dict[str, Mix] = {
    "contexts only": (0.0, 1.0, 0.0),
    "seeds only": (1.0, 0.0, 0.0),
    "own only": (0.0, 0.0, 1.0),
    "mostly contexts": (0.15, 0.75, 0.1),
    "mostly seeds": (0.75, 0.15, 0.1),
    "mostly own": (0.1, 0.15, 0.75),
    "seeds, some contexts": (0.95, 0.05, 0.0),
    "seeds and own": (0.5, 0.0, 0.5),
    "all alike": (1 / 3, 1 / 3, 1 / 3),
}
"""Shares of seed, context and own in the variance of the mean."""


def simulate(
    rng: np.random.Generator,
    seeds: int,
    contexts: int,
    mix: Mix,
    *,
    trials: int = CHUNK,
    kind: Kind = NORMAL,
    shared: Floats | None = None,
) -> Scores:
    """Return scores of `trials` independent experiments, one per metric, with truth 0 and variance of the mean about 1.

    Args:
        shared: (contexts, trials) a context part shared by several rows; drawn if None.
    """
    of_seed, of_context, of_own = np.sqrt(mix) * np.sqrt([seeds, contexts, seeds * contexts])
    part = kind.context(rng, (contexts, trials)) if shared is None else shared
    values = of_seed * kind.seed(rng, (seeds, 1, trials)) + of_context * part
    values = (
        values + of_own * kind.own(rng, (seeds, contexts, trials))
        if of_own
        else np.broadcast_to(values, (seeds, contexts, trials))
    )
    index = np.arange(contexts)
    if kind.sizes > 1:
        index = np.repeat(index, rng.integers(1, kind.sizes + 1, size=contexts))
    return Scores(values[:, index], index, tuple(range(seeds)))


def holds(estimate: Estimate, truth: float = 0.0) -> Floats:
    """(M,) 1 if the interval contains the truth."""
    return ((estimate.low <= truth) & (truth <= estimate.high)).astype(float)


def rate(trial: Callable[[np.random.Generator, int], Floats], trials: int, seed: int) -> float:
    """Return the mean of `trial(rng, stream)` over chunks of CHUNK trials."""
    rng = np.random.default_rng(seed)
    return float(np.mean([trial(rng, stream) for stream in range(-(-trials // CHUNK))]))


# Intervals.


def known_coverage(seeds: int, share: float, how: str, level: float = 0.95) -> float:
    """Return the coverage for infinitely many contexts, integrated over the seeds' variance without simulation.

    Args:
        share: true share of the seeds in the variance.
        how: "Satterthwaite", "Cochran", or "used" for `critical_value`.
    """
    among = seeds - 1.0
    found = share * stats.chi2.ppf((np.arange(20_000) + 0.5) / 20_000, among) / among
    variance = found + 1 - share
    part = found / variance
    tail = (1 - level) / 2
    if how == "Satterthwaite":
        value = stats.t.isf(tail, among / np.maximum(part, 1e-6) ** 2)
    elif how == "Cochran":
        value = part * stats.t.isf(tail, among) + (1 - part) * stats.norm.isf(tail)
    else:
        value = statistics.critical_value(2 * tail, part, np.full_like(part, among), np.inf)
    return float((2 * stats.norm.cdf(value * np.sqrt(variance)) - 1).mean())


def mean_coverage(seeds: int, contexts: int, mix: Mix, trials: int, *, kind: Kind = NORMAL, seed: int = 0) -> float:
    """Coverage of `mean_interval`."""

    def trial(rng: np.random.Generator, stream: int) -> Floats:
        scores = simulate(rng, seeds, contexts, mix, kind=kind)
        return holds(statistics.mean_interval(scores, resamples=RESAMPLES, stream=stream))

    return rate(trial, trials, seed)


def difference_coverage(
    seeds: tuple[int, int], contexts: int, mix: Mix, trials: int, *, shift: int = 0, kind: Kind = NORMAL, seed: int = 0
) -> float:
    """Coverage of `paired_difference` for two equal methods on the same contexts, which is 1 - false-positive rate.

    Args:
        shift: added to the second row's seeds, so that they do not pair.
    """

    def trial(rng: np.random.Generator, stream: int) -> Floats:
        shared = kind.context(rng, (contexts, CHUNK))
        rows = [simulate(rng, n, contexts, mix, kind=kind, shared=shared) for n in seeds]
        # The methods also differ by context, by as much as one of them varies over contexts.
        own = 0.5 * mix[1] ** 0.5 * contexts**0.5 * kind.own(rng, (contexts, CHUNK))
        a = Scores(rows[0].values + own, rows[0].contexts, rows[0].seeds)
        b = Scores(rows[1].values, rows[1].contexts, tuple(s + shift for s in rows[1].seeds))
        return holds(statistics.paired_difference(a, b, resamples=RESAMPLES, stream=stream))

    return rate(trial, trials, seed)


def iqm_coverage(
    cells: int,
    seeds: int,
    mix: Mix,
    trials: int,
    *,
    apart: float,
    contexts: int = 100,
    plain: bool = False,
    seed: int = 0,
) -> float:
    """Coverage of `iqm_interval` (or of rliable's bootstrap) over cells `apart` standard errors from each other.

    Cells share their contexts. All parts and the cells' positions are symmetric around 0, and so is the interquartile
    mean.
    """

    def trial(rng: np.random.Generator, stream: int) -> Floats:
        shared = normal(rng, (contexts, CHUNK))
        places = apart * (np.arange(cells) - (cells - 1) / 2)
        rows = [simulate(rng, seeds, contexts, mix, shared=shared) for _ in places]
        rows = [Scores(row.values + place, row.contexts, row.seeds) for row, place in zip(rows, places, strict=True)]
        if plain:
            _, low, high = statistics.stratified_bootstrap(
                statistics.run_scores(rows), lambda x: statistics.iqm(x, axis=-2), resamples=RESAMPLES, stream=stream
            )
            return ((low <= 0) & (high >= 0)).astype(float)
        return holds(statistics.iqm_interval(rows, resamples=400, stream=stream))

    return rate(trial, trials, seed)


def probability_coverage(
    seeds: tuple[int, int], cells: int, truth: float, trials: int, *, plain: bool = False, seed: int = 0
) -> float:
    """Coverage for the probability of improvement (or of rliable's bootstrap), with normal run scores."""
    shift = 2**0.5 * stats.norm.ppf(truth)

    def trial(rng: np.random.Generator, stream: int) -> Floats:
        a, b = ([rng.standard_normal((n, CHUNK)) for _ in range(cells)] for n in seeds)
        found = statistics.probability_of_improvement([x + shift for x in a], b, resamples=400, stream=stream)
        ends = (found.bootstrap_low, found.bootstrap_high) if plain else (found.low, found.high)
        return ((ends[0] <= truth) & (truth <= ends[1])).astype(float)

    return rate(trial, trials, seed)


def profile_coverage(seeds: int, contexts: int, threshold: float, trials: int, *, seed: int = 0) -> float:
    """Coverage of a profile's band at one threshold. A score is the normal CDF of the sum of all parts."""
    truth = 1 - threshold

    def trial(rng: np.random.Generator, stream: int) -> Floats:
        latent = (
            0.2 * rng.standard_normal((seeds, 1, CHUNK))
            + 0.8 * rng.standard_normal((contexts, CHUNK))
            + (1 - 0.2**2 - 0.8**2) ** 0.5 * rng.standard_normal((seeds, contexts, CHUNK))
        )
        above = (stats.norm.cdf(latent) > threshold).astype(float)
        scores = Scores(above, np.arange(contexts), tuple(range(seeds)))
        # `performance_profile` averages this indicator at the threshold. Trials take the place of thresholds here.
        return holds(statistics.mean_interval(scores, resamples=RESAMPLES, stream=stream), truth)

    return rate(trial, trials, seed)


# Tests.


def flip_rate(pairs: int, trials: int, *, draw: Draw = peaked, seed: int = 0) -> float:
    """How often `sign_flip_test` on equal models gives p ≤ .05."""

    def trial(rng: np.random.Generator, stream: int) -> Floats:
        found = statistics.sign_flip_test(draw(rng, (pairs, CHUNK)), drawn=1_999, stream=stream)
        return (found.p <= 0.05).astype(float)

    return rate(trial, trials, seed)


def label_rate(
    seeds: tuple[int, int], trials: int, *, paired: float = 0.0, draw: Draw = normal, seed: int = 0
) -> float:
    """How often `label_test` on equal methods gives p ≤ .05. `paired` is the correlation of runs with the same seed."""

    def trial(rng: np.random.Generator, stream: int) -> Floats:
        common = draw(rng, (max(seeds), CHUNK))
        a, b = (paired**0.5 * common[:n] + (1 - paired) ** 0.5 * draw(rng, (n, CHUNK)) for n in seeds)
        return (statistics.label_test(a, b, drawn=1_999, stream=stream).p <= 0.05).astype(float)

    return rate(trial, trials, seed)


def flips_as_if_methods(seeds: int, contexts: int, mix: Mix, trials: int, *, seed: int = 0) -> float:
    """How often a test on contexts finds equal methods different. It compares models, not methods, for this reason."""

    def trial(rng: np.random.Generator, stream: int) -> Floats:
        differences = simulate(rng, seeds, contexts, mix).values.mean(axis=0)
        return (statistics.sign_flip_test(differences, drawn=1_999, stream=stream).p <= 0.05).astype(float)

    return rate(trial, trials, seed)


def family_rates(seeds: int, rows: int, trials: int, *, seed: int = 0) -> tuple[float, float]:
    """How often any of `rows` methods equal to the baseline has p ≤ .05, uncorrected and with Holm's correction.

    All differences share one baseline and its seeds.
    """
    rng = np.random.default_rng(seed)
    plain, corrected = [], []
    for stream in range(-(-trials // CHUNK)):
        shared = rng.standard_normal((100, CHUNK))
        baseline = simulate(rng, seeds, 100, (0.3, 0.4, 0.3), shared=shared)
        tables = {str(i): simulate(rng, seeds, 100, (0.3, 0.4, 0.3), shared=shared) for i in range(rows)}
        found = statistics.compare({"baseline": baseline, **tables}, "baseline", resamples=RESAMPLES, stream=stream)
        plain.append(np.min([one.estimate.p for one in found.values()], axis=0) <= 0.05)
        corrected.append(np.min([one.p_holm for one in found.values()], axis=0) <= 0.05)
    return float(np.mean(plain)), float(np.mean(corrected))


def power_at_detectable(
    seeds: int, contexts: int, mix: Mix, trials: int, *, kind: Kind = NORMAL, seed: int = 0, level: float = 0.95
) -> float:
    """How often an interval at the given level excludes 0 at the minimum detectable difference for 80 % power."""
    parts = np.array(mix) * [seeds, contexts, seeds * contexts]
    components = Components(*(np.array([part]) for part in parts))
    true = float(statistics.minimum_detectable_difference(components, seeds, contexts, level=level)[0])

    def trial(rng: np.random.Generator, stream: int) -> Floats:
        scores = simulate(rng, seeds, contexts, mix, kind=kind)
        moved = Scores(scores.values + true, scores.contexts, scores.seeds)
        return 1 - holds(statistics.mean_interval(moved, resamples=RESAMPLES, level=level, stream=stream))

    return rate(trial, trials, seed)


# Whole reports of equal methods. A score is context + method × context + seed + seed × context + own. The parts without
# the seed have a total variance of 1. A context has one to six samples. Trials are the metrics of one call.

VARIANCES = {"context": 0.5, "method": 0.1, "crossed": 0.1, "own": 0.3}
SPREADS = (0.05, 0.15, 0.4)
"""Simulated standard deviations of trainings."""


@dataclass(frozen=True)
class World:
    """What the rows of one simulated report share.

    Attributes:
        index: (Q,) context of each sample.
        context: (C, M) context part.
        spread: standard deviation of trainings.
        alike: correlation of the effects of runs with the same seed.
        of_seed: (20, 1, M) the part of these effects that belongs to the seed.
    """

    index: NDArray[np.int64]
    context: Floats
    spread: float
    alike: float
    of_seed: Floats


def world(rng: np.random.Generator, spread: float, *, contexts: int = 100, alike: float = 0.3) -> World:
    index = np.repeat(np.arange(contexts), rng.integers(1, 7, size=contexts))
    return World(index, skewed(rng, (contexts, CHUNK)), spread, alike, rng.standard_normal((20, 1, CHUNK)))


def row_of(rng: np.random.Generator, shared: World, seeds: Sequence[int], *, varies: bool = True) -> Scores:
    """Return the scores of one method under some seeds. `varies` says whether its trainings differ."""
    n, (contexts, trials) = len(seeds), shared.context.shape
    part = {name: value**0.5 for name, value in VARIANCES.items()}
    of_run = shared.alike**0.5 * shared.of_seed[list(seeds)]
    of_run = of_run + (1 - shared.alike) ** 0.5 * rng.standard_normal((n, 1, trials))
    values = part["context"] * shared.context + part["method"] * peaked(rng, (contexts, trials))
    values = values + part["crossed"] * peaked(rng, (n, contexts, trials)) + varies * shared.spread * of_run
    # Only the mean of a context's samples matters: its own part shrinks with their number.
    sizes = np.bincount(shared.index)
    values = values + part["own"] * peaked(rng, (n, contexts, trials)) / np.sqrt(sizes)[:, None]
    return Scores(values[:, shared.index], shared.index, tuple(seeds))


def report_rates(
    rl: Sequence[Sequence[int]], spread: float, trials: int, *, sft_varies: bool = False, fewest: int = 3, seed: int = 0
) -> tuple[float, float, float]:
    """How often a report of equal rows claims a difference to SFT, a best row, or either.

    The family of tests is that of `analysis.tables.compare`: rows against SFT, and the largest p of the leading row's
    differences.

    Args:
        rl: seeds of each RL row.
        sft_varies: whether SFT's one checkpoint is also random. A claim is then about SFT as a method.
        fewest: minimum seeds of a tested row; 1 shows the result without such a rule.
    """
    rng = np.random.default_rng(seed)
    claims: list[Floats] = []
    for stream in range(-(-trials // CHUNK)):
        shared = world(rng, spread)
        sft = row_of(rng, shared, [19], varies=sft_varies)
        rows = [row for row in (row_of(rng, shared, own) for own in rl) if len(row.seeds) >= fewest]
        if not rows:
            claims.append(np.zeros((3, CHUNK)))
            continue
        options: dict[str, int] = {"resamples": RESAMPLES, "stream": stream}
        tests = [statistics.paired_difference(row, sft, **options).p for row in rows]
        if len(rows) > 1:
            pairs = np.ones((len(rows), len(rows), CHUNK))
            for i, j in itertools.combinations(range(len(rows)), 2):
                pairs[i, j] = pairs[j, i] = statistics.paired_difference(rows[i], rows[j], **options).p
            leader = np.argmax([row.values.mean(axis=(0, 1)) for row in rows], axis=0)
            of_leader = pairs[leader, :, np.arange(CHUNK)]
            of_leader[np.arange(CHUNK), leader] = 0
            tests.append(of_leader.max(axis=1))
        holds = np.apply_along_axis(statistics.holm, 0, np.stack(tests)) < 0.05
        against = holds[: len(rows)].any(axis=0)
        best = holds[len(rows) :].any(axis=0)
        claims.append(np.stack([against, best, against | best]).astype(float))
    return tuple(np.concatenate(claims, axis=1).mean(axis=1).tolist())  # type: ignore[return-value]


def pair_rates(a: Sequence[int], b: Sequence[int], spread: float, trials: int, *, seed: int = 0) -> float:
    """How often two equal methods have p < .05."""
    rng = np.random.default_rng(seed)
    found = []
    for stream in range(-(-trials // CHUNK)):
        shared = world(rng, spread)
        rows = [row_of(rng, shared, seeds) for seeds in (a, b)]
        found.append(statistics.paired_difference(*rows, resamples=RESAMPLES, stream=stream).p < 0.05)
    return float(np.mean(found))


def unequal_seeds_power(alike: float, how: str, trials: int, *, spread: float = 0.15, seed: int = 0) -> float:
    """Power for a difference of one spread between a row of five seeds and a row with one seed missing.

    Args:
        alike: correlation of runs with the same seed.
        how: "all five", "rule" (`compared_seeds`: the four common seeds) or "unpaired".
    """
    rng = np.random.default_rng(seed)
    found = []
    for stream in range(-(-trials // CHUNK)):
        shared = world(rng, spread, alike=alike)
        a, b = (row_of(rng, shared, range(5)) for _ in range(2))
        a = Scores(a.values + spread, a.contexts, a.seeds)
        if how != "all five":
            seeds = (0, 1, 2, 3) if how == "rule" else (10, 11, 12, 13)
            b = Scores(b.values[:4], b.contexts, seeds)
        found.append(statistics.paired_difference(a, b, resamples=RESAMPLES, stream=stream).p < 0.05)
    return float(np.mean(found))


def cluster_coverage(
    turns: int, share: float, seeds: int, trials: int, *, clustered: bool, difference: bool = False, seed: int = 0
) -> float:
    """Coverage for dialogues with several turns, each its own context, resampled by dialogue or by turn.

    Args:
        share: share of the dialogue in the variance of a turn.
        difference: whether two rows are compared, with separate dialogue parts, instead of the mean of one.
    """
    rng = np.random.default_rng(seed)
    dialogues = 80
    dialogue = np.repeat(np.arange(dialogues), rng.integers(1, 2 * turns, size=dialogues))

    def row() -> Floats:
        values = share**0.5 * skewed(rng, (dialogues, CHUNK))[dialogue]
        values = values + (1 - share) ** 0.5 * peaked(rng, (len(dialogue), CHUNK))
        return (
            values
            + 0.3 * rng.standard_normal((seeds, len(dialogue), CHUNK))
            + 0.02 * rng.standard_normal((seeds, 1, CHUNK))
        )

    index = dialogue if clustered else np.arange(len(dialogue))
    held = []
    for stream in range(-(-trials // CHUNK)):
        values = row() - (row() if difference else 0)
        scores = Scores(values, index, tuple(range(seeds)))
        held.append(holds(statistics.mean_interval(scores, resamples=RESAMPLES, stream=stream)))
    return float(np.mean(held))


def ablation_rate(
    seeds: int,
    how: str,
    trials: int,
    *,
    training: float = 0.05,
    by_seed: float = 0.0,
    interaction: float = 0.0,
    seed: int = 0,
) -> float:
    """How often a factor without effect has p < .05 in a factorial with twelve settings of the other factors.

    Args:
        how: what is resampled: "seeds" (the method used from three seeds on), "contexts" (one seed) or "pairs".
        training: standard deviation of single trainings.
        by_seed: standard deviation of the factor's effect between seeds, equal in all settings.
        interaction: standard deviation of its effect between settings, equal under all seeds. Settings are random, so a
            rejection is false if p is read as a statement about other settings.
    """
    rng = np.random.default_rng(seed)
    contexts, settings = 80, 12
    found = []
    for stream in range(-(-trials // CHUNK)):
        values = 0.3 * peaked(rng, (contexts, CHUNK)) + 0.3 * peaked(rng, (seeds * settings, contexts, CHUNK))
        values = values + 2**0.5 * training * rng.standard_normal((seeds * settings, 1, CHUNK))
        values = values + by_seed * np.repeat(rng.standard_normal((seeds, 1, CHUNK)), settings, axis=0)
        values = values + interaction * np.tile(rng.standard_normal((settings, 1, CHUNK)), (seeds, 1, 1))
        names = {"seeds": np.repeat(np.arange(seeds), settings), "pairs": np.arange(seeds * settings)}
        of = names.get(how, np.zeros(seeds * settings, int))
        scores = Scores(values, np.arange(contexts), tuple(of.tolist()))
        found.append(statistics.pooled_interval(scores, resamples=RESAMPLES, stream=stream).p < 0.05)
    return float(np.mean(found))


def floor_rates(seeds: int, spread: float, trials: int, *, seed: int = 0) -> tuple[float, float]:
    """How often two equal methods have p < .05: in all trials, and in those with a seed variance estimated as 0."""
    rng = np.random.default_rng(seed)
    rejected, lucky = [], []
    for stream in range(-(-trials // CHUNK)):
        shared = world(rng, spread)
        a, b = (row_of(rng, shared, range(seeds)) for _ in range(2))
        rejected.append(statistics.paired_difference(a, b, resamples=RESAMPLES, stream=stream).p < 0.05)
        lucky.append(statistics.variance_components(statistics.difference(a, b)).seed == 0)
    every, some = np.concatenate(rejected), np.concatenate(lucky)
    return float(every.mean()), float(every[some].mean()) if some.any() else float("nan")


def show_reports(trials: int) -> None:
    """Print the tables of whole reports."""
    header = ("design", *(f"sd {spread}" for spread in SPREADS))
    designs: dict[str, Sequence[Sequence[int]]] = {
        "6 rows of 5 seeds": [range(5)] * 6,
        "6 rows of 3 seeds": [range(3)] * 6,
        "10 rows of 3 seeds": [range(3)] * 10,
        "5 rows of 5 seeds, one of 4": [*[range(5)] * 5, range(4)],
        "5 rows of 5 seeds, one of 1": [*[range(5)] * 5, [0]],
        "6 rows of 2 seeds": [range(2)] * 6,
    }
    show(
        "Reports of equal methods: any claim (against SFT or of a best row), in %; SFT is as good as the methods:",
        header,
        ((name, *(percent(report_rates(rl, x, trials)[2]) for x in SPREADS)) for name, rl in designs.items()),
    )
    show(
        "The same without the rule of three seeds:",
        header,
        (
            (name, *(percent(report_rates(rl, x, trials, fewest=n)[2]) for x in SPREADS))
            for name, rl, n in (
                ("6 rows of 2 seeds", designs["6 rows of 2 seeds"], 2),
                ("6 rows of 1 seed", [[0]] * 6, 1),
            )
        ),
    )
    show(
        "Claims against SFT if SFT's one checkpoint varies as trainings do, and claims are read as of SFT the method:",
        header,
        (
            (name, *(percent(report_rates(rl, x, trials, sft_varies=True)[0]) for x in SPREADS))
            for name, rl in (("1 row of 5 seeds", [range(5)]), ("6 rows of 5 seeds", [range(5)] * 6))
        ),
    )
    show(
        "Two equal methods, p < .05 in %:",
        header,
        (
            (name, *(percent(pair_rates(a, b, x, trials)) for x in SPREADS))
            for name, a, b in (
                ("one seed and five (no verdict)", [0], range(5)),
                ("two seeds (no verdict)", range(2), range(2)),
                ("three seeds", range(3), range(3)),
                ("five seeds", range(5), range(5)),
                ("five and four: the common four", range(5), range(4)),
                ("five and three: unpaired", range(5), range(3)),
            )
        ),
    )
    show(
        "The same where seeds were found not to vary at all (variance component 0):",
        ("seeds", *(f"sd {spread}" for spread in SPREADS)),
        ((n, *(percent(floor_rates(n, x, trials)[1]) for x in SPREADS)) for n in (2, 3, 5)),
    )
    alike = (0.0, 0.3, 0.6, 0.9)
    show(
        "Power at a difference of one sd (.15), five seeds and five of which one is missing, by correlation:",
        ("compared", *(f"{x:g}" for x in alike)),
        (
            (name, *(percent(unequal_seeds_power(x, how, trials)) for x in alike))
            for name, how in (
                ("none missing", "all five"),
                ("common four (the rule)", "rule"),
                ("unpaired", "unpaired"),
            )
        ),
    )
    show(
        "Dialogues of 1 to 7 turns: coverage in %, by the dialogue's share in the variance:",
        ("resampled", "0.1", "0.3", "0.6"),
        (
            (
                f"{what}, by {unit}",
                *(
                    percent(
                        cluster_coverage(4, x, 3, trials, clustered=unit == "dialogue", difference=what == "difference")
                    )
                    for x in (0.1, 0.3, 0.6)
                ),
            )
            for what in ("mean", "difference")
            for unit in ("turn", "dialogue")
        ),
    )
    show(
        "A factor of no effect among 12 settings: p < .05 in %:",
        ("resampled", "noise of trainings", "effect varies by seed", "effect varies by setting"),
        (
            (
                name,
                *(
                    percent(ablation_rate(n, how, trials, by_seed=b, interaction=i))
                    for b, i in ((0, 0), (0.1, 0), (0, 0.1))
                ),
            )
            for name, n, how in (
                ("one seed: contexts", 1, "contexts"),
                ("one seed: pairs", 1, "pairs"),
                ("three seeds: pairs", 3, "pairs"),
                ("three seeds: seeds (shown)", 3, "seeds"),
                ("five seeds: seeds (shown)", 5, "seeds"),
            )
        ),
    )


# Tables.


def show(title: str, header: Sequence[str], rows: Iterator[Sequence[object]]) -> None:
    """Print a table in Markdown, row by row."""
    print(f"\n{title}\n\n| {' | '.join(header)} |\n|:--{'|--:' * (len(header) - 1)}|", flush=True)
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |", flush=True)


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


SIZES = tuple(itertools.product((2, 3, 5, 10), (50, 300))) + ((3, 2_050), (5, 2_050))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--trials", type=count, default=2_000, help="simulations of one number (default 2000)")
    parser.add_argument("--reports", action="store_true", help="only the tables of whole reports")
    options = parser.parse_args()
    trials = options.trials
    show_reports(trials)
    if options.reports:
        return
    sizes = [f"{s} × {c:,}" for s, c in SIZES]

    shares = (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
    show(
        "Coverage in % by the seeds' true share in the variance, contexts very many (integrated)",
        ("seeds, critical value", *(f"{share:g}" for share in shares)),
        (
            (f"{s}, {how}", *(percent(known_coverage(s, share, how)) for share in shares))
            for s in (2, 3, 5, 10)
            for how in ("Satterthwaite", "Cochran", "used")
        ),
    )
    show(
        "The same at other levels, as used: share of p below it, divided by it; largest over all shares",
        ("seeds", "p ≤ .1", "p ≤ .05", "p ≤ .01", "p ≤ .002"),
        (
            (
                s,
                *(
                    f"{max(1 - known_coverage(s, x, 'used', 1 - p) for x in shares) / p:.2f}"
                    for p in (0.1, 0.05, 0.01, 0.002)
                ),
            )
            for s in (2, 3, 5, 10)
        ),
    )

    def means(kind: Kind) -> Iterator[Sequence[object]]:
        for name, mix in MIXES.items():
            yield name, *(percent(mean_coverage(s, c, mix, trials, kind=kind)) for s, c in SIZES)

    show("Mean, normal parts: coverage in % for seeds × contexts", ("mix", *sizes), means(NORMAL))
    show("Mean, skewed contexts of 1 to 5 samples, peaked own part", ("mix", *sizes), means(SKEWED))
    one = (("contexts only", *(percent(mean_coverage(1, c, (0, 1, 0), trials)) for c in (50, 300, 2_050))),)
    show("Mean, one seed", ("mix", "50", "300", "2,050"), iter(one))
    pairs = {
        "paired by seed": ((2, 2), (3, 3), (5, 5), (10, 10)),
        "seeds that do not pair": ((2, 2), (3, 3), (5, 5), (10, 10), (2, 5), (3, 5)),
    }
    for how, counts in pairs.items():
        shift = 100 if how != "paired by seed" else 0
        show(
            f"Difference, {how}, 100 contexts",
            ("mix", *(f"{a} and {b}" for a, b in counts)),
            (
                (name, *(percent(difference_coverage(n, 100, mix, trials, shift=shift)) for n in counts))
                for name, mix in MIXES.items()
            ),
        )
    designs = (
        (1, 3, 0),
        (1, 4, 0),
        (1, 5, 0),
        (1, 10, 0),
        (2, 3, 1),
        (2, 5, 3),
        (3, 3, 2),
        (4, 2, 1),
        (4, 3, 1),
        (4, 5, 8),
    )
    mixes: dict[str, Mix] = {
        "seeds only": (1, 0, 0),
        "seeds and contexts": (0.5, 0.5, 0),
        "all alike": MIXES["all alike"],
    }
    show(
        "Interquartile mean, cells × seeds (standard errors apart)",
        ("interval, mix", *(f"{k} × {s} ({apart})" for k, s, apart in designs)),
        (
            (
                f"{how}, {name}",
                *(
                    percent(iqm_coverage(k, s, mix, trials, apart=apart, plain=how == "percentile"))
                    for k, s, apart in designs
                ),
            )
            for how in ("iqm_interval", "percentile")
            for name, mix in mixes.items()
        ),
    )
    runs = (((3, 3), 1), ((5, 5), 1), ((10, 10), 1), ((3, 5), 1), ((3, 3), 4), ((5, 5), 4))
    show(
        "Probability of improvement, runs (cells)",
        ("interval, truth", *(f"{m} and {n} ({k})" for (m, n), k in runs)),
        (
            (
                f"{how}, {truth}",
                *(percent(probability_coverage(n, k, truth, trials, plain=how == "percentile")) for n, k in runs),
            )
            for how in ("score", "percentile")
            for truth in (0.5, 0.75, 0.9)
        ),
    )
    show(
        "Performance profile at one threshold",
        ("true share above", *sizes[:-2]),
        (
            (f"{1 - t:g}", *(percent(profile_coverage(s, c, t, trials)) for s, c in SIZES[:-2]))
            for t in (0.5, 0.75, 0.9)
        ),
    )
    show(
        "Sign-flip test of equal models: share of p ≤ .05, in %",
        ("differences of", "6 pairs", "10", "13", "50", "300"),
        (
            (name, *(percent(flip_rate(n, trials, draw=draw)) for n in (6, 10, 13, 50, 300)))
            for name, draw in (("normal", normal), ("peaked", peaked))
        ),
    )
    counts = ((3, 3), (4, 4), (5, 5), (10, 10), (3, 5))
    show(
        "Label test of equal methods: share of p ≤ .05, in %",
        ("run scores", *(f"{m} and {n}" for m, n in counts)),
        (
            (name, *(percent(label_rate(n, trials, paired=paired, draw=draw)) for n in counts))
            for name, paired, draw in (
                ("normal", 0.0, normal),
                ("skewed", 0.0, skewed),
                ("correlated .5 by seed", 0.5, normal),
            )
        ),
    )
    show(
        "Sign-flip test on 300 contexts taken for a test of methods: share of p ≤ .05, in %",
        ("mix", "1 seed", "3 seeds", "5 seeds"),
        (
            (name, *(percent(flips_as_if_methods(s, 300, MIXES[name], trials)) for s in (1, 3, 5)))
            for name in ("mostly contexts", "all alike", "mostly seeds")
        ),
    )
    show(
        "Five methods equal to the baseline, any p ≤ .05, in %",
        ("seeds", "each by itself", "Holm"),
        ((s, *(percent(share) for share in family_rates(s, 5, trials))) for s in (2, 3, 5)),
    )
    show(
        "Power at the minimum detectable difference of 80 %",
        ("mix", *sizes[:-2]),
        (
            (name, *(percent(power_at_detectable(s, c, mix, trials)) for s, c in SIZES[:-2]))
            for name, mix in MIXES.items()
        ),
    )
    show(
        "Limits: seeds that are skewed (collapse, or one lucky run): coverage of the mean",
        ("mix", *sizes[:-2]),
        (
            (name, *(percent(mean_coverage(s, c, MIXES[name], trials, kind=SKEWED_SEEDS)) for s, c in SIZES[:-2]))
            for name in ("seeds only", "mostly seeds", "all alike")
        ),
    )


if __name__ == "__main__":
    main()
