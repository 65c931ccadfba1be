"""experiments/: every sweep is valid, has the cells stated in its README, and uses the reported numbers."""

import csv
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from analysis import reproduce
from rlbench.launching.recorded import RecordedCell, recorded_cells, recorded_sweeps
from rlbench.running import plan
from rlbench.running.checks import check_config
from rlbench.running.cli import EXPERIMENTS
from rlbench.running.runner import run
from rlbench.runs.directory import label_of, locate
from rlbench.runs.identity import canonical, config_hash, stage_settings
from tests.conftest import SMALL

SHARED = EXPERIMENTS.parent.parent / "shared" / "paper"
SWEEPS = [(folder, sweep) for folder, sweeps in recorded_sweeps().items() for sweep in sweeps]


@cache
def cells_of(folder: str, sweep: str) -> list[RecordedCell]:
    """The cells with distinct directories, as a sweep starts them."""
    cells = recorded_cells(folder, sweep)
    return list({place(cell): cell for cell in cells}.values())


def place(cell: RecordedCell) -> tuple[Path, str, str]:
    """What identifies a cell's directory, without the parts that need data or models."""
    config, stage = cell.config, cell.config.stage
    return config.group_dir, label_of(config, stage), config_hash(canonical(stage_settings(config, stage)))


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_there_is_a_folder_for_every_table_and_figure() -> None:
    wanted = {*(f"table{n}" for n in (1, 2, 3, 4, 5, 7))}
    wanted |= {f"figure_{n}" for n in ("sft", "rl", "rank_rewards", "in_catalogue", "overflow_penalty")}
    assert wanted <= set(recorded_sweeps()) and wanted == set(reproduce.known())
    for folder in wanted:
        assert {"sweep", "mini", "redial"} <= set(recorded_sweeps()[folder]), folder


@pytest.mark.parametrize(("folder", "sweep"), SWEEPS)
@pytest.mark.slow
def test_every_sweep_is_valid_and_has_the_cells_its_readme_states(folder: str, sweep: str) -> None:
    cells = cells_of(folder, sweep)
    assert [problem for cell in cells for problem in check_config(cell.config)] == []
    readme = (EXPERIMENTS / folder / "README.md").read_text()
    (stated,) = re.findall(rf"\| `{sweep}` \| (\d+) \|", readme)
    assert len(cells) == int(stated)
    if sweep == "mini":  # cells whose data are available
        listed = {step.run.root for step in plan.steps([cell.config for cell in cells])}
        assert {locate(cell.config, cell.config.stage).root for cell in cells} <= listed
    if sweep.startswith("sweep"):
        assert {cell.config.seed for cell in cells} == {3407}
        batch = {
            (c.config.trainer.rl.completions_per_update, c.config.trainer.rl.group_size, c.config.trainer.rl.adam_beta2)
            for c in cells
        }
        assert batch == {(384, 8, 0.99)}


@pytest.mark.parametrize(
    ("folder", "rates"),
    [
        (
            "table1",
            {
                "qwen2.5_0.5b": (1, 1e-6, {}),
                "llama3.2_1b": (1, 1e-6, {8000: 1e-7}),
                "llama3.2_3b": (1, 1e-6, {8000: 1e-7}),
            },
        ),
        pytest.param(
            "table4",
            {
                "qwen2.5_0.5b": (2, 1e-6, {}),
                "llama3.2_1b": (2, 5e-7, {4000: 2.5e-7, 8000: 1e-7, 12000: 5e-8}),
                "llama3.2_3b": (2, 5e-7, {8000: 5e-8}),
            },
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "table7",
            {name: (2, rate, {}) for name, rate in (("qwen2.5_0.5b", 1e-6), ("llama3.2_1b", 5e-7))},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_rates_are_those_of_the_paper(folder: str, rates: dict[str, tuple[int, float, dict[int, float]]]) -> None:
    clips = {"grpo": (0.2, 0.26), "gspo": (3e-4, 4e-4), "rank_grpo": (0.06, 0.08), "rank_grpo_published": (0.06, 0.08)}
    for cell in cells_of(folder, "sweep"):
        rl, algorithm = cell.config.trainer.rl, cell.config.algorithm
        if cell.config.model.name in rates:
            found = rl.num_iterations, rl.learning_rate, rl.learning_rate_steps
            assert found == rates[cell.config.model.name]
        assert rl.updates == (1300 if folder == "table7" else 15800)
        assert tuple(algorithm.options["clip"].values()) == clips[algorithm.name] and algorithm.kl.beta == 0.001


def test_the_twin_of_table_4_is_the_benchmark_with_both_rewards() -> None:
    """Its cells equal the runs of `experiment=mini reward=relevance,log_decay seed=0,1,2,3,4`."""
    from tests.conftest import composed

    hashes = {locate(cell.config, "rl").hash for cell in cells_of("table4", "mini")}
    for algorithm, reward in (("grpo", "log_decay"), ("gspo", "log_decay"), ("rank_grpo", "relevance")):
        config = composed("experiment=mini", f"algorithm={algorithm}", f"reward={reward}", "seed=3")
        assert locate(config, "rl").hash in hashes


@pytest.mark.parametrize("name", ["results.csv", "curves.csv"])
def test_the_projects_copy_is_what_was_reported(name: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("there is no ../shared/paper")
    assert (EXPERIMENTS / "reported" / name).read_bytes() == (SHARED / name).read_bytes()


def sft_points() -> Iterator[tuple[str, str, int, float]]:
    """(metric, backbone, step, value) of the table of SFT curves in ../shared/paper/facts.md."""
    text = (SHARED / "facts.md").read_text()
    rows = re.findall(r"^\| (\d+) \|(.*)\|$", text[text.index("SFT validation curves") :], re.M)
    for step, values in rows[:5]:
        for backbone, cell in zip(("Qwen2.5-0.5B", "Llama-3.2-1B", "Llama-3.2-3B"), values.split("|"), strict=True):
            at_5, at_20, percent = map(float, cell.split("/"))
            yield from (("ndcg@5", backbone, int(step), at_5), ("ndcg@20", backbone, int(step), at_20))
            yield "in_catalog", backbone, int(step), percent / 100


def test_points_of_figure_1_are_those_of_the_facts() -> None:
    if not SHARED.is_dir():
        pytest.skip("there is no ../shared/paper")
    kept = {
        (line["metric"], line["backbone"], int(line["step"]), round(float(line["value"]), 4))
        for line in lines(EXPERIMENTS / "reported" / "sft_curves.csv")
        if line["metric"] != "loss"
    }
    assert kept == {(metric, backbone, step, round(value, 4)) for metric, backbone, step, value in sft_points()}
    assert len(kept) == 45


@pytest.mark.parametrize("folder", reproduce.known())
def test_expected_numbers_are_rows_of_the_reported(folder: str) -> None:
    expected = lines(EXPERIMENTS / folder / "expected.csv")
    if folder.startswith("table"):
        reported = lines(EXPERIMENTS / "reported" / "results.csv")
        own = [line for line in reported if line["paper_table"] == folder.replace("table", "Table ")]
        assert [line for line in expected if line in own] == own and all(line in reported for line in expected)
    else:
        reported = [
            line for name in ("curves.csv", "sft_curves.csv") for line in lines(EXPERIMENTS / "reported" / name)
        ]
        assert all(line in reported for line in expected)
        regimes = {"figure_rl": {"on-policy", "mu=2"}, "figure_sft": {"sft"}, "figure_in_catalogue": {"sft"}}
        assert {line["regime"] for line in expected} == regimes.get(folder, set())


DEBUG = [*SMALL, "trainer.sft.updates=4", "trainer.rl.updates=2", "trainer.rl.completions_per_update=8"]
DEBUG += ["trainer.rl.group_size=4", "trainer.rl.micro_batch_size=8", "trainer.rl.save_every=2", "evaluation.every=2"]
DEBUG += ["generation.max_new_tokens=32", "evaluation.test_contexts=6"]


@pytest.mark.slow
def test_from_a_sweep_to_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Table 1's twin at debug size: real runs of two methods and two seeds, and the report on them."""
    folders = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]
    cells = recorded_cells("table1", "mini", [*DEBUG, *folders, "+method=grpo,rank_grpo_exp_inf", "seed=0,1"])
    assert len(cells) == 4
    for cell in cells:
        assert not check_config(cell.config)
        run(cell.config)
    capsys.readouterr()
    arguments = ["table1", "--twin", "mini", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert reproduce.main([*arguments, "--resamples", "200"]) == 0
    said = capsys.readouterr().out
    assert "python run.py +table1=mini +method=rank_grpo_log_decay" in said  # the run that was not started
    assert "Runs with other settings than the sweep's are used all the same" in said
    found = lines(tmp_path / "out" / "table1-mini.csv")
    gains = {line["method"]: line["verdict"] for line in found if line["kind"] == "gain" and "ndcg" in line["metric"]}
    assert gains["rank_grpo_log_decay"] == "no run"
    assert {gains["grpo"], gains["rank_grpo_exp_inf"]} == {"undecided: fewer than three seeds"}
    order = [line for line in found if line["kind"] == "order" and line["other"] == "grpo"]
    assert {line["seeds"] for line in order if line["method"] == "rank_grpo_exp_inf"} == {"2"}
    assert r"\toprule" in (tmp_path / "out" / "table1-mini.tex").read_text()

    assert reproduce.main(["table4", *arguments[1:]]) == 0  # the same runs do not belong to the other table
    said = capsys.readouterr().out
    assert "rl.num_iterations is 1, and here it must be 2" in said
    assert {line["verdict"] for line in lines(tmp_path / "out" / "table4-mini.csv") if line["kind"] == "gain"} == {
        "no run"
    }

    for figure in ("figure_rl", "figure_rank_rewards"):
        assert reproduce.main([figure, *arguments[1:]]) == 0
        said = capsys.readouterr().out
        assert (tmp_path / "out" / f"{figure}-mini.png").stat().st_size > 5000
    assert "No numbers of this figure are known" in said and "rank 10" in said
    changes = {line["method"]: line for line in lines(tmp_path / "out" / "figure_rl-mini.csv")}
    assert changes["grpo"]["seeds"] == "2" and changes["rank_grpo_log_decay"]["verdict"] == "no run"


REDIAL = EXPERIMENTS.parent.parent / "shared" / "data" / "redial"
OF_REDIAL = [text for text in DEBUG if not text.startswith(("dataset.", "evaluation.test"))]
OF_REDIAL += [f"dataset.path={REDIAL}", "evaluation.validation_contexts=6", "evaluation.test_contexts=20"]


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "twin"), [(folder, twin) for folder, twin in SWEEPS if twin in ("mini", "redial")])
def test_every_twin_from_its_command_to_its_page(folder: str, twin: str, tmp_path: Path) -> None:
    """`python run.py +FOLDER=TWIN`, at debug size and with two seeds, then `python -m analysis.reproduce`."""
    if twin == "redial" and not REDIAL.is_dir():
        pytest.skip("there is no ../shared/data/redial")
    cells_of(folder, twin)
    own = [*(DEBUG if twin == "mini" else OF_REDIAL), "seed=0,1", "hydra.launcher.jobs=2"]
    if folder in ("figure_sft", "figure_in_catalogue"):
        own = [*(text for text in own if text != "seed=0,1"), "trainer.sft.seed=0,1", "trainer.sft.evaluate_every=2"]
    folders = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]
    done = subprocess.run(
        [sys.executable, str(EXPERIMENTS.parent / "run.py"), f"+{folder}={twin}", *own, *folders],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    made = [*("--runs", str(tmp_path / "runs")), *("--out", str(tmp_path / "out")), *("--resamples", "200")]
    assert reproduce.main([folder, "--twin", twin, *made]) == 0
    page = (tmp_path / "out" / f"{folder}-{twin}.md").read_text()
    assert "No run yet" not in page or folder == "table2"  # rows of ReDial are left out
    assert folder in ("figure_rank_rewards", "figure_overflow_penalty") or "verdict" in page.lower()
