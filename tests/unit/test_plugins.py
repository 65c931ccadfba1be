"""What plugins must declare, and how runs made with an earlier version are treated."""

import json

import pytest

from rlbench.base.errors import BadInput
from rlbench.config.options import options_of
from rlbench.config.plugins import load_plugins, plugin_digests
from rlbench.objective.pieces import Place
from rlbench.running.runner import run
from rlbench.runs.directory import DONE, locate, seal
from rlbench.runs.existing import other_plugins
from tests.conftest import SMALL, composed


def test_a_piece_that_leaves_out_a_fact_is_refused():
    place = Place("baseline", ("shift", "scale"))
    with pytest.raises(ValueError, match="baseline 'mine' lacks scale"):

        @place.piece(shift="other")
        def mine(group):
            return group.returns

    with pytest.raises(ValueError, match="'bare' lacks shift, scale"):

        @place.piece
        def bare(group):
            return group.returns

    assert not place


def test_an_annotation_that_says_nothing_is_named():
    def mine(group, *, strength: "float" = 1.0): ...

    def other(group, *, strength: list = 1.0): ...  # noqa: B006

    for function in (mine, other):
        with pytest.raises(TypeError, match=f"{function.__name__}: option 'strength' has the annotation"):
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
    seal(made.root)
    made.set_status(DONE)
    (made.root / "result.json").write_text("{}")
    assert not load_plugins(config.plugins)
    (made.root / "manifest.json").write_text(json.dumps({"plugins": plugin_digests(config.plugins)}))
    assert run(config) == made  # skipped
    plugin.write_text("STRENGTH = 2\n")
    for status in (DONE, "running"):
        made.set_status(status)
        with pytest.raises(
            BadInput, match="different version of the plugins .*mine.py: sha256 was .*, is now .*: move it away"
        ):
            run(config)


def made_with(folder, plugins):
    """Make a run directory whose manifest names plugins."""
    root = folder / "run"
    root.mkdir()
    (root / "manifest.json").write_text(json.dumps({"plugins": plugin_digests(plugins)}))
    return root


def files(folder, **content):
    paths = {}
    for name, text in content.items():
        (folder / f"{name}.py").write_text(text)
        paths[name] = str(folder / f"{name}.py")
    return paths


def test_code_under_another_name_is_other_code(tmp_path):
    """Replaced code in a new file is noticed; a renamed file is the same plugin."""
    name = files(tmp_path, old="A = 1\n", replacement="A = 2\n", renamed="A = 1\n", further="B = 1\n")
    run = made_with(tmp_path, [name["old"]])
    (problem,) = other_plugins(run, [name["replacement"]])
    assert "old.py: sha256 " in problem and "replacement.py: sha256 was none, is now " in problem
    (problem,) = other_plugins(run, [name["replacement"], name["further"]])
    assert "further.py" in problem
    for same in (["old"], ["renamed"], ["old", "further"], ["further", "renamed"], []):
        assert other_plugins(run, [name[one] for one in same]) == [], same


def test_a_package_counts_with_all_its_modules(tmp_path, monkeypatch):
    package = tmp_path / "pieces_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("from pieces_of_mine import shape\n")
    (package / "shape.py").write_text("A = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = made_with(tmp_path, ["pieces_of_mine"])
    assert other_plugins(run, ["pieces_of_mine"]) == []
    (package / "shape.py").write_text("A = 2\n")
    assert len(other_plugins(run, ["pieces_of_mine"])) == 1


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", ".x", "../x", "/", "/tmp/x", "a\nb", "a\0b", "a b", "-x", "json.", "json..tool", "http://x/y",
     3, "a\n.py", "a\0.py", "x" * 300 + ".py", "x/" * 3000 + ".py"],
)  # fmt: skip
def test_what_is_no_name_of_a_plugin(name):
    (problem,) = load_plugins([name])
    assert problem.startswith("plugins contains ") and problem.endswith(
        "neither a module name nor the path of a .py file"
    )
    assert problem.isprintable() and len(problem) < 400


@pytest.mark.parametrize("name", ["sys", "builtins", "itertools"])
def test_modules_without_a_file_are_refused(name):
    """They have no source file to digest and register nothing."""
    assert load_plugins([name]) == [f"plugins: {name} is a built-in Python module and registers nothing; remove it"]


def test_a_path_may_lead_anywhere(tmp_path, monkeypatch):
    """A plugin path names a file of the user, and its name is used only in manifest.json."""
    (tmp_path / "below").mkdir()
    (tmp_path / "mine.py").write_text("")
    monkeypatch.chdir(tmp_path / "below")
    assert load_plugins(["../mine.py", str(tmp_path / "mine.py")]) == []
    assert len(set(plugin_digests(["../mine.py", str(tmp_path / "mine.py")]).values())) == 1
    assert load_plugins(["../other.py"]) == [f"plugins: there is no file ../other.py in {tmp_path / 'below'}"]
