"""Each part of a report's page against numbers computed by hand or by a slow method."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import statistics
from analysis.collection import SPENDING, Collection, Queries, collect
from analysis.collection.measurements import Measurements
from analysis.collection.origins import origins
from analysis.figures.series import mean_and_band, row_names
from analysis.figures.style import styles
from analysis.html import group_page, index_page
from analysis.html.curve_data import NUMBERS, curve_data, thinned
from analysis.html.provenance import combined
from analysis.html.rows import Look, looks, shared_words
from analysis.html.samples import bounded, sample_data, spread
from analysis.html.settings import differing
from analysis.problems import Problem
from analysis.report import main
from analysis.statistics import Scores
from analysis.tables.build import build_table
from analysis.tables.cautions import cautions
from analysis.tables.headline import sentences
from analysis.tables.write import comparisons_sheet
from rlbench.runs.directory import seal
from tests.helpers_analysis import edit_result, queries, write_run
from tests.helpers_curves import Frames
from tests.helpers_report import names_of, rows_of, verdict, write_full_sweep

GAINS = {"grpo-relevance": 0.02, "rank_grpo-relevance": 0.09, "rank_grpo-log_decay": 0.085}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "runs"
    write_full_sweep(folder, GAINS, seeds=3, contexts=30, updates=60)
    return folder


def page(runs: Path, **options: int) -> str:
    collection = collect(runs)
    (group,) = collection.groups()
    resampled = {"resamples": 100} | options
    return group_page(group, build_table(group, **resampled), runs, collection.problems)


def test_the_same_runs_give_the_same_bytes(runs: Path) -> None:
    assert page(runs) == page(runs)


def test_the_page_names_no_other_file(runs: Path) -> None:
    made = page(runs)
    assert not re.search(r"""(src|href|action|data)\s*=\s*["']?(?!#|data:,)[^"'\s>]*(//|\.(js|css|png))""", made)
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttpRequest|import\(", made)
    links = set(re.findall(r'href="([^"]*)"', made))
    assert links and all(link.startswith("#") or link == "data:," for link in links)


def test_only_the_pages_own_script_may_run(runs: Path) -> None:
    made = page(runs)
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", made, re.S)
    assert [attributes for attributes, _ in scripts] == [' type="application/json" id="data"', ""]
    assert "default-src &#x27;none&#x27;" in made and made.count("sha256-") == 1
    assert "<img" not in made


# Headline.


def scores(level: float, seeds: int, spread_of_seeds: float, stream: int) -> Scores:
    rng = np.random.default_rng(stream)
    of_seed = spread_of_seeds * rng.standard_normal((seeds, 1, 1))
    values = level + of_seed + 0.05 * rng.standard_normal((seeds, 80, 1))
    return Scores(values, np.arange(80), tuple(range(seeds)))


def test_a_lead_is_the_largest_p_of_its_differences() -> None:
    rows = {"c": scores(0.2, 5, 0.004, 3), "a": scores(0.30, 5, 0.004, 1), "b": scores(0.29, 5, 0.004, 2)}
    found = verdict(rows, 500)
    assert (found.leader, [one.label for one in found.over]) == ("a", ["b", "c"])
    for one in found.over:
        estimate = statistics.paired_difference(rows["a"], rows[one.label], resamples=500)
        assert one.difference.p == estimate.p[0] and one.reason == ""
        assert one.difference.mean == pytest.approx(rows["a"].values.mean() - rows[one.label].values.mean())
    assert found.lead is not None and found.over[1].wins == 1.0
    assert found.lead.p == found.lead.p_holm == found.over[0].difference.p  # one test, so no correction
    assert found.lead.holds == (found.lead.p < 0.05)


def test_the_leader_is_the_row_with_the_highest_mean_and_not_the_best_seed() -> None:
    lucky = scores(0.2, 3, 0.0, 1)
    lucky = Scores(lucky.values + np.array([0.15, -0.05, -0.05])[:, None, None], lucky.contexts, lucky.seeds)
    assert verdict({"lucky": lucky, "steady": scores(0.23, 3, 0.0, 2)}, 50).leader == "steady"


@pytest.mark.parametrize("seeds", [1, 2])
def test_with_fewer_than_three_seeds_no_lead_holds(seeds: int) -> None:
    rows = {"a": scores(0.5, seeds, 0, 1), "b": scores(0.2, seeds, 0, 2), "c": scores(0.2, 3, 0, 3)}
    found = verdict(rows, 200)
    assert found.lead is not None and found.over[0].difference.p is not None and found.over[0].difference.p < 0.05
    assert not found.lead.holds and found.lead.p_holm is None and found.detectable is None


@pytest.mark.slow
def test_equal_methods_seldom_have_a_lead_that_holds() -> None:
    held = 0
    for trial in range(200):
        rows = {name: scores(0.3, 3, 0.01, 10 * trial + i) for i, name in enumerate("abcd")}
        lead = verdict(rows, 20).lead
        held += lead is not None and lead.holds
    assert held <= 10


def test_the_headline_in_words(runs: Path) -> None:
    (group,) = collect(runs).groups()
    names = {look.label: look.name for look in looks(group)}
    rows = {label: scores(level, 3, 0.002, 20 + i) for i, (label, level) in enumerate(
        [("grpo-relevance", 0.1), ("rank_grpo-relevance", 0.3), ("rank_grpo-log_decay", 0.2)])}  # fmt: skip
    told = sentences(verdict(rows, 200), names)
    assert told[0].startswith("rank_grpo · relevance has the highest NDCG@10 on test: .295 [")
    assert "over rank_grpo · log_decay, the next, is +.094 [" in told[1]
    assert "It is shown to be better than every other row (p " in told[1]
    assert told[1].endswith("corrected for one test in this report).")
    assert "With 3 seeds and 80 test contexts a true difference of ." in told[-1]


def test_a_third_rows_budget_is_told_and_left_out(runs: Path) -> None:
    (group,) = collect(runs).groups()
    names = {look.label: look.name for look in looks(group)}
    rows = {label: scores(level, 3, 0.002, 20 + i) for i, (label, level) in enumerate(
        [("grpo-relevance", 0.1), ("rank_grpo-relevance", 0.3), ("rank_grpo-log_decay", 0.2)])}  # fmt: skip
    found = verdict(rows, 200, {"grpo-relevance": (9, 9, 9)})
    told = sentences(found, names)
    assert "It is shown to be better than 1 of 2 other rows (p " in told[1]
    assert told[1].endswith("Not compared: grpo · relevance (another budget).")
    assert told[2].startswith("Budgets are unequal (grpo · relevance marked ‡)")


def test_one_seed_in_words(runs: Path) -> None:
    (group,) = collect(runs).groups()
    names = {look.label: look.name for look in looks(group)}
    rows = {"grpo-relevance": scores(0.1, 1, 0, 1), "rank_grpo-relevance": scores(0.3, 1, 0, 2)}
    told = " ".join(sentences(verdict(rows, 100), names))
    assert "With one seed, this compares trained models and says nothing about methods." in told
    assert "shown" not in told
    two = {"grpo-relevance": scores(0.1, 2, 0, 1), "rank_grpo-relevance": scores(0.3, 2, 0, 2)}
    told = " ".join(sentences(verdict(two, 100), names))
    assert "No verdict can be given: grpo · relevance (2 seeds)." in told and "shown" not in told


def test_headline_leader_table_bold_and_notes_say_the_same(runs: Path) -> None:
    (group,) = collect(runs).groups()
    table = build_table(group, resamples=100)
    (lead,) = table.leads
    made = page(runs)
    bold = {row.label for row in table.rows if row.bold}
    assert bold == ({lead.label} if lead.holds else set())
    assert ("It is shown to be better than" in made) == lead.holds
    assert made.count("shown to be better than every compared row") == 1
    assert f"corrected for {lead.tests} tests in this report" in made
    assert lead.tests == 4  # three rows against SFT, and the leading row
    assert made.count(table.family) == 1, "one family, stated once"
    in_table = [[cell.text for cell in line.cells[1:3]] for line in comparisons_sheet(table).lines]
    assert [row[2:4] for row in rows_of(made, "against-baseline")] == in_table, "the page prints the p of the table"


# Rows.


def test_rows_have_the_names_of_the_tables(runs: Path) -> None:
    (group,) = collect(runs).groups()
    assert [look.name for look in looks(group)][:3] == ["oracle", "zero-shot", "SFT"]
    assert [look.name for look in looks(group)][3:] == [
        "grpo · relevance", "rank_grpo · log_decay", "rank_grpo · relevance",
    ]  # fmt: skip
    one_reward = replace(group, runs=group.runs[group.runs["reward"] != "log_decay"])
    assert [look.name for look in looks(one_reward)][3:] == ["grpo · relevance", "rank_grpo · relevance"]
    for rows in (group, one_reward):
        in_table = {row.label: row.name for row in build_table(rows, resamples=20).rows}
        assert names_of(rows) == in_table
        assert {label: in_table[label] for label in row_names(rows)} == row_names(rows)
    assert shared_words(one_reward.runs) == "reward relevance"


def test_no_two_rows_look_alike() -> None:
    names = [f"variant{i}" for i in range(30)]
    frame = pd.DataFrame({"stage": "rl", "algorithm": "grpo", "variant": names, "seed": 0, "run": names})
    frame = frame.assign(label=[f"grpo-relevance@{name}" for name in names], reward=[f"relevance @ {n}" for n in names])
    assert len({(style["color"], str(style["linestyle"])) for style in styles(frame).values()}) == 30


def test_the_best_on_validation_is_the_top_of_the_mean_curve(tmp_path: Path) -> None:
    scores = {name: [0.25, 0.75] for name in ("recall@5", "recall@10", "ndcg@5", "ndcg@10", "in_catalog")}
    for seed, curve in enumerate([(0.2, 0.6, 0.3), (0.2, 0.3, 0.5)]):  # the mean is highest in the middle
        points = [(10 * i, "validation", "ndcg@10", value) for i, value in enumerate(curve)]
        write_run(tmp_path / "runs", "grpo-hits", seed, queries(scores, ["a", "b"]), curves=points)
    write_run(tmp_path / "runs", "sft", 0, queries(scores, ["a", "b"]), validation={"ndcg@10": 0.31})
    cells = {row[0].strip(): row for row in rows_of(page(tmp_path / "runs"), "comparison")}
    assert cells["grpo · hits"][7] == ".450update 10" and cells["SFT †"][7] == ".310"


# Curves.


def test_bands_are_intervals_over_seeds() -> None:
    values = np.random.default_rng(3).normal(0.3, 0.02, size=(5, 40))
    mean, low, high = mean_and_band(values)
    slow = [stats.t.interval(0.95, 4, loc=one.mean(), scale=stats.sem(one)) for one in values.T]
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(np.stack([low, high], axis=1), slow)
    np.testing.assert_array_equal(mean_and_band(values[:2])[1], values[:2].min(axis=0))


def test_seeds_are_averaged_where_all_of_them_were_measured() -> None:
    rows = [("a", 0, 1.0), ("a", 1, 2.0), ("a", 2, 3.0), ("b", 1, 4.0), ("b", 2, 5.0), ("b", 3, 6.0)]
    frame = pd.DataFrame(rows, columns=["run", "step", "value"]).assign(split="train", metric="loss")
    measured = Measurements(frame)
    found = measured.together(["b", "a"], "train", "loss")
    assert found is not None
    assert found[0].tolist() == [1, 2] and found[1].tolist() == [[4, 5], [2, 3]]
    assert measured.together(["a", "c"], "train", "loss") is None


def test_thinning_keeps_both_ends() -> None:
    kept = thinned(1001, 101)
    assert (len(kept), kept[0], kept[-1]) == (101, 0, 1000)
    assert thinned(7, 101).tolist() == list(range(7))


def test_heat_maps_average_updates_of_a_column(runs: Path) -> None:
    (group,) = collect(runs).groups()
    rows = looks(group)
    data = curve_data(group, rows)
    (heat,) = [one for one in data["heat"] if one["key"] == "train/reward"]
    assert heat["ranks"] == list(range(1, 11))
    row, spans, means = heat["rows"][0]
    curves = group.curves
    first = curves[(curves["metric"] == "reward@3") & curves["run"].isin(rows[row].runs)]
    low, high = spans[7]
    expected = first[first["step"].between(low, high)]["value"].mean()
    assert means[2][7] == pytest.approx(expected, rel=1e-2)
    assert spans[0][0] == 1 and spans[-1][1] == 60


def test_curves_of_many_runs_stay_small() -> None:
    rows, metrics, updates = 40, 30, 250
    rng = np.random.default_rng(0)
    runs = [f"m{row:02d}-relevance/seed{seed}" for row in range(rows) for seed in range(2)]
    metric = [f"metric{i}" for i in range(metrics)]
    index = pd.MultiIndex.from_product([runs, metric, range(1, updates + 1)], names=["run", "metric", "step"])
    curves = pd.DataFrame({"value": rng.random(len(index))}, index=index).reset_index().assign(split="train")
    frame = pd.DataFrame({"run": runs, "stage": "rl", "reward": "relevance", "cutoffs": [(5, 10)] * len(runs)})
    found = [
        Look(f"m{row:02d}", "rl", f"m{row:02d}", "#000000", (), tuple(runs[2 * row : 2 * row + 2]), (0, 1))
        for row in range(rows)
    ]
    source = Frames(curves, pd.DataFrame(columns=["run", "update", *SPENDING]))
    data = curve_data(Collection(frame, Queries(source, {}), source), found)
    assert data["thinned"] and data["points"] == NUMBERS // (3 * metrics * rows)
    kept = [len(one[2]) for of_metric in data["series"].values() for one in of_metric]
    assert len(kept) == rows * metrics and set(kept) == {data["points"]}
    assert len(json.dumps(data)) < 10 * NUMBERS


# Samples.


def test_samples_are_bounded_for_all_rows_alike_and_counted(runs: Path) -> None:
    (group,) = collect(runs).groups()
    rows = looks(group)
    whole = sample_data(rows, runs)
    limit = len(json.dumps(whole["greedy"])) // 2
    part = sample_data(rows, runs, limit=limit)
    left = [len(whole[kind]) - len(part[kind]) for kind in ("greedy", "groups")]
    assert whole["leftOut"] == [] and left[0] > 0
    assert part["leftOut"][0] == f"{left[0]} lists left out to keep this page small"
    assert len(part["leftOut"]) == 1 + (left[1] > 0)
    places: dict[tuple[int, int], set[int]] = {}
    for row, step, context, *_ in part["greedy"]:
        places.setdefault((step, context), set()).add(row)
    trained = {i for i, look in enumerate(rows) if look.stage == "rl"}
    assert all(trained <= there for (step, _), there in places.items() if step > 0)
    assert len(json.dumps(part["greedy"])) <= limit + 100


def test_what_is_kept_is_spread_over_contexts_and_updates() -> None:
    keys = [(step, place) for step in (0, 10, 20, 30, 40) for place in "abc"]
    order = spread(keys)
    assert order[0] == (40, "a")
    assert set(order[:3]) == {(40, "a"), (0, "a"), (40, "b")}
    assert sorted(order) == sorted(keys)


def test_a_list_stands_with_what_it_was_judged(runs: Path) -> None:
    (group,) = collect(runs).groups()
    rows = looks(group)
    data = sample_data(rows, runs)
    row, step, context, lists = data["groups"][0]
    raw = [
        json.loads(line) for line in (runs / rows[row].runs[0] / "rollouts.jsonl").read_text("utf-8").split("\n")[:-1]
    ]
    (same,) = [one for one in raw if one["step"] == step]
    assert data["contexts"][context]["prompt"] == same["prompt"]
    for shown, written in zip(lists, same["lists"], strict=True):
        assert shown[0] == written["reward"]
        for (title, code, worth, credit), rank in zip(shown[3], written["ranks"], strict=True):
            assert data["titles"][title] == f"{rank[0]} ({rank[1]})" and data["verdicts"][code] == rank[2]
            assert (worth, credit) == (rank[3], round(rank[4], 4))


def test_nothing_is_kept_of_a_limit_of_nothing() -> None:
    kept, left = bounded(
        {0: [{"step": 0, "context_id": "a"}]}, lambda one: one["context_id"], lambda r, s: [r, 0, 0], 0
    )
    assert (kept, left) == ([], 1)


# Settings, provenance, warnings.


def test_settings_that_differ_and_that_are_shared() -> None:
    differ, shared = differing({"a": {"x": 1, "y": True, "z": "s"}, "b": {"x": 1, "y": False}})
    assert (differ, shared) == (["y", "z"], {"x": 1})


def test_one_command_where_a_product_makes_the_runs() -> None:
    made = [{"algorithm": a, "seed": s, "experiment": "m"} for a in ("grpo", "gspo") for s in ("0", "1")]
    assert combined(made) == "python run.py -m algorithm=grpo,gspo seed=0,1 experiment=m"
    assert combined(made[:3]) is None
    assert combined(made[:1]) == "python run.py algorithm=grpo seed=0 experiment=m"


def titles(runs: Path) -> set[str]:
    collection = collect(runs)
    (group,) = collection.groups()
    found = cautions(
        group, build_table(group, resamples=20), names_of(group), origins(group, runs), None, collection.problems
    )
    return {caution.title for caution in found}


def test_warnings(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_full_sweep(runs, {"grpo-relevance": 0.02, "rank_grpo-relevance": 0.09}, seeds=3, contexts=20, updates=20)
    assert titles(runs) == {"Few seeds", "Degenerate groups"}
    paths = sorted((runs / "mini/mini-tiny/grpo-relevance").iterdir())
    result = json.loads((paths[0] / "result.json").read_text())
    edit_result(
        paths[0],
        stopped={"update": 12, "reason": "entropy"},
        budget=result["budget"] | {"updates": 12},
        checkpoint={"rule": "best", "step": 20},
    )
    manifest = json.loads((paths[1] / "manifest.json").read_text())
    manifest["git"] = {"commit": "f" * 40, "dirty": True, "changed": ["rlbench/training/trainer.py", "conf/new.yaml"]}
    manifest["versions"]["torch"] = "2.14.0"
    manifest["hardware"]["threads"] = 7
    (paths[1] / "manifest.json").write_text(json.dumps(manifest))
    lines = [
        f'{{"step": {i}, "split": "train", "metric": "{metric}", "value": {value}}}\n'
        for i in range(21)
        for metric, value in (("entropy", 2.0 if i < 5 else 0.01), ("experts_silent", 0.5))
    ]
    with (paths[1] / "metrics.jsonl").open("a") as file:
        file.writelines([*lines, '{"step": 3, "split": "train", "metric": "loss", "value": NaN}\n'])
    seal(paths[1])
    (paths[2] / "STATUS").write_text("failed\nno memory\n")
    assert titles(runs) == {
        "Two seeds", "Few seeds", "Missing seeds", "Unequal budgets", "Stopped early", "Degenerate groups",
        "Collapsed entropy", "Silent experts", "Gaps in curves", "Different code", "Uncommitted code",
        "Different hardware", "Different versions", "Different checkpoint rules",
    }  # fmt: skip
    made = page(runs)
    assert "made with code that was not committed: conf/new.yaml and rlbench/training/trainer.py." in made
    assert "no memory" in made and "stopped early at update 12" in made


def test_runs_of_different_versions_are_named(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_full_sweep(runs, {"grpo-relevance": 0.02, "rank_grpo-relevance": 0.09}, seeds=2, contexts=10, updates=10)
    odd = sorted((runs / "mini/mini-tiny/grpo-relevance").iterdir())[0]
    older = sorted((runs / "mini/mini-tiny/sft").iterdir())[0]

    def put(run: Path, **versions: str) -> None:
        manifest = json.loads((run / "manifest.json").read_text())
        manifest["versions"] |= versions
        (run / "manifest.json").write_text(json.dumps(manifest))
        seal(run)

    def told() -> dict[str, str]:
        collection = collect(runs)
        (group,) = collection.groups()
        found = cautions(
            group, build_table(group, resamples=20), names_of(group), origins(group, runs), None, collection.problems
        )
        return {caution.title: caution.told for caution in found if "ersions" in caution.title}

    put(older, tokenizers="0.22.0")  # the other runs have not recorded it
    assert told() == {}
    put(odd, torch="2.14.0", tokenizers="0.22.0")
    assert told()["Different versions"] == (
        f"torch 2.14.0: grpo-relevance/{odd.name}; torch 2.13.0+cpu: the other 6 runs. All are named under Provenance."
    )
    put(older, torch="2.12.0")
    assert f"torch 2.12.0: sft/{older.name}; torch 2.14.0: grpo-rel" in told()["Different versions"]
    made = page(runs)
    table = made[made.index('id="runs-by-versions"') :]
    assert table[: table.index("</table>")].count("<tr") == 8  # one header row and seven runs
    (odd / "attempts/2").mkdir()
    changed = ["git.commit: 'a' there, 'b' now", "versions.torch: '2.14.0' there, '2.15.0' now"]
    (odd / "attempts/2/attempt.json").write_text(json.dumps({"number": 2, "changed": changed}))
    assert told()["Versions changed during a run"] == (
        f"An attempt went on with others: grpo-relevance/{odd.name} (torch: '2.14.0' there, '2.15.0' now)."
    )


# The command.


def test_the_command_writes_a_page_a_group_and_one_that_leads_to_them(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_full_sweep(runs, {"grpo-relevance": 0.02}, seeds=1, contexts=10, updates=10)
    other = runs / "second"
    write_full_sweep(other, {"grpo-relevance": 0.02}, seeds=1, contexts=10, updates=10)
    for file in other.rglob("result.json"):
        edit_result(file.parent, experiment="second")
    (next((runs / "mini/mini-tiny/grpo-relevance").iterdir()) / "STATUS").write_text("running\n")
    assert main([str(runs), "--out", str(tmp_path / "out"), "--resamples", "50"]) == 0
    index = (tmp_path / "out/report.html").read_text("utf-8")
    for name, left_out in (("mini/mini-tiny", True), ("second/mini-tiny", False)):
        assert f'href="{name}/report.html"' in index
        made = (tmp_path / "out" / name / "report.html").read_text("utf-8")
        assert ("not finished (running or interrupted)" in made) == left_out


def test_an_index_names_runs_that_belong_nowhere() -> None:
    made = index_page("Reports", [("mini, <tiny>", "mini/a b/report.html", 3)], "cost", [Problem("lost/run", "failed")])
    assert "mini, &lt;tiny&gt;" in made and 'href="mini/a%20b/report.html"' in made and "3 runs" in made
    assert "failed" in made
