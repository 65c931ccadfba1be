"""What a command says about runs made with other package versions."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlbench.base.errors import BadInput
from rlbench.base.files import write_json
from rlbench.running.cli import CONF
from rlbench.running.runner import run
from rlbench.runs import versions
from rlbench.runs.claiming import claim
from rlbench.runs.directory import locate
from rlbench.runs.versions import differing, notice, present
from tests.conftest import SMALL, composed

NOW = present()


def made_by(root: Path, **manifest: object) -> Path:
    root.mkdir(parents=True)
    write_json(root / "manifest.json", manifest)
    return root


def test_what_results_depend_on_is_recorded() -> None:
    assert {"torch", "transformers", "tokenizers", "safetensors", "trl", "accelerate", "numpy", "python"} <= set(NOW)


def test_versions_that_differ_are_named_with_both(tmp_path: Path) -> None:
    old = NOW | {"torch": "2.0.0", "python": "3.9.1", "gone": "1"}
    root = made_by(tmp_path / "a", versions=old)
    assert differing(root) == (f"torch was 2.0.0, is now {NOW['torch']}", f"python was 3.9.1, is now {NOW['python']}")
    assert differing(made_by(tmp_path / "b", versions=NOW)) == ()


def test_a_package_that_was_not_counted_then_is_looked_up_among_all(tmp_path: Path) -> None:
    versions_then = {"torch": NOW["torch"]}
    root = made_by(tmp_path / "a", versions=versions_then, packages={"tokenizers": "0.1", "torch": "ignored"})
    assert differing(root) == (f"tokenizers was 0.1, is now {NOW['tokenizers']}",)


@pytest.mark.parametrize("manifest", [{}, {"versions": {}}, {"versions": 3, "packages": ["torch"]}])
def test_nothing_is_said_of_what_is_not_recorded(tmp_path: Path, manifest: dict[str, object]) -> None:
    assert differing(made_by(tmp_path / "a", **manifest)) == () == differing(tmp_path / "nothing")


def test_odd_versions_can_be_printed(tmp_path: Path) -> None:
    root = made_by(tmp_path / "a", versions={"torch": "a\n\udc80", "trl": 3})
    assert [said.split(", is now")[0] for said in differing(root)] == ["torch was 'a\\n\\udc80'", "trl was 3"]


def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    root = made_by(tmp_path / "a")
    (root / "manifest.json").write_text("{")
    with pytest.raises(BadInput, match=f"{root / 'manifest.json'} is damaged"):
        differing(root)


def test_one_sentence_names_the_runs_of_each_difference(tmp_path: Path) -> None:
    same = [made_by(tmp_path / "sft" / f"seed{seed}-0", versions={"torch": "2.0.0"}) for seed in range(5)]
    other = made_by(tmp_path / "rl" / "seed0-1", versions={"torch": "2.1.0"})
    said = notice([*same, other, made_by(tmp_path / "now", versions=NOW)])
    now = f"is now {NOW['torch']})"
    assert f": sft/seed0-0, sft/seed1-0, sft/seed2-0 and 2 more (torch was 2.0.0, {now}; " in said
    assert f"; rl/seed0-1 (torch was 2.1.0, {now}." in said
    assert notice([tmp_path / "now"]) == notice([]) == ""


@pytest.mark.parametrize("stage", ["rl", "sft"])
def test_a_skipped_run_names_the_stages_that_others_have_made(tmp_path: Path, capsys, stage: str) -> None:
    config = composed(*SMALL, f"runs_dir={tmp_path}")
    for each in ("zero_shot", "sft", "rl"):
        target = locate(config, each)
        with claim(target, config):
            torch = "2.0.0" if each == stage else NOW["torch"]
            write_json(target.root / "manifest.json", {"versions": {"torch": torch}, "plugins": {}})
            (target.final_model).mkdir()
            (target.final_model / "config.json").write_text("{}")
            (target.final_model / "model.safetensors").write_bytes(b"")
    run(config)
    said = capsys.readouterr().err
    assert "already done" in said and said.count("note: made with other package versions") == 1
    named = locate(config, stage).root
    assert f"{named.parent.name}/{named.name} (torch was 2.0.0, is now {NOW['torch']}). The same command" in said


def test_looking_at_versions_loads_no_torch() -> None:
    code = "import sys, rlbench.runs.versions as v; v.present(); assert 'torch' not in sys.modules"
    environment = os.environ | {"PYTHONPATH": str(CONF.parent)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_the_notice_counts_from_the_fourth_run() -> None:
    assert versions._named(["a", "b", "c"]) == "a, b, c" and versions._named(list("abcd")) == "a, b, c and 1 more"
