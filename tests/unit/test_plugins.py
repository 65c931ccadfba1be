"""Code from outside: what it must say of itself, and what becomes of runs that were made with an earlier version."""

import json

import pytest

from rlbench.errors import BadInput
from rlbench.objective.pieces import Place
from rlbench.options import options_of
from rlbench.plugins import load_plugins, plugin_digests
from rlbench.runner import run
from rlbench.runs import DONE, locate
from tests.conftest import SMALL, composed


def test_a_piece_that_leaves_out_a_fact_is_refused():
    place = Place("baseline", ("shift", "scale"))
    with pytest.raises(ValueError, match="baseline 'mine' leaves out scale"):

        @place.piece(shift="other")
        def mine(group):
            return group.returns

    with pytest.raises(ValueError, match="'bare' leaves out shift, scale"):

        @place.piece
        def bare(group):
            return group.returns

    assert not place


def test_an_annotation_that_says_nothing_is_named():
    def mine(group, *, strength: "float" = 1.0): ...

    def other(group, *, strength: list = 1.0): ...  # noqa: B006

    for function in (mine, other):
        with pytest.raises(TypeError, match=f"{function.__name__}: the annotation .* of option 'strength'"):
            options_of(function)


def test_the_stages_that_cells_share_depend_on_no_plugin(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text("STRENGTH = 1\n")
    folders = [f"runs_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache"]
    config = composed(*SMALL, "+debug=smoke", "stage=zero_shot", f"plugins=[{plugin}]", *folders)
    made = run(config)
    assert made.status() == DONE
    assert json.loads((made.root / "manifest.json").read_text())["plugins"] == {}
    plugin.write_text("STRENGTH = 2\n")
    assert run(config) == made  # skipped


def test_a_run_made_with_other_code_is_neither_skipped_nor_resumed(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text("STRENGTH = 1\n")
    config = composed(*SMALL, f"plugins=[{plugin}]", f"runs_dir={tmp_path}/runs")
    made = locate(config, "rl")
    made.root.mkdir(parents=True)
    made.set_status(DONE)
    (made.root / "result.json").write_text("{}")
    assert not load_plugins(config.plugins)
    (made.root / "manifest.json").write_text(json.dumps({"plugins": plugin_digests(config.plugins)}))
    assert run(config) == made  # skipped
    plugin.write_text("STRENGTH = 2\n")
    for status in (DONE, "running"):
        made.set_status(status)
        with pytest.raises(BadInput, match="another version of plugins .*mine.py: move it away"):
            run(config)
