"""Search: proposals, results, pruning and resuming, on real run directories with real Optuna."""

import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig
from optuna.trial import TrialState
from rich.console import Console

from rlbench.base.errors import BadInput
from rlbench.base.files import write_json
from rlbench.config.resolving import resolve
from rlbench.config.row_names import short_names, variant
from rlbench.config.schema import Config
from rlbench.launching.cells import Cell
from rlbench.launching.composing import compose_cells
from rlbench.launching.search import Search, alone, summarise
from rlbench.launching.space import Choice, SearchInterval, Space, read_space
from rlbench.launching.study import JOURNAL, REFUSED, REMEDY, Settings, Study, open_study
from rlbench.running.checks import check_config
from rlbench.running.cli import CONF, check_overrides
from rlbench.runs.directory import (
    DONE,
    PRUNED,
    RUNNING,
    locate,
)
from rlbench.runs.record import SWEEP
from tests.conftest import slow

RATE = "trainer.rl.learning_rate=tag(log, interval(1e-6, 1e-2))"
UPDATES, EVERY = 8, 2
LENGTH = [f"trainer.rl.updates={UPDATES}", f"evaluation.every={EVERY}", "trainer.rl.save_every=2"]


def space(*overrides: str) -> Space:
    return read_space(OverridesParser.create().parse_overrides(list(overrides)))


def settings(**changed) -> Settings:
    usual = {"trials": 6, "sampler": "random", "seed": 0, "startup_trials": 1, "pruner": "none", "warmup_updates": 0}
    return Settings(**(usual | changed))


class Bench:
    """Searches in a folder, and a simulated machine that runs their cells. A cell's result depends on its config."""

    def __init__(self, folder: Path, composed: DictConfig):
        self.folder, self.composed = folder, composed
        self.ran: list[Cell] = []

    def cells(self, overrides) -> list[Cell]:
        loader, own = GlobalHydra.instance().config_loader(), [*LENGTH, f"runs_dir={self.folder}"]
        lists = [[*own, *texts] for texts in overrides]
        configs = [resolve(config) for config in compose_cells(loader, self.composed, lists)]
        if problems := [problem for config in configs for problem in check_config(config)]:
            raise BadInput(*problems)
        return [Cell([], list(texts), c, locate(c, "rl")) for texts, c in zip(overrides, configs, strict=True)]

    def studies(self, overrides: tuple[str, ...], **changed) -> list[Study]:
        wanted = space(*overrides)
        own = self.folder / "default"
        of = (wanted, settings(**changed), self.cells)
        return [open_study(own, fixed, *of, identity={"fixed": fixed}) for fixed in wanted.fixed]

    def run(self, search: Search, worth: Callable[[Config], float], at_once: int = 1, cells: int = 1000) -> None:
        """Run a search to its end, or stop after `cells` cells as if the machine had crashed."""
        running: list[tuple[Cell, int]] = []
        while (running or not search.over()) and cells:
            while len(running) < at_once and (cell := search.next_cell(lambda cell: True)) is not None:
                cell.run.root.mkdir(parents=True, exist_ok=True)
                cell.run.set_status(RUNNING)
                cell.run.metrics_file.unlink(missing_ok=True)
                self.ran.append(cell)
                running.append((cell, 0))
            running = [(cell, step + EVERY) for cell, step in running]
            for cell, step in running:
                cell.run.append_metrics(step, "validation", {"ndcg@10": worth(cell.config) * step / UPDATES})
                cell.run.append_metrics(step, "test", {"ndcg@10": -worth(cell.config)})
            search.next_look = 0.0
            stopped = search.watch([cell for cell, _ in running])
            for cell, step in list(running):
                if cell.run.root in stopped:
                    cell.run.set_status(PRUNED, stopped[cell.run.root])
                elif step == UPDATES:
                    means = {split: {"ndcg@10": sign * worth(cell.config)} for split, sign in SIGNS.items()}
                    write_json(cell.run.root / "result.json", {"metrics": means})
                    cell.run.set_status(DONE)
                else:
                    continue
                running.remove((cell, step))
                search.ended(cell, cell.run.status() == DONE)
                cells -= 1


SIGNS = {"validation": 1.0, "test": -1.0}
"""Test scores are the negative of validation scores, so a search that used them would find the worst cell."""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield Bench(tmp_path, compose("config", return_hydra_config=True))


def closeness(config: Config) -> float:
    """1 at a learning rate of 1e-4, and less with each decade away from it."""
    return 1.0 / (1.0 + abs(math.log10(config.trainer.rl.learning_rate) + 4))


def rates(cells: list[Cell]) -> list[float]:
    return [cell.config.trainer.rl.learning_rate for cell in cells]


def states(study: Study) -> list[TrialState]:
    return [trial.state for trial in study.study.get_trials()]


def test_the_space_is_what_hydra_says():
    found = space(
        RATE, "trainer.rl.group_size=choice(4,8)", "reward=a,b", "matching=exact", "seed=3,4", "x=range(1,7,2)"
    )
    assert found.dimensions == {
        "trainer.rl.learning_rate": SearchInterval(1e-6, 1e-2, True),
        "trainer.rl.group_size": Choice(("4", "8")),
        "x": Choice(("1", "3", "5")),
    }
    assert found.seeds == ("seed=3", "seed=4")
    assert found.fixed == (("reward=a", "matching=exact"), ("reward=b", "matching=exact"))
    whole = space("+a.b=int(interval(2, 9))", "+a.b=int(interval(3, 8))").dimensions
    assert whole == {"+a.b": SearchInterval(3, 8, False)} and whole["+a.b"].text(5.0) == "5"
    assert whole["+a.b"].whole and not space("a=interval(2, 9)").dimensions["a"].whole
    assert space("a=choice(1)", "b=1", "b=2").fixed == (("b=2",),)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=0,1", "nothing to search"),
        ("seed=choice(0,1)", "seeds cannot be searched"),
        ("a=interval(2, 1)", "the lower end must come first"),
        ("a=interval(1, 1)", "the lower end must come first"),
        ("a=tag(log, interval(0, 1))", "must lie above 0"),
        ("a=tag(lgo, interval(1, 2))", "the tag 'lgo' is unknown"),
        ("a=tag(log, choice(1, 2))", "needs an interval"),
        ("a=range(3, 3)", "is empty"),
        ("variant=x", "remove it"),
    ],
)
def test_what_is_no_space_is_refused(override, said):
    with pytest.raises(BadInput, match=said):
        space(override)


@given(
    ends=st.lists(st.floats(1e-8, 1e8, allow_nan=False), min_size=2, max_size=2, unique=True).map(sorted),
    log=st.booleans(),
    where=st.floats(0, 1),
)
def test_a_proposal_is_a_short_number_inside_its_interval(ends, log, where):
    low, high = ends
    interval = SearchInterval(low, high, log)
    value = low * (high / low) ** where if log else low + (high - low) * where
    text = interval.text(value)
    near = 0.006 * abs(value) if log else (high - low) / 1000
    assert low * (1 - 1e-11) <= float(text) <= high * (1 + 1e-11)
    assert abs(float(text) - value) <= near + 1e-11 * high and len(text) <= 18


def test_names_are_as_short_as_tells_them_apart():
    keys = ["trainer.rl.learning_rate", "trainer.sft.learning_rate", "+algorithm.kl.beta"]
    assert list(short_names(keys).values()) == ["rl.learning_rate", "sft.learning_rate", "beta"]
    assert variant({"trainer.rl.learning_rate": "1e-4", "reward": "a.b"}) == "learning_rate=1e-4,reward=a.b"
    assert re.fullmatch(r"reward=abc-[0-9a-f]{6}", variant({"reward": "a/b c"}))
    assert variant({"reward": "a/b c"}) != variant({"reward": "ab/c"})


def test_the_best_on_validation_is_found_and_said(bench):
    (study,) = bench.studies((RATE, "seed=0,1"), trials=8, sampler="tpe")
    bench.run(Search([study]), lambda config: closeness(config) + 0.1 * config.seed)
    assert len(bench.ran) == 16 and {cell.config.seed for cell in bench.ran} == {0, 1}
    best = min(rates(bench.ran), key=lambda rate: abs(math.log10(rate) + 4))
    assert study.study.best_value == pytest.approx(1 / (1 + abs(math.log10(best) + 4)) + 0.05)
    console = Console(record=True, width=200)
    summarise([study], lambda overrides: ["python", "run.py", *overrides], console)
    text = console.export_text()
    assert "8 done" in text and f"best: trainer.rl.learning_rate={best:g}" in text
    assert f"python run.py -m trainer.rl.learning_rate={best:g}" in text and "seed=0,1" in text


def test_every_proposal_is_a_row_of_its_own(bench):
    (study,) = bench.studies((RATE,))
    bench.run(Search([study]), closeness)
    assert len({cell.run.root for cell in bench.ran}) == 6
    for cell in bench.ran:
        assert cell.run.label == f"rank_grpo-relevance@learning_rate={cell.config.trainer.rl.learning_rate:g}"
    noted = json.loads((bench.folder / "default" / SWEEP.name).read_text())["cells"]
    assert len(noted) == 6


@pytest.mark.slow
def test_one_seed_of_the_sampler_gives_the_same_proposals_and_another_others(bench, tmp_path_factory):
    proposed = {}
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        other = Bench(tmp_path_factory.mktemp(name), bench.composed)
        other.run(Search(other.studies((RATE,), sampler="tpe", seed=seed)), closeness)
        proposed[name] = rates(other.ran)
    assert proposed["a"] == proposed["b"] != proposed["c"]
    assert len(set(proposed["a"])) == 6


@pytest.mark.parametrize("sampler", ["tpe", *slow("random", "grid")])
def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(bench, tmp_path_factory, sampler):
    rate = "trainer.rl.learning_rate=choice(1e-2,1e-3,1e-4,1e-5)" if sampler == "grid" else RATE
    usual = {"sampler": sampler, "trials": 4, "startup_trials": 2}
    whole = Bench(tmp_path_factory.mktemp("whole"), bench.composed)
    whole.run(Search(whole.studies((rate, "seed=0,1"), **usual)), closeness)
    (study,) = bench.studies((rate, "seed=0,1"), **usual)
    bench.run(Search([study]), closeness, cells=5)  # stops within the third proposal
    assert states(study).count(TrialState.RUNNING) == 1
    (again,) = bench.studies((rate, "seed=0,1"), **usual)
    bench.run(Search([again]), closeness)
    assert [cell.run.name for cell in bench.ran] == [cell.run.name for cell in whole.ran]
    assert states(again).count(TrialState.COMPLETE) == 4 and again.proposed() == 4


def test_a_finished_search_does_nothing_and_a_longer_one_goes_on(bench):
    bench.run(Search(bench.studies((RATE,))), closeness)
    assert (bench.folder / "default" / JOURNAL).is_file()
    again = Search(bench.studies((RATE,)))
    assert again.first_cells() == [] and again.over() and states(again.studies[0]) == [TrialState.COMPLETE] * 6
    bench.run(Search(bench.studies((RATE,), trials=8)), closeness)
    assert len(bench.ran) == 8


def test_a_changed_number_in_the_journal_is_noticed(bench):
    """Every line is still valid, so only the runs reveal the change."""
    searched = ("trainer.rl.learning_rate=choice(1e-4,1e-2)", "seed=0,1")
    usual = {"sampler": "grid", "pruner": "median"}
    bench.run(Search(bench.studies(searched, **usual)), closeness)
    journal = bench.folder / "default" / JOURNAL
    good = journal.read_text()
    lines = [json.loads(line) for line in good.splitlines()]
    value = next(line for line in lines if line.get("values"))
    reported = next(line for line in lines if "intermediate_value" in line and line["step"] == 4)
    (result,) = {c.run.root / "result.json" for c in bench.ran[:1]}
    for line, key, number, said in (
        (value, "values", [0.5], f"ndcg@10 on validation is 0.5 in the journal and 1.0 in {result}"),
        (reported, "intermediate_value", 0.25, "is 0.25 at update 4 in the journal and 0.5 in"),
    ):
        journal.write_text(good.replace(json.dumps(line, separators=(",", ":")), json.dumps({**line, key: number})))
        with pytest.raises(BadInput) as caught:
            Search(bench.studies(searched, **usual))
        (problem,) = caught.value.problems
        assert f"{journal} and the runs disagree on proposal 0: " in problem and said in problem
        assert problem.endswith(f". {REMEDY}")
    journal.write_text(good)
    assert Search(bench.studies(searched, **usual)).over()


@pytest.mark.slow
def test_records_that_optuna_did_not_write_are_named(bench):
    searched = ("trainer.rl.learning_rate=choice(1e-4,1e-2)",)
    bench.run(Search(bench.studies(searched, sampler="grid")), closeness)
    journal = bench.folder / "default" / JOURNAL
    good = journal.read_text()
    lines = [json.loads(line) for line in good.splitlines()]
    for number, line in enumerate(lines):
        for key in line.keys() - {"worker_id", "op_code"}:
            for value in (None, "x", 97):
                odd = [*lines[:number], line | {key: value}, *lines[number + 1 :]]
                journal.write_text("".join(f"{json.dumps(one)}\n" for one in odd))
                try:
                    Search(bench.studies(searched, sampler="grid"))
                except BadInput as error:
                    assert str(journal) in str(error) and "away" in str(error)


@pytest.mark.parametrize("old", [DONE, PRUNED])
def test_a_proposal_whose_run_has_not_ended_as_the_journal_says_is_named(bench, old):
    searched = ("trainer.rl.learning_rate=choice(1e-4,1e-2)",)
    bench.run(Search(bench.studies(searched, sampler="grid", pruner="median")), closeness)
    (cell,) = [cell for cell in bench.ran if cell.run.status() == old]
    cell.run.set_status(PRUNED if old == DONE else DONE)
    with pytest.raises(BadInput, match=f"it is {old} with .* but {cell.run.root} has the status"):
        Search(bench.studies(searched, sampler="grid", pruner="median"))


@pytest.mark.parametrize(
    "content",
    ["", *slow("[]", "{}", '{"metrics": []}'), '{"metrics": {"validation": {"ndcg@10": "1"}}}'],
)
def test_a_damaged_result_of_a_proposal_is_named(bench, content):
    bench.run(Search(bench.studies((RATE,))), closeness)
    path = bench.ran[0].run.root / "result.json"
    path.write_text(content)
    with pytest.raises(BadInput, match=r"result\.json is damaged.*run the same command again"):
        Search(bench.studies((RATE,)))


def test_what_is_hopeless_is_pruned_and_stays_so(bench):
    searched = ("trainer.rl.learning_rate=choice(1e-4,1e-2)", "seed=0,1")
    (study,) = bench.studies(searched, sampler="grid", pruner="median")
    bench.run(Search([study]), closeness)
    good, bad = [[c for c in bench.ran if c.config.trainer.rl.learning_rate == rate] for rate in (1e-4, 1e-2)]
    assert [cell.run.status() for cell in good] == [DONE, DONE]
    assert [cell.config.seed for cell in bad] == [0], "the second seed of what is hopeless was started"
    status = (bad[0].run.root / "STATUS").read_text()
    assert status.startswith("pruned\npruned at update 2 by the search: validation ndcg@10 0.08")
    assert states(study) == [TrialState.COMPLETE, TrialState.PRUNED]
    assert Search(bench.studies(searched, sampler="grid", pruner="median")).over()


def test_both_seeds_of_what_is_hopeless_are_stopped_where_they_run_side_by_side(bench):
    searched = ("trainer.rl.learning_rate=choice(1e-4,1e-2)", "seed=0,1")
    (study,) = bench.studies(searched, sampler="grid", pruner="median")
    bench.run(Search([study]), closeness, at_once=2)
    assert sorted(str(cell.run.status()) for cell in bench.ran) == ["done", "done", "pruned", "pruned"]


def test_nothing_is_pruned_before_its_time(bench):
    searched = ("trainer.rl.learning_rate=choice(1e-4,1e-2)",)
    bench.run(Search(bench.studies(searched, sampler="grid", pruner="median", warmup_updates=6)), closeness)
    assert "pruned at update 6" in (bench.ran[1].run.root / "STATUS").read_text()
    late = bench.studies((*searched, "seed=5"), sampler="grid", pruner="median", startup_trials=2)
    bench.run(Search(late), closeness)
    assert [cell.run.status() for cell in bench.ran[2:]] == [DONE, DONE]


def test_lists_are_searches_of_their_own(bench):
    studies = bench.studies((RATE, "algorithm=grpo,gspo"), trials=3)
    bench.run(Search(studies), closeness)
    assert [cell.config.algorithm.name for cell in bench.ran].count("grpo") == 3
    assert [study.proposed() for study in studies] == [3, 3]
    assert rates([c for c in bench.ran if c.config.algorithm.name == "grpo"]) == rates(
        [c for c in bench.ran if c.config.algorithm.name == "gspo"]
    )


def test_a_grid_has_every_combination_once(bench):
    searched = ("trainer.rl.learning_rate=choice(1e-4,1e-3)", "reward.gamma=range(0, 1, 0.5)")
    (study,) = bench.studies(searched, sampler="grid", trials=100)
    bench.run(Search([study]), closeness)
    points = {(cell.config.trainer.rl.learning_rate, cell.config.reward.gamma) for cell in bench.ran}
    assert len(bench.ran) == 4 and points == {(r, g) for r in (1e-4, 1e-3) for g in (0.0, 0.5)}
    with pytest.raises(BadInput, match="a grid search cannot use an interval"):
        Search(bench.studies((RATE, "matching=exact"), sampler="grid")).over()


def test_what_is_proposed_twice_is_run_once(bench):
    (study,) = bench.studies(("trainer.rl.learning_rate=choice(1e-4,1e-3)",), trials=8)
    bench.run(Search([study]), closeness, at_once=3)
    assert len(bench.ran) == 2 and states(study) == [TrialState.COMPLETE] * 8


def test_a_proposal_that_makes_no_sense_is_counted_and_said(bench):
    (study,) = bench.studies(("trainer.rl.group_size=choice(8,7,16)",), sampler="grid", trials=3)
    bench.run(Search([study]), closeness)
    assert [cell.config.trainer.rl.group_size for cell in bench.ran] == [8, 16]
    refused = [trial for trial in study.study.get_trials() if REFUSED in trial.user_attrs]
    assert len(refused) == 1 and "group_size = 7" in refused[0].user_attrs[REFUSED][0]
    with pytest.raises(BadInput, match="group_size = 7"):
        Search(bench.studies(("trainer.rl.group_size=choice(7)",), sampler="grid")).over()


def test_a_failed_cell_is_tried_again_by_the_same_command(bench):
    (study,) = bench.studies((RATE,), trials=2)
    search = Search([study])
    cell = search.next_cell(lambda cell: True)
    assert cell is not None
    cell.run.set_status("failed", "RuntimeError: planted")
    search.ended(cell, False)
    bench.run(search, closeness)
    assert search.failed == [cell] and len(bench.ran) == 1
    bench.run(Search(bench.studies((RATE,), trials=2)), closeness)
    assert cell.run.status() == DONE and len(bench.ran) == 2


def test_two_commands_do_not_search_in_one_folder(tmp_path):
    with alone(tmp_path), pytest.raises(BadInput, match="another search is running in"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_bad_settings_are_named_together(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(BadInput) as error:
        settings(sampler="tpee", pruner="mean", trials=0).check()
    text = "\n".join(error.value.problems)
    assert "Did you mean 'tpe'?" in text and "hydra.sweeper.trials = 0" in text and "median, halving, none" in text
    assert "pip install -r requirements-search.txt" in text


def test_the_command_line_of_a_search_passes():
    check_overrides(["-m", "hydra/sweeper=optuna", "hydra.sweeper.trials=5", RATE, "algorithm=rank_grpo", "seed=0,1"])
    with pytest.raises(BadInput, match="there is no such algorithm"):
        check_overrides(["-m", "hydra/sweeper=optuna", "algorithm=interval(0, 1)"])


def test_searches_that_differ_in_a_setting_have_rows_of_their_own(bench):
    """A plain list next to the search space makes one search per value. Their proposals must not share a row."""
    wanted = space(RATE, "trainer.rl.num_iterations=1,2", "algorithm=grpo,gspo", "seed=0")
    assert wanted.varied == ("trainer.rl.num_iterations", "algorithm")
    (study, *_) = bench.studies((RATE,))
    study.row = "num_iterations=2"
    (cell,) = study.overrides({"trainer.rl.learning_rate": 1e-4})
    assert cell[-1] == "variant='num_iterations=2-learning_rate=0.0001'"
