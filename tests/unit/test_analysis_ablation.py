"""Main effects of a sweep: against slow loops, against planted truths, and through the command."""

import csv
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from analysis.ablation import main
from analysis.collection import Collection, collect
from analysis.commands.ablation import Ablation, build_ablation, draw_effects
from analysis.render.numbers import chance
from analysis.statistics import Scores, holm, mean_interval, pooled_interval
from analysis.studies.factorial import (
    Effect,
    determined,
    find_design,
    leaders,
    level_name,
    matched_pairs,
    missing_cells,
)
from analysis.tables.model import ONE_SEED, UNEQUAL
from rlbench.base.errors import BadInput
from rlbench.runs.directory import seal
from tests.helpers_analysis import budget, queries, write_run
from tests.helpers_statistics import slow_interval

ROOT = Path(__file__).parents[2]
FILES = ["effects.csv", "effects.md", "effects.png", "effects.svg", "grid.csv", "grid.md"]
FACTORS = {"credit": ["rank", "sequence"], "ratio": ["rank", "sequence", "token"]}
METRICS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
SPENT = budget(60, 480, 3_840, 300_000, 60.0)

Gain = Callable[[dict[str, str]], float]


def write_cells(
    runs: Path,
    gain: Gain,
    *,
    factors: Mapping[str, Sequence[str]] = FACTORS,
    seeds: int = 1,
    absent: Sequence[tuple[str, ...]] = (),
    contexts: int = 60,
    noise: float = 0.003,
    sft: bool = True,
    spent: Callable[[dict[str, str]], dict] = lambda _: SPENT,
    stream: int = 21,
) -> None:
    """A sweep over factors of `algorithm`: a run gains `gain(levels)` on SFT, plus its own and context noise."""
    rng = np.random.default_rng(stream)
    of_query = np.repeat(np.arange(contexts), 1 + np.arange(contexts) % 3)
    names = [f"c{context:03d}" for context in of_query]
    ease = rng.uniform(0.15, 0.25, contexts)

    def predictions(level: float) -> object:
        scores = (ease + level + rng.normal(0, 0.02, contexts))[of_query]
        return queries(dict.fromkeys(METRICS, scores) | {"in_catalog": np.full(len(names), 0.9)}, names)

    if sft:
        write_run(runs, "sft", 0, predictions(0.0), spent=budget(360))
    for cell in itertools.product(*factors.values()):
        levels = dict(zip(factors, cell, strict=True))
        for seed in range(seeds) if cell not in absent else ():
            identity = {
                "seed": seed,
                "algorithm": {"name": "rank_grpo", "options": {}, **levels},
                "rl": {"updates": 60},
            }
            write_run(
                runs,
                f"rank_grpo-relevance@{'-'.join(cell)}",
                seed,
                predictions(gain(levels) + noise * rng.normal()),
                spent=spent(levels),
                step=60,
                rule="last",
                identity=identity,
            )


def only_group(runs: Path) -> Collection:
    (group,) = collect(runs).groups()
    return group


def built(runs: Path, **options: object) -> Ablation:
    return build_ablation(only_group(runs), "ndcg@10", **({"resamples": 300} | options))


def effect_of(ablation: Ablation, factor: str, level: str) -> Effect:
    return next(e for e in ablation.effects if (e.factor, e.level) == (f"algorithm.{factor}", level))


def command(runs: Path, out: Path, *options: str) -> int:
    return main([str(runs), "--out", str(out), "--resamples", "200", *options])


def helps(levels: dict[str, str]) -> float:
    return 0.04 * (levels["credit"] == "rank")


def settings(**cells: dict[str, object]) -> dict[str, dict[str, object]]:
    return dict(cells)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


# Numbers against loops.


def slow_effect(group: Collection, name: str, level: str, reference: str) -> list[tuple[int, dict[str, list[float]]]]:
    """Every matched pair, found by comparing all runs: its seed, and context -> differences."""
    rl = group.runs[group.runs["stage"] == "rl"]
    table = {}
    for run, seed in zip(rl["run"], rl["seed"], strict=True):
        part = group.queries.read(run, ["ndcg@10"])
        names = zip(part["context_id"], part["sample"], strict=True)
        table[run] = (seed, group.settings[run], dict(zip(names, part["ndcg@10"], strict=True)))
    found = []
    for seed, own, scores in table.values():
        for other_seed, other, other_scores in table.values():
            rest = {key: value for key, value in own.items() if key != name}
            if seed == other_seed and (own[name], other[name]) == (level, reference):
                if rest != {key: value for key, value in other.items() if key != name}:
                    continue
                of_context: dict[str, list[float]] = {}
                for query in sorted(scores):
                    of_context.setdefault(query[0], []).append(scores[query] - other_scores[query])
                found.append((seed, of_context))
    return found


@pytest.mark.parametrize("seeds", [1, 3])
def test_effects_are_the_loop_over_all_pairs_of_runs(runs: Path, seeds: int) -> None:
    absent = [("rank", "token"), ("sequence", "sequence")]
    write_cells(runs, helps, seeds=seeds, absent=absent, contexts=12)
    if seeds > 1:  # so that seeds have different numbers of pairs
        path = next(runs.glob("*/*/rank_grpo-relevance@sequence-rank/seed1-*"))
        (path / "STATUS").write_text("running\n")
    group = only_group(runs)
    ablation = build_ablation(group, "ndcg@10", resamples=50)
    assert [(e.factor, e.level, e.reference) for e in ablation.effects] == [
        ("algorithm.credit", "sequence", "rank"),
        ("algorithm.ratio", "sequence", "rank"),
        ("algorithm.ratio", "token", "rank"),
    ]
    for effect in ablation.effects:
        pairs = slow_effect(group, effect.factor, effect.level, effect.reference)
        assert len(effect.singles) == len(pairs) > 0
        of_seeds = pairs if effect.seeds > 1 else [(i, of_context) for i, (_, of_context) in enumerate(pairs)]
        mean, low, high, p = slow_interval([(1, of_seeds)], 50, 20_150)
        assert effect.change is not None and effect.seeds == len({seed for seed, _ in pairs})
        np.testing.assert_allclose(effect.change.mean, mean, rtol=1e-6)
        if len(of_seeds) > 1:
            np.testing.assert_allclose([effect.change.low, effect.change.high], [low, high], rtol=1e-6)
        else:
            assert not effect.change.has_interval
        if effect.seeds >= 3:
            np.testing.assert_allclose(effect.p, p, rtol=1e-6)
        else:
            assert effect.p is effect.p_holm is None and not effect.clear
        assert effect.change.mean == pytest.approx(np.mean(effect.singles))
        assert effect.above == sum(single > 0 for single in effect.singles)
        assert (ONE_SEED in effect.marks) == (len({seed for seed, _ in pairs}) == 1)


def test_with_one_part_a_seed_pooled_is_the_mean_over_seeds() -> None:
    rng = np.random.default_rng(5)
    scores = Scores(rng.random((4, 9, 2)), np.array([0, 0, 1, 2, 2, 2, 3, 4, 4]), (0, 1, 2, 3))
    one, other = mean_interval(scores, resamples=200), pooled_interval(scores, resamples=200)
    for key in ("mean", "low", "high", "error", "share", "among", "p"):
        np.testing.assert_allclose(getattr(one, key), getattr(other, key))


def test_the_grid_has_the_numbers_of_each_combination(runs: Path) -> None:
    write_cells(runs, helps, seeds=2)
    group = only_group(runs)
    ablation = build_ablation(group, "recall@5", resamples=100)
    means = [row.score.mean for row in ablation.rows]
    assert means == sorted(means, reverse=True) and len(means) == 6
    (sft_run,) = group.runs["run"][group.runs["stage"] == "sft"]
    sft = group.queries.read(sft_run, ["recall@5"])["recall@5"].mean()
    for row in ablation.rows:
        values = [group.queries.read(run, ["recall@5"])["recall@5"].mean() for run in row.runs]
        assert row.seeds == (0, 1) and row.marks == ()
        assert row.score.mean == pytest.approx(np.mean(values))
        assert row.difference is not None and row.difference.mean == pytest.approx(np.mean(values) - sft)
        assert all("-".join(row.levels) in run for run in row.runs)


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.9, 0.6])), [1.0, 1.0])
    assert holm(np.array([])).size == 0


# Known truths.


@pytest.mark.parametrize("stream", [1, 2])
def test_a_planted_effect_is_found_and_no_effect_is_not(runs: Path, stream: int) -> None:
    """In one sweep of twenty, noise alone shows an effect; `test_p_is_at_its_level` checks that rate."""
    write_cells(runs, helps, seeds=3, stream=stream)
    ablation = built(runs)
    credit = effect_of(ablation, "credit", "sequence")
    assert credit.change is not None and credit.change.mean == pytest.approx(-0.04, abs=0.005)
    assert credit.clear and credit.above == 0 and len(credit.singles) == 9
    assert credit.p_holm is not None and credit.p is not None and credit.p_holm >= credit.p
    for factor, level in (("ratio", "sequence"), ("ratio", "token")):
        assert not effect_of(ablation, factor, level).clear
    assert [row.levels[0] for row in ablation.rows[:3]] == ["rank"] * 3


def test_one_seed_and_two_give_no_p_and_nothing_bold(runs: Path) -> None:
    """Without any effect, p over contexts of one seed is below .05 in 68 to 97 % of factorials."""
    write_cells(runs, helps)
    ablation = built(runs)
    assert all(effect.p is effect.p_holm is None and not effect.clear for effect in ablation.effects)
    credit = effect_of(ablation, "credit", "sequence")
    assert credit.change is not None and credit.change.has_interval and credit.change.high < 0
    assert any("No effect has a p" in note for note in ablation.effect_notes)


def test_an_effect_that_varies_by_seed_is_judged_over_seeds() -> None:
    """All pairs of a seed share that seed's effect, so resampling pairs overstates the evidence."""
    rng = np.random.default_rng(9)
    seeds, over_seeds, over_pairs, trials = [0, 1, 2] * 6, 0, 0, 150
    for _ in range(trials):
        scores = simulated_pairs(rng, seeds, 0.03, 0.0)
        scores = Scores(scores.values + rng.normal(0, 0.02, (18, 1, 1)), scores.contexts, scores.seeds)
        over_seeds += bool(pooled_interval(scores, resamples=100).p[0] < 0.05)
        pairs = Scores(scores.values, scores.contexts, tuple(range(18)))
        over_pairs += bool(pooled_interval(pairs, resamples=100).p[0] < 0.05)
    assert over_seeds / trials <= 0.1 < over_pairs / trials


def simulated_pairs(rng: np.random.Generator, seeds: Sequence[int], between_seeds: float, truth: float) -> Scores:
    """Differences of pairs with mean `truth`: parts for contexts and seeds, and noise of each sample."""
    contexts = np.repeat(np.arange(60), rng.integers(1, 4, size=60))
    own = dict(zip(sorted(set(seeds)), rng.normal(0, between_seeds, len(set(seeds))), strict=True))
    values = (
        truth
        + rng.normal(0, 0.1, 60)[contexts]
        + np.array([own[seed] for seed in seeds])[:, None]
        + rng.normal(0, 0.05, (len(seeds), len(contexts)))
    )
    return Scores(values[:, :, None], contexts, tuple(seeds))


@pytest.mark.parametrize(
    ("seeds", "between_seeds"),
    [([0] * 6, 0.0), ([0, 1, 2, 3] * 3, 0.02), ([0] * 12 + [1], 0.02)],
    ids=["one seed", "four seeds", "a sweep whose second seed has begun"],
)
def test_the_interval_holds_the_truth_and_p_goes_with_it(seeds: list[int], between_seeds: float) -> None:
    rng = np.random.default_rng(8)
    trials, held, rejected, agree = 300, 0, 0, 0
    for _ in range(trials):
        estimate = pooled_interval(simulated_pairs(rng, seeds, between_seeds, 0.0), resamples=200)
        holds = bool(estimate.low[0] <= 0 <= estimate.high[0])
        held += holds
        rejected += bool(estimate.p[0] < 0.05)
        agree += holds == bool(estimate.p[0] >= 0.05)
    assert 0.91 <= held / trials <= 0.985
    assert 0.015 <= rejected / trials <= 0.09
    assert agree / trials >= 0.96


def test_p_is_at_its_level() -> None:
    """Four pairs differ only by their own noise, as with equal settings; the trials are the metrics of a call."""
    rng = np.random.default_rng(1)
    contexts = np.repeat(np.arange(60), 1 + np.arange(60) % 3)
    p = []
    for stream in range(8):
        values = rng.normal(0, 0.004, (4, 1, 500)) + rng.normal(0, 0.03, (4, 60, 500))
        scores = Scores(values[:, contexts], contexts, (0, 1, 2, 3))
        p.append(pooled_interval(scores, resamples=200, stream=stream).p)
    assert 0.02 <= (np.concatenate(p) < 0.05).mean() <= 0.06
    assert 0.001 <= (np.concatenate(p) < 0.01).mean() <= 0.012  # nominal at the worst share of the seeds, so lower here


def test_p_where_nothing_varies() -> None:
    contexts = np.array([0, 1, 1])
    values = np.stack([np.zeros((2, 3)), np.full((2, 3), 0.25)], axis=-1)
    np.testing.assert_array_equal(pooled_interval(Scores(values, contexts, (0, 0)), resamples=50).p, [1.0, 0.0])


# The design.


def test_what_varies_is_found_but_not_the_seed(runs: Path) -> None:
    write_cells(runs, helps, seeds=2)
    design = built(runs).design
    assert [(f.key, f.name, f.levels) for f in design.factors] == [
        ("algorithm.credit", "credit", ("rank", "sequence")),
        ("algorithm.ratio", "ratio", ("rank", "sequence", "token")),
    ]
    assert set(design.seeds.values()) == {0, 1}


def test_levels_are_ordered_by_size_and_read_as_text() -> None:
    values = [0.5, 10, 2, None, True, "b", [1, 2]]
    cells = {f"r{i}": {"x": value} for i, value in enumerate(values)} | {"r7": {}}
    (factor,) = find_design(cells, dict.fromkeys(cells, 0)).factors
    assert factor.levels == ("0.5", "2", "10", "[1, 2]", "absent", "b", "null", "true")
    assert level_name(1e-4) == "0.0001"


def test_a_setting_follows_the_name_and_what_it_always_changes_with() -> None:
    levels = {"a.name": ("x", "x", "y", "z"), "a.title": ("X", "X", "Y", "Z"), "a.ratio": ("p", "p", "p", "q"),
              "b": ("1", "2", "1", "1"), "c": ("u", "v", "u", "u")}  # fmt: skip
    assert leaders(levels, list(levels)) == {"a.name": ["a.title", "a.ratio"], "b": ["c"]}
    assert determined(levels, "a.ratio", ["a.name"]) and not determined(levels, "a.name", ["a.ratio"])


def cells_of(*names: str, **levels: str) -> dict[str, dict[str, object]]:
    """Runs named by their levels, one letter per setting in `names`: cells_of("a", "b", r0="xy")."""
    return {
        run: {f"s.{name}": letter for name, letter in zip(names, text, strict=True)} for run, text in levels.items()
    }


def test_factors_restrict_and_what_is_left_varies_within_no_pair() -> None:
    cells = cells_of("a", "b", "c", r0="001", r1="101", r2="011", r3="111", r4="002")
    seeds = dict.fromkeys(cells, 0)
    design = find_design(cells, seeds, factors=["a"])
    assert [(f.key, f.held) for f in design.factors] == [("s.a", False), ("s.b", True), ("s.c", True)]
    assert [(pair.run, pair.reference) for pair in matched_pairs(design, 0, "1")] == [("r1", "r0"), ("r3", "r2")]
    assert [f.name for f in find_design(cells, seeds, factors=["b", "s.a"]).factors] == ["b", "a", "c"]


def test_a_factor_that_does_not_vary_yet_is_noted_where_others_do() -> None:
    cells = cells_of("a", "b", r0="00", r1="01")
    seeds = dict.fromkeys(cells, 0)
    design = find_design(cells, seeds, factors=["a", "b"], references={"a": "1", "b": "1"})
    assert [f.levels for f in design.factors] == [("1", "0")] and design.constant == ("s.a",)
    with pytest.raises(BadInput, match="--factors s.a: the same in every finished run. They differ in: s.b"):
        find_design(cells, seeds, factors=["a"])


def test_what_the_chosen_factors_determine_follows_them() -> None:
    cells = cells_of("a", "b", r0="00", r1="11", r2="21")
    seeds = dict.fromkeys(cells, 0)
    (factor,) = find_design(cells, seeds, factors=["a"]).factors
    assert (factor.levels, factor.followers) == (("0", "1", "2"), ("s.b",))
    free = find_design(cells, seeds)
    assert [len(matched_pairs(free, 0, level)) for level in ("1", "2")] == [0, 0]


def test_pairs_agree_in_the_seed() -> None:
    cells = cells_of("a", "b", r0="00", r1="10", r2="10", r3="01", r4="11")
    design = find_design(cells, {"r0": 0, "r1": 0, "r2": 1, "r3": 1, "r4": 1})
    assert [(p.run, p.reference, p.seed) for p in matched_pairs(design, 0, "1")] == [("r1", "r0", 0), ("r4", "r3", 1)]


def test_the_reference_can_be_chosen() -> None:
    cells = cells_of("a", r0="0", r1="1", r2="2")
    (factor,) = find_design(cells, dict.fromkeys(cells, 0), references={"a": "2"}).factors
    assert factor.levels == ("2", "0", "1") and factor.reference == "2"


def test_missing_cells_are_named() -> None:
    cells = cells_of("a", "b", r0="00", r1="01", r2="10")
    design = find_design(cells, dict.fromkeys(cells, 0))
    assert list(missing_cells(design)) == [(("1", "1"), (0,))]
    two = find_design(cells, {"r0": 0, "r1": 3, "r2": 0})
    assert list(missing_cells(two)) == [
        (("0", "0"), (3,)),
        (("0", "1"), (0,)),
        (("1", "0"), (3,)),
        (("1", "1"), (0, 3)),
    ]


def test_two_settings_of_one_name_are_told_apart() -> None:
    cells = {f"r{i}": {"sft.rate": a, "rl.rate": b} for i, (a, b) in enumerate(itertools.product((1, 2), (1, 2)))}
    seeds = dict.fromkeys(cells, 0)
    assert [factor.name for factor in find_design(cells, seeds).factors] == ["rl.rate", "sft.rate"]
    with pytest.raises(BadInput, match="may be rl.rate or sft.rate"):
        find_design(cells, seeds, factors=["rate"])
    design = find_design(cells, seeds, factors=["trainer.rl.rate"])
    assert [(f.key, f.held) for f in design.factors] == [("rl.rate", False), ("sft.rate", True)]


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        ({"r0": {"a": 1}}, {}, "needs two finished RL runs that differ; there is 1"),
        ({"r0": {"a": 1}, "r1": {"a": 1}}, {}, "nothing but the seed varies among the 2 finished RL runs"),
        (
            cells_of("a", "b", r0="00", r1="11", r2="01"),
            {"factors": ["aa"]},
            "do not differ in it.*differ in: s.a, s.b",
        ),
        (cells_of("ratio", r0="0", r1="1"), {"factors": ["s.ration"]}, "Did you mean 's.ratio'"),
        (cells_of("a", r0="0", r1="1"), {"references": {"a": "7"}}, "no run has that; the levels are 0, 1"),
        (cells_of("a", r0="0", r1="1"), {"references": {"b": "0"}}, "--reference b: the runs do not differ in it"),
        (cells_of("a", r0="0", r1="1", r2="1"), {}, "r1 and r2 have the same settings and the same seed"),
    ],
)
def test_what_makes_no_design_is_said(cells: dict, options: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        find_design(cells, dict.fromkeys(cells, 0), **options)


# The command.


def test_it_writes_and_shows_both_tables(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cells(runs, helps, absent=[("sequence", "token")])
    out = tmp_path / "reports/ablation"
    assert command(runs, out, "--reference", "credit=sequence") == 0
    assert sorted(file.name for file in out.glob("[!.]*")) == FILES
    shown = capsys.readouterr().out
    for words in ("Combinations: mini, tiny", "Main effects: mini, tiny", "rank vs. sequence", "Δ NDCG@10 to SFT"):
        assert words in shown
    assert shown.count("Missing 1 of 6 cells (credit · ratio): sequence · token.") == 1
    assert shown.count("† One seed") == 2
    last = shown.rstrip().splitlines()[-7:]
    assert last[0] == "Wrote" and sorted(line.strip() for line in last[1:]) == [str(out / name) for name in FILES]
    for name in ("grid.md", "effects.md"):
        assert "- Missing 1 of 6 cells (credit · ratio): sequence · token." in (out / name).read_text()
    effects = list(csv.DictReader((out / "effects.csv").open()))
    assert [(e["factor"], e["level"], e["pairs"]) for e in effects] == [
        ("algorithm.credit", "rank", "2"),
        ("algorithm.ratio", "sequence", "2"),
        ("algorithm.ratio", "token", "1"),
    ]
    assert effects[2]["ndcg@10_difference_lo"] == "" and effects[0]["one_seed"] == effects[0]["seeds"] == "1"
    assert all(effect["p"] == effect["p_holm"] == "" for effect in effects)
    low, mean, high = (float(effects[0][f"ndcg@10_difference{end}"]) for end in ("_lo", "", "_hi"))
    assert low < mean < high and mean == pytest.approx(0.04, abs=0.01)
    grid = list(csv.DictReader((out / "grid.csv").open()))
    assert len(grid) == 5 and {row["algorithm.credit"] for row in grid} == {"rank", "sequence"}
    assert "**" not in (out / "effects.md").read_text()


def test_two_calls_write_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    write_cells(runs, helps, seeds=2, contexts=20)
    one, two = tmp_path / "one", tmp_path / "two"
    assert command(runs, one) == command(runs, two) == 0
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_unfinished_runs_are_named_and_count_as_missing(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cells(runs, helps, seeds=2, contexts=20)
    path = next(runs.glob("*/*/rank_grpo-relevance@rank-token/seed1-*"))
    (path / "STATUS").write_text("running\n")
    assert command(runs, tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert f"{path.relative_to(runs)}: not finished (running or interrupted)" in shown
    assert "Missing 1 of 12 cells (credit · ratio): rank · token (seed 1)." in shown


def test_long_lists_of_missing_cells_are_cut(runs: Path) -> None:
    names = [f"v{i:02d}" for i in range(8)]
    kept = {("v00", name) for name in names} | {(name, "v00") for name in names}
    absent = [cell for cell in itertools.product(names, names) if cell not in kept]
    write_cells(runs, lambda _: 0.0, factors={"credit": names, "ratio": names}, absent=absent, contexts=5)
    assert built(runs).missing.endswith("; v06 · v05; and 9 more.")


def test_a_random_search_has_no_end_of_missing_cells_and_is_shown_at_once(runs: Path) -> None:
    factors = {f"f{k}": [f"v{i}" for i in range(12)] for k in range(9)}
    kept = [tuple(f"v{(i * (k + 1)) % 12}" for k in range(9)) for i in range(12)]
    for i, cell in enumerate(kept):
        identity = {"algorithm": dict(zip(factors, cell, strict=True))}
        predictions = queries(dict.fromkeys(METRICS, [0.1 + 0.01 * i]) | {"in_catalog": [1.0]}, ["a"])
        write_run(runs, f"grpo-relevance@{i}", 0, predictions, spent=SPENT, identity=identity)
    assert re.search(r"^Missing [\d,]+ of [\d,]+ cells .*; and [\d,]+ more\.$", built(runs).missing)


def test_one_pair_of_unequal_budgets_marks_an_effect(runs: Path) -> None:
    odd = {"credit": "rank", "ratio": "token"}
    write_cells(runs, helps, contexts=10, spent=lambda levels: budget(90 if levels == odd else 60))
    assert {(one.factor, one.level): UNEQUAL in one.marks for one in built(runs).effects} == {
        ("algorithm.credit", "sequence"): True,
        ("algorithm.ratio", "sequence"): False,
        ("algorithm.ratio", "token"): True,
    }


def test_unequal_budgets_are_marked(runs: Path) -> None:
    write_cells(runs, helps, spent=lambda levels: budget(90 if levels["ratio"] == "token" else 60))
    ablation = built(runs)
    assert [UNEQUAL in row.marks for row in ablation.rows] == [row.levels[1] == "token" for row in ablation.rows]
    assert [UNEQUAL in effect.marks for effect in ablation.effects] == [False, False, True]
    assert not any(effect.clear for effect in ablation.effects if UNEQUAL in effect.marks)
    assert any(
        note.startswith(UNEQUAL) and "rank · token, sequence · token: 90" in note for note in ablation.grid_notes
    )
    assert any(note.startswith(UNEQUAL) for note in ablation.effect_notes)


def test_without_sft_there_is_no_difference_to_it(runs: Path) -> None:
    write_cells(runs, helps, sft=False)
    ablation = built(runs)
    assert all(row.difference is None for row in ablation.rows)
    assert any("no finished SFT run" in note for note in ablation.grid_notes)


def test_runs_without_identity_are_left_out_by_name(runs: Path) -> None:
    write_cells(runs, helps)
    path = next(runs.glob("*/*/rank_grpo-relevance@rank-token/seed0-*"))
    (path / "identity.json").unlink()
    seal(path)
    ablation = built(runs)
    assert len(ablation.rows) == 5
    assert any("without identity.json" in note and path.name in note for note in ablation.grid_notes)


def test_no_pair_no_effect_and_no_picture(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {("rank", "rank"), ("sequence", "token"), ("sequence", "sequence")}
    absent = [cell for cell in itertools.product(*FACTORS.values()) if cell not in kept]
    write_cells(runs, helps, absent=absent)
    (tmp_path / "effects.png").write_text("of an earlier sweep")
    assert command(runs, tmp_path, "--reference", "ratio=rank") == 0
    assert not (tmp_path / "effects.png").exists() and (tmp_path / "effects.md").exists()
    assert "No two runs differ in one factor alone" in capsys.readouterr().out
    assert command(runs, tmp_path, "--factors", "ratio") == 0
    assert "algorithm.ratio: along with it differ algorithm.credit" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "effects.png").exists()


def test_the_picture_has_every_effect(runs: Path) -> None:
    write_cells(runs, helps)
    figure = draw_effects(built(runs))
    assert figure is not None
    (ax,) = figure.axes
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["credit", "sequence vs. rank", "ratio", "sequence vs. rank", "token vs. rank"]
    assert "NDCG@10" in ax.get_xlabel()
    texts = [text.get_text() for text in ax.texts]
    assert texts[:3] == ["Δ NDCG@10 [95 %]", "p", "Pairs"]
    assert texts[4::3] == ["–", "–", "–"] and texts[5::3] == ["3", "2", "2"]
    assert "one seed" in figure.legends[0].get_texts()[0].get_text()


@pytest.mark.parametrize(("p", "text"), [(0.0342, ".034"), (0.0004, "<.001"), (1.0, "1.000"), (0.0005, ".001")])
def test_chance(p: float, text: str) -> None:
    assert chance(p) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metric", "ndgc@10"], "--metric ndgc@10: not every run has it on test. Did you mean 'ndcg@10'?"),
        (["--factors", "credit,surrogate"], "--factors surrogate: the runs do not differ in it."),
        (["--reference", "credit=token"], "--reference algorithm.credit=token: no run has that"),
    ],
)
def test_names_that_the_runs_do_not_have_end_with_2(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    write_cells(runs, helps, contexts=10)
    assert command(runs, tmp_path / "out", *options) == 2
    assert capsys.readouterr().err.startswith(f"analysis.ablation: {message}")
    assert not (tmp_path / "out").exists()


def test_too_little_ends_with_2(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path / "nowhere", tmp_path / "out") == 2
    assert "there is no folder" in capsys.readouterr().err
    runs.mkdir()
    assert command(runs, tmp_path / "out") == 2
    assert "no finished run below" in capsys.readouterr().err
    write_cells(runs, helps, factors={"credit": ["rank"], "ratio": ["rank"]}, contexts=10)
    assert command(runs, tmp_path / "out") == 2
    assert "needs two finished RL runs that differ; there is 1" in capsys.readouterr().err
    write_run(runs, "sft", 0, queries({"recall@10": [0.1], "ndcg@10": [0.1], "in_catalog": [1.0]}, ["a"]),
              cutoffs=[10], group="other/mini-tiny")  # fmt: skip
    assert command(runs, tmp_path / "out") == 2
    assert "give the folder of one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_as_a_command() -> None:
    call = [sys.executable, "-m", "analysis.ablation"]
    told = subprocess.run([*call, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0
    for word in ("RUNS", "--factors KEY,...", "--reference KEY=LEVEL,...", "--metric", "effects.png", "example:"):
        assert word in told.stdout


def test_a_reference_without_a_level_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["runs", "--reference", "credit"])
    assert "'credit' is not of the form KEY=LEVEL" in capsys.readouterr().err
