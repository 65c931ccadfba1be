"""Rows of a sweep: different cells have different names and directories, and identical runs are made once."""

import json
import re
from collections.abc import Callable
from itertools import product
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from rlbench.base.errors import BadInput
from rlbench.base.files import write_json
from rlbench.config.row_names import value_text, variant
from rlbench.launching.cells import Cell, make_cells
from rlbench.launching.recorded import recorded_cells
from rlbench.launching.rows import Planned, naming_keys, override_of
from rlbench.launching.sweepers import combinations, merged, of_batches
from rlbench.running.cli import CONF
from rlbench.runs import versions
from rlbench.runs.claiming import claim
from rlbench.runs.directory import DONE, RUNNING, locate
from tests.conftest import SMALL, composed, shares

RATES = "trainer.rl.learning_rate=1e-4,1e-3"
TWO = ("0.0001", "0.001")
Sweep = Callable[..., list[Cell]]


@pytest.fixture
def console() -> Console:
    return Console(record=True, width=400, quiet=False)


@pytest.fixture
def sweep(tmp_path, console) -> Sweep:
    """Return a function that makes the cells of `-m` with overrides, as sweeper and launcher do."""

    def cells(*arguments: str, max_batch_size: int | None = None) -> list[Cell]:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return made([f"runs_dir={tmp_path}", *SMALL, *arguments], max_batch_size)

    def made(arguments: list[str], max_batch_size: int | None) -> list[Cell]:
        config = compose("config", overrides=["hydra.mode=MULTIRUN"], return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()
        overrides = merged(OverridesParser.create(), {}, arguments)
        batches = combinations(overrides, max_batch_size)
        of_sweep = of_batches(loader, config, overrides, batches)
        context = SimpleNamespace(config_loader=loader)
        return [cell for batch in batches for cell in make_cells(context, config, batch, console, of_sweep)]

    return cells


def labels(cells: list[Cell]) -> list[str]:
    return sorted({cell.run.label for cell in cells})


def apart(cells: list[Cell], count: int) -> bool:
    return len(cells) == len({cell.run.root for cell in cells}) == count


def test_swept_settings_become_the_variant(sweep):
    cells = sweep(RATES, "algorithm=grpo,gspo", "seed=0,1")
    assert apart(cells, 8)
    rates = ("learning_rate=0.0001", "learning_rate=0.001")
    assert labels(cells) == [f"{name}-relevance@{rate}" for name in ("grpo", "gspo") for rate in rates]
    for cell in cells:  # each cell's own command gives the same run
        again = composed(*SMALL, *cell.overrides)
        assert again.label == cell.run.label and again == cell.config


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["algorithm=grpo,gspo", "reward=relevance,dcg", "seed=0,1"], {""}),
        ([RATES, "trainer.sft.learning_rate=1e-4,1e-3"],
         {f"rl.learning_rate={a},sft.learning_rate={b}" for a in TWO for b in TWO}),
        ([RATES, "variant=mine"], {"mine-learning_rate=0.0001", "mine-learning_rate=0.001"}),
        ([RATES, "variant=lr${trainer.rl.learning_rate}"], {"lr0.0001", "lr0.001"}),
        (["variant=a,b"], {"a", "b"}),
        ([RATES, "variant=a,b"], {f"{v}-learning_rate={r}" for v in "ab" for r in ("0.0001", "0.001")}),
        (["matching=casefold,exact"], {"matching=casefold", "matching=exact"}),
        (["trainer.rl.start=sft,base"], {"", "base"}),
        (["dataset.demonstrations_from=noisy,teacher"], {"", "teacher"}),
        (["dataset.cutoffs=[5,10],[1,10]"], {"cutoffs=[5,10]", "cutoffs=[1,10]"}),
        (["+reward.terms.duplicate.weight=-1,-0.5"], {"weight=-1", "weight=-0.5"}),
        (["algorithm.kl.importance_weighted=true,false"], {"importance_weighted=true", "importance_weighted=false"}),
        (["safety.max_kl=null,5"], {"max_kl=null", "max_kl=5"}),
    ],
)  # fmt: skip
def test_rows_have_these_variants(sweep, arguments, wanted):
    cells = sweep(*arguments)
    assert {cell.config.row_variant for cell in cells} == wanted
    assert apart(cells, len(cells)) and len({cell.run.hash for cell in cells}) in (len(cells), len(cells) // 2, 1)


def test_one_value_written_in_two_ways_is_one_cell(sweep):
    (cell,) = sweep("trainer.rl.learning_rate=1e-4,0.0001")
    assert cell.run.label == "rank_grpo-relevance"
    assert labels(sweep("trainer.rl.learning_rate=1.0e-4,1e-3")) == labels(sweep(RATES))


def test_the_last_override_of_a_key_wins(sweep):
    """The same holds for one run. A list replaced by a later value is no sweep."""
    fixed = "trainer.rl.learning_rate=5e-5"
    (cell,) = sweep(RATES, fixed)
    assert cell.config.trainer.rl.learning_rate == 5e-5 and cell.run.label == "rank_grpo-relevance"
    assert len(sweep(fixed, RATES)) == 2


NO_PARTS = ["tracker=none,offline", "trainer.rl.keep_checkpoints=1,2", "runtime.threads=1,2"]
BESIDE: list[list[str]] = [[], [RATES], ["variant=t${trainer.rl.keep_checkpoints}"]]


@pytest.mark.parametrize(("key", "beside"), shares(list(product(NO_PARTS, BESIDE)), parts=4, fast=0))
def test_settings_that_are_no_part_of_a_run_are_not_swept(sweep, key, beside):
    with pytest.raises(BadInput) as refused:
        sweep(key, *beside, "seed=0,1")
    (problem,) = refused.value.problems
    assert problem.startswith(f"{key.split('=')[0]} is swept, but it does not affect what a run computes")


def test_what_has_no_effect_in_some_cells_is_made_once_there(sweep, console):
    """RL without SFT does not depend on SFT's learning rate."""
    cells = sweep("trainer.rl.start=sft,base", "trainer.sft.learning_rate=1e-4,1e-3")
    assert apart(cells, 3) and len({cell.run.hash for cell in cells}) == 3
    said = console.export_text()
    assert "1 of the cells is the same rl run as another cell, because that run does not depend on trainer.sft" in said


def test_a_shared_stage_is_made_once(sweep, console):
    (cell,) = sweep("stage=sft", "algorithm=grpo,gspo", "seed=0,1")
    assert cell.run.label == "sft"
    assert "same sft run as another cell, because that run does not depend on" in console.export_text()
    assert apart(sweep("stage=sft", "trainer.sft.learning_rate=1e-4,1e-3"), 2)


def test_names_do_not_depend_on_batches(sweep):
    assert labels(sweep(RATES, "matching=casefold,exact", max_batch_size=1)) == labels(
        sweep(RATES, "matching=casefold,exact")
    )


def test_a_row_of_several_settings_is_refused(sweep):
    """A user's variant can give two settings the same name."""
    with pytest.raises(BadInput, match=r"cells of the row rank_grpo-relevance@112 differ in more than the seed"):
        sweep("trainer.rl.updates=1,11", "evaluation.every=12,2", "variant=${trainer.rl.updates}${evaluation.every}")


@pytest.mark.parametrize("stage", ["rl", "sft"])
def test_an_edited_run_that_is_done_is_refused_with_the_sweep(sweep, stage):
    """Otherwise its numbers would stand for the cell, or an edited SFT stage would be found only after other cells."""
    (cell,) = sweep("algorithm=grpo")
    run = locate(cell.config, stage)
    with claim(run, cell.config):
        pass
    run.set_status(DONE if stage == "rl" else RUNNING)
    sweep("algorithm=grpo")
    (run.root / "identity.json").write_text(json.dumps({**run.identity, "stage": "other"}))
    with pytest.raises(BadInput, match=f"{run.root} contains another run: stage: was 'other', is now '{stage}'"):
        sweep("algorithm=grpo")


def test_done_cells_of_other_versions_are_named(sweep, console):
    cells = sweep("algorithm=grpo,gspo")
    for cell, torch in zip(cells, ("2.0.0", versions.present()["torch"]), strict=True):
        with claim(cell.run, cell.config):
            write_json(cell.run.root / "manifest.json", {"versions": {"torch": torch}, "plugins": {}})
    assert "other package versions" not in console.export_text()
    sweep("algorithm=grpo,gspo")
    said = console.export_text()
    assert said.count("other package versions") == 1
    assert f"grpo-relevance/{cells[0].run.root.name} (torch was 2.0.0, is now " in said and "gspo" not in said


def test_a_names_quotes_survive_the_command_line():
    odd = "it's a \\ 50% [x]"
    assert composed(override_of(odd)).variant == odd


def test_names_are_short_safe_and_never_the_same_for_two_values():
    assert variant({"trainer.rl.learning_rate": "0.0001", "seed": "[1,2]"}) == "learning_rate=0.0001,seed=[1,2]"
    assert variant({"a.b": "1", "c.b": "2"}) == "a.b=1,c.b=2"
    odd = ["gpt4/d.jsonl", "gpt4d.jsonl", "gpt4 d.jsonl", "é", "", "x" * 300, "x" * 301, "../up"]
    names = [variant({"dataset.path": text}) for text in odd]
    assert len(set(names)) == len(odd)
    assert all(re.fullmatch(r"[A-Za-z0-9.,=+\-_\[\]]{1,100}", name) for name in names)


@pytest.mark.parametrize(
    ("values", "text"),
    [((1, 1.0), "1"), ((0.0001, 1e-4), "0.0001"), ((1e-5,), "1e-05"), ((True,), "true"), ((None,), "null"),
        (([5, 10.0], (5, 10)), "[5,10]"),
        ((0.1 + 0.2,), "0.30000000000000004"), (("x",), "x")],
)  # fmt: skip
def test_one_value_has_one_text(values, text):
    assert {value_text(value) for value in values} == {text}


@pytest.mark.parametrize(("experiment", "name"), [("table2", "mini"), ("figure_overflow_penalty", "mini")])
def test_recorded_sweeps_name_their_rows_themselves(experiment, name, tmp_path):
    """Automatic names must not change the labels of published tables."""
    cells = recorded_cells(experiment, name, [f"runs_dir={tmp_path}", *SMALL])
    keys = [key for key in cells[0].choices if len({cell.choices[key] for cell in cells}) > 1]
    planned = [
        Planned(cell.config, locate(cell.config, cell.config.stage), {key: cell.choices[key] for key in keys})
        for cell in cells
    ]
    assert len(keys) > 1 and naming_keys(planned) == ()
