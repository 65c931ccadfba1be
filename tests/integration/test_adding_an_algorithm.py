"""docs/adding-an-algorithm.md works as written: its commands, pieces, checks and refusals."""

import hashlib
import json
import re
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from rlbench.base.errors import BadInput
from rlbench.running.cli import CONF, check_overrides
from tests.conftest import SMALL, composed
from tests.helpers_forked import Forked, run_py

ROOT = CONF.parent
PAGE = (ROOT / "docs" / "adding-an-algorithm.md").read_text(encoding="utf-8")
EXAMPLE = "examples/adding_an_algorithm"
OWN, PLUGIN = f"{EXAMPLE}/conf", f"{EXAMPLE}/median_baseline.py"
SHORT = [*SMALL, "+debug=smoke", "evaluation.validation_contexts=null", "evaluation.test_contexts=null"]


def blocks(language: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The arguments of each command of the page, without `python run.py`."""
    lines = re.findall(r"^    python run\.py((?:.*\\\n)*.*)$", PAGE, flags=re.MULTILINE)
    return [shlex.split(line.replace("\\\n", "")) for line in lines]


@dataclass(frozen=True)
class Folder:
    """Folder of the page's runs. They share stages, each made once."""

    path: Path

    def run(self, arguments: Sequence[str], *more: str) -> Forked:
        places = [f"runs_dir={self.path / 'runs'}", f"cache_dir={self.path / 'cache'}"]
        return run_py(self.path / "log.txt", *arguments, *more, *SHORT, *places)

    def root(self, label: str, seed: int = 0) -> Path:
        """The only run directory of a label and a seed."""
        (root,) = (self.path / "runs" / "smoke" / "mini-tiny" / label).glob(f"seed{seed}-*")
        return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("adding"))


def is_done(root: Path) -> bool:
    return (root / "STATUS").read_text() == "done\n"


def has_plugin(root: Path) -> bool:
    plugins = json.loads((root / "manifest.json").read_text())["plugins"]
    return plugins == {PLUGIN: hashlib.sha256((ROOT / PLUGIN).read_bytes()).hexdigest()}


def test_the_files_that_the_page_shows_are_those_of_the_example():
    shown = [block.split("\n", 1) for language in ("python", "yaml") for block in blocks(language)]
    shown = {first.removeprefix("# "): text for first, text in shown if first.startswith(f"# {EXAMPLE}")}
    there = [path for path in (ROOT / EXAMPLE).rglob("*") if path.suffix in (".py", ".yaml")]
    assert shown == {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in there}


@pytest.mark.slow
def test_a_method_of_known_pieces(folder):
    known, _, _ = commands()
    done = folder.run(known)
    assert done.wait() == 0, done.output()
    root = folder.root("ordinal_rank_grpo-relevance")
    identity = json.loads((root / "identity.json").read_text())
    usual = composed("algorithm=rank_grpo").algorithm
    assert is_done(root) and identity["algorithm"]["baseline"] == "ordinal"
    assert identity["algorithm"]["options"] == usual.options and identity["algorithm"]["aggregation"] == "rank_mean"


@pytest.mark.slow
def test_a_new_piece(folder):
    _, single, _ = commands()
    done = folder.run(single)
    assert done.wait() == 0, done.output()
    root = folder.root("median_grpo-relevance")
    result = json.loads((root / "result.json").read_text())
    assert is_done(root) and has_plugin(root)
    assert (result["algorithm"], result["label"]) == ("median_grpo", "median_grpo-relevance")


@pytest.mark.slow
def test_a_new_piece_in_a_sweep(folder):
    """Two cells; the one without the new piece is already done."""
    _, _, sweep = commands()
    before = folder.run(["algorithm=rank_grpo"], "seed=1")
    assert before.wait() == 0, before.output()
    done = folder.run(sweep, "seed=1")
    assert done.wait() == 0, done.output()
    assert "2 cells, 1 already done, 1 to run" in done.output()
    root = folder.root("median_grpo-relevance", seed=1)
    command = json.loads((root / "manifest.json").read_text())["command"]
    assert is_done(root) and has_plugin(root) and is_done(folder.root("rank_grpo-relevance", seed=1))
    assert command[:3] == ["run.py", "--config-dir", str(ROOT / OWN)] and "hydra.mode=RUN" in command


def median_against_the_standard_library() -> None:
    import torch

    from rlbench.objective import Objective, Rollout
    from rlbench.rewards.batch import FEATURES, RewardBatch
    from rlbench.running.checks import check_config

    size, n, b = 5, 4, 15
    own = [f"hydra.searchpath=[file://{ROOT / OWN}]", f"plugins=[{PLUGIN}]", "algorithm=median_grpo"]
    generator = torch.Generator().manual_seed(0)
    gains = torch.randint(0, 3, (b, 1, n), generator=generator).double()
    present = torch.rand(b, n, generator=generator) < 0.7
    present[:size, 0] = False
    rewards = RewardBatch(
        gains=gains,
        scores=torch.zeros(b, 1),
        hits=gains[:, 0].clamp(max=1),
        n_truth=torch.ones(b, dtype=torch.long),
        present=present,
        totals=gains.sum((1, 2)),
        success=gains.sum((1, 2)) > 0,
        features=torch.zeros(b, len(FEATURES)),
    )
    units = torch.ones(b, n + 4)
    rollout = Rollout(rewards, units, torch.zeros_like(units), torch.zeros(b), 0.0)
    of_place = [(b, k) for b in range(0, b, size) for k in range(n)]
    for missing in ("zero", "excluded"):
        for quantile in (0.5, 0.25):
            set_to = [f"algorithm.missing_rank={missing}", f"algorithm.options.group_median.quantile={quantile}"]
            config = composed(*own, *set_to)
            assert check_config(config) == []
            found = Objective(config.algorithm, config.reward, n).unit_advantages(rollout, size)
            for first, k in of_place:
                lists = [i for i in range(first, first + size) if missing == "zero" or present[i, k]]
                values = [gains[i, 0, k].item() for i in lists]
                for i in range(first, first + size):
                    if i not in lists:
                        assert found[i, k] == 0
                        continue
                    middle = statistics.median(values) if quantile == 0.5 else np.quantile(values, quantile)
                    assert abs(found[i, k].item() - (gains[i, 0, k].item() - middle)) < 1e-6


def test_its_advantages_are_distances_to_the_median(tmp_path):
    done = Forked(tmp_path / "log.txt", median_against_the_standard_library)
    assert done.wait() == 0, done.output()


PIECES = {
    "scalars": "margin",
    "credit": "shared",
    "baseline": "running_mean",
    "ratio": "so_far",
    "surrogate": "spo",
    "aggregation": "discounted_ranks",
    "kl.estimator": "capped",
    "kl.scale": "by_failure",
    "regularisers": "hesitation",
}
"""The page's example for each kind of piece."""


def page_as_a_program() -> None:
    """Run every block of Python in order; then compare the page with the registries."""
    from rlbench.objective.pieces import NEEDS, PLACES, scalars
    from rlbench.rewards.terms import TERMS

    places = [scalars, *PLACES]
    before = {place.name: set(place) for place in places}
    facts = {fact for place in places for piece in place.values() for fact in piece.facts}
    namespace = {"__name__": "page"}
    for block in blocks("python"):
        exec(compile(block, "docs/adding-an-algorithm.md", "exec"), namespace)
    new = {place.name: set(place) - before[place.name] for place in places}
    new["baseline"].remove("group_median")
    assert new == {name: {piece} for name, piece in PIECES.items()}
    assert "reciprocal_rank" in TERMS
    for name in [*NEEDS, *facts, *(place.name for place in PLACES)]:
        assert f"`{name}`" in PAGE, name


def test_every_block_of_python_runs_and_every_place_is_there(tmp_path):
    done = Forked(tmp_path / "log.txt", page_as_a_program)
    assert done.wait() == 0, done.output()


def test_the_piece_of_every_place_trains(folder):
    """One run that uses all pieces, from a file with the page's code blocks."""
    section = PAGE.split("\n## Each place\n")[1].split("\n## ")[0]
    file = folder.path / "pieces.py"
    file.write_text("\n".join(blocks("python", section)), encoding="utf-8")
    chosen = [f"algorithm.{place}={name}" for place, name in PIECES.items() if place not in ("scalars", "regularisers")]
    more = ["+algorithm.regularisers.hesitation=0.01", "+reward.terms.reciprocal_rank={weight: 0.5}", "variant=page"]
    done = folder.run([f"plugins=[{file}]", *chosen, *more], "trainer.rl.num_iterations=2")
    assert done.wait() == 0, done.output()
    root = folder.root("rank_grpo-relevance@page")
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    margins = [row["value"] for row in rows if row["metric"] == "regulariser/hesitation"]
    assert is_done(root) and len(margins) == 2 and min(margins) > 0
    (kept,) = root.glob("checkpoints/*/rlbench.json")
    assert json.loads(kept.read_text())["memory"].keys() == {"running_mean"}


# Refusals.


def refused(folder: Folder, *arguments: str) -> list[str]:
    """Problems that run.py reports without running anything."""
    empty = replace(folder, path=folder.path / "refused")
    empty.path.mkdir(exist_ok=True)
    done = empty.run(arguments)
    assert done.wait() == 2 and "Traceback" not in done.output(), done.output()
    head, *problems = done.output().splitlines()
    assert head == f"rlbench: {len(problems)} problem{'s' * (len(problems) > 1)}, nothing was run:"
    assert not list(empty.path.glob("runs/[!.]*"))
    return [problem.removeprefix("  - ") for problem in problems]


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


ENTER = """from rlbench.objective.pieces import baselines


@baselines.piece(shift="invariant", scale="equivariant")
def {}(group):
    return group.returns
"""


def test_plugins_that_cannot_be_loaded_are_named_together_and_once_for_all_cells(folder, tmp_path):
    fails = written(tmp_path / "fails.py", f"{ENTER.format('mine')}\n\nopen('no/such/data')\n")
    again = written(tmp_path / "again.py", ENTER.format("group_std"))
    lacks = written(tmp_path / "lacks.py", "import no_such_package\n")
    stops = written(tmp_path / "stops.py", "raise SystemExit(0)\n")
    names = ["no/such/file.py", "no_such_module", "3", *map(str, (fails, again, lacks, stops))]
    problems = refused(folder, "-m", f"plugins=[{','.join(names)}]", "seed=0,1")
    assert problems == [
        f"plugins: there is no file no/such/file.py in {ROOT}",
        "plugins: no_such_module cannot be imported (No module named 'no_such_module'); install it, or give the path "
        "of a .py file",
        "plugins contains 3, which is neither a module name nor the path of a .py file",
        f"plugins: {fails} fails when it is loaded, at line 9: FileNotFoundError: [Errno 2] No such file or directory: "
        "'no/such/data'",
        f"plugins: {again} fails when it is loaded, at line 4: ValueError: baseline: two pieces are called 'group_std'",
        f"plugins: {lacks} fails when it is loaded, at line 1: ModuleNotFoundError: No module named 'no_such_package'",
        f"plugins: {stops} fails when it is loaded, at line 1: SystemExit: 0",
    ]


def test_pieces_and_options_that_no_one_has_entered_are_refused(folder, tmp_path):
    text = (ROOT / OWN / "algorithm" / "median_grpo.yaml").read_text(encoding="utf-8")
    mine = written(tmp_path / "conf" / "algorithm" / "mine.yaml", text.replace("baseline: group_m", "baseline: grup_m"))
    arguments = ["--config-dir", str(mine.parents[1]), f"plugins=[{PLUGIN}]", "algorithm=mine"]
    (problem,) = refused(folder, *arguments)
    assert problem.startswith("algorithm.baseline = 'grup_median' is unknown; known: group_std")
    assert "group_median. Did you mean 'group_median'?" in problem and "plugins=" in problem
    arguments = ["--config-dir", OWN, f"plugins=[{PLUGIN}]", "algorithm=median_grpo"]
    (problem,) = refused(folder, *arguments, "algorithm.options.group_median.quantile=2")
    assert problem == "algorithm.options.group_median.quantile = 2 must be a number in [0, 1]"
    problem, _ = refused(folder, "--config-dir", OWN, "algorithm=median_grpo")
    assert problem.startswith("algorithm.baseline = 'group_median' is unknown; known: group_std")


@pytest.mark.parametrize("value", ["mine.py", "null", "{mine.py: 1}", "3", "", "mine.py,yours.py"])
def test_plugins_are_a_list(value):
    with pytest.raises(BadInput, match="must be a list; write plugins=") as error:
        check_overrides([f"plugins={value}"])
    assert len(error.value.problems) == 1 + value.count(",")


def test_files_of_a_folder_that_could_not_be_used_are_refused(tmp_path):
    own = written(tmp_path / "a b, c=d" / "algorithm" / "mine.yaml", "name: mine\n").parents[1]
    check_overrides(["--config-dir", str(own), "-m", "algorithm=grpo,mine"])
    written(own / "algorithm" / "yours.yaml", "name: [yours\ntitle: Yours\n")
    with pytest.raises(BadInput, match=r"yours\.yaml is not YAML: .*expected .* \(line 2\)"):
        check_overrides(["-m", "algorithm=grpo,yours", f"--config-dir={own}"])
    written(own / "algorithm" / "grpo.yaml", "name: grpo\n")
    with pytest.raises(BadInput, match=r"conf/ also has a file algorithm/grpo\.yaml, which would be used instead"):
        check_overrides(["-cd", str(own), "algorithm=mine"])


def test_other_options_of_hydra_are_left_to_it():
    check_overrides(["-c", "job", "-cd", str(ROOT / OWN), "algorithm=median_grpo"])
    check_overrides(["--config-dir", str(CONF), "--cfg", "job", "algorithm=grpo"])
