"""Clones: ancestry, what may change, what is refused. `tests/integration/test_clones.py` trains some."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from rlbench.base.digests import seal
from rlbench.base.errors import BadInput
from rlbench.commands.cloning import clone_of
from rlbench.config.schema import Config
from rlbench.runs.directory import Run, locate
from rlbench.runs.identity import stage_settings
from rlbench.runs.record import IDENTITY
from tests.conftest import SMALL, composed


def config_of(folder: Path, *more: str) -> Config:
    own = ["algorithm=grpo", "trainer.rl.updates=60", "trainer.rl.num_iterations=1", *more]
    return composed(*SMALL, f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}", *own)


def recorded(config: Config, steps: tuple[int, ...] = (20, 40)) -> Run:
    """A run directory as far as a clone reads it before it trains, with checkpoints."""
    run = locate(config, "rl")
    run.root.mkdir(parents=True)
    (run.root / "config.yaml").write_text(yaml.safe_dump(asdict(config)))
    IDENTITY.write(run.root, dict(run.identity))
    run.append_metrics(20, "validation", {config.evaluation.metric: 0.5})
    for step in steps:
        folder = run.checkpoints / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        counts = dict.fromkeys(("prompts", "completions", "trained_tokens"), 0) | {"generated_tokens": 100 * step}
        (folder / "rlbench.json").write_text(json.dumps({"budget": {"counts": counts, "seconds": {"total": 1.0}}}))
        seal(folder, logs=run.logs)
    return run


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(sys, "argv", ["rlbench clone"])
    return recorded(config_of(tmp_path))


def refused(*arguments: object) -> str:
    with pytest.raises(BadInput) as caught:
        clone_of(*arguments)  # type: ignore[arg-type]
    return str(caught.value)


def test_the_ancestry_is_in_identity_and_row(parent: Run) -> None:
    config = clone_of(parent.root, 20, ["algorithm=rank_grpo", "trainer.rl.learning_rate=1e-5"], None)
    assert config.clone is not None and config.algorithm.name == "rank_grpo"
    identity = locate(config, "rl").identity["clone"]
    assert identity["parent"][:8] == parent.hash and (identity["stage"], identity["step"]) == ("rl", 20)
    assert identity["changed"] == ["algorithm=rank_grpo", "trainer.rl.learning_rate=1e-05"]
    assert config.clone.name == "grpo · relevance" and config.clone.run.endswith(parent.root.name)
    assert config.label == "rank_grpo-relevance@from=grpo-relevance,step=20,learning_rate=1e-05"
    assert locate(config, "sft").hash == locate(config_of(parent.root.parents[4]), "sft").hash
    assert sys.argv[-2:] == ["--at", "20"]  # so that the recorded command finds the same clone later


def test_a_budget_that_leaves_tokens_is_accepted(parent: Run) -> None:
    config = clone_of(parent.root, 20, ["trainer.rl.token_budget=2001"], None)
    assert config.trainer.rl.token_budget == 2001


def test_a_choice_is_named_once(parent: Run) -> None:
    def label(*words: str, of: Run = parent) -> str:
        return clone_of(of.root, 20, list(words), None).label

    beginning = "grpo-relevance@from=grpo-relevance,step=20"
    assert label("sampler=dots_replay") == f"{beginning}-dots_replay"
    assert label("rollout=tree", "schedule=kl_decay", "algorithm.kl.beta=0.1") == f"{beginning},beta=0.1-tree-kl_decay"
    assert label("sampler=dots_replay", "sampler.replay=0.25") == f"{beginning},replay=0.25-dots_replay"


def test_a_choice_that_a_clone_drops_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["rlbench clone"])
    parent = recorded(config_of(tmp_path, "sampler=pool"))
    config = clone_of(parent.root, 20, ["sampler=uniform"], None)
    assert config.label.startswith("grpo-relevance@from=grpo-relevancepool,step=20,sampler=uniform-")


def test_a_config_without_a_clone_has_the_same_identity_as_ever(tmp_path: Path) -> None:
    settings = stage_settings(config_of(tmp_path), "rl")
    assert "clone" not in settings


def test_two_parents_steps_or_changes_never_share_a_hash(parent: Run, tmp_path: Path) -> None:
    other = recorded(config_of(tmp_path, "seed=1"))
    changes = ["trainer.rl.learning_rate=1e-5"]
    made = [(parent, 20, changes), (parent, 40, changes), (other, 20, changes), (parent, 20, ["reward=dcg"])]
    hashes = [locate(clone_of(run.root, at, words, None), "rl").hash for run, at, words in made]
    assert len({*hashes, parent.hash, other.hash}) == 6
    same = clone_of(parent.root, 20, ["trainer.rl.learning_rate=0.00001", "tracker=none"], None)
    assert locate(same, "rl").hash == hashes[0]


def test_the_last_checkpoint_is_the_default_also_of_an_unfinished_parent(parent: Run) -> None:
    parent.set_status("interrupted", "SIGTERM")
    config = clone_of(parent.root, None, ["reward=dcg"], None)
    assert config.clone is not None and config.clone.step == 40


@pytest.mark.parametrize("words", [[], ["tracker=none"], ["algorithm=grpo"], ["trainer.rl.updates=60"]])
def test_a_clone_without_a_change_is_the_same_run(parent: Run, words: list[str]) -> None:
    said = refused(parent.root, 20, words, None)
    assert "would be the same run; to resume that run, repeat its command" in said


def test_settings_that_the_checkpoint_depends_on_are_refused_together(parent: Run) -> None:
    words = ["seed=1", "dataset.list_length=3", "model.layers=3", "trainer.rl.group_size=2", "trainer.sft.updates=3"]
    words += ["adapter=lora", "trainer.optimizer=adafactor"]
    said = refused(parent.root, 20, [*words, "evaluation.every=3", "generation.max_new_tokens=9"], None)
    assert "a clone may not change adapter, because" in said
    assert "trainer.optimizer, because the checkpoint has its states" in said
    for key in ("seed", "dataset.list_length", "model.layers", "trainer.rl.group_size", "trainer.sft.updates"):
        assert f"a clone may not change {key}, because" in said
    assert "curves and scores of both" in said and "greedy lists of both" in said


@pytest.mark.parametrize(
    ("at", "words", "reasons"),
    [
        (20, ["algorithm=dpo"], ["a clone needs an algorithm of policy optimisation"]),
        (20, ["algorithm=grop"], ["Did you mean 'grpo'?"]),
        (20, ["trainer.rl.learning_rate=-1"], ["trainer.rl.learning_rate = -1"]),
        (30, ["reward=dcg"], ["has no checkpoint of update 30"]),
        (20, ["algorithm=grpo,gspo"], ["one run has one value"]),
        (20, ["algorithm=rank_grpo"], []),
    ],
)
def test_other_problems_do_not_hide_behind_a_setting_that_may_not_change(
    parent: Run, at: int, words: list[str], reasons: list[str]
) -> None:
    said = refused(parent.root, at, ["seed=1", *words], None)
    for reason in ["a clone may not change seed", *reasons]:
        assert said.count(reason) == 1
    assert "would be the same run" not in said


@pytest.mark.parametrize(
    ("at", "words", "reason"),
    [
        (30, ["reward=dcg"], "has no checkpoint of update 30 (checkpoints: 20, 40)"),
        (40, ["trainer.rl.updates=40"], "leaves nothing to train at trainer.rl.updates = 40"),
        (20, ["trainer.rl.token_budget=2000"], "had generated 2,000 tokens at update 20, which count"),
        (20, ["algorithm=grop"], "Did you mean 'grpo'?"),
        (20, ["algorithm=dpo"], "a clone needs an algorithm of policy optimisation"),
        (20, ["algorithm=grpo,gspo"], "one run has one value"),
        (20, ["trainer.rl.learning_rate=x"], "must be a number"),
        (20, ["trainer.rl.learning_rate=-1"], "trainer.rl.learning_rate = -1"),
        (20, ["reward=dcg", "evaluation.checkpoint=best"], "and they are gone"),
    ],
)
def test_what_cannot_be_cloned_is_refused(parent: Run, at: int, words: list[str], reason: str) -> None:
    assert reason in refused(parent.root, at, words, None)


def test_damage_and_other_stages_are_refused(parent: Run, tmp_path: Path) -> None:
    assert "is not a run directory" in refused(tmp_path, None, ["reward=dcg"], None)
    (parent.checkpoints / "checkpoint-20" / "rlbench.json").write_text("{ }")
    assert "is damaged" in refused(parent.root, 20, ["reward=dcg"], None)
    IDENTITY.write(parent.root, {**json.loads((parent.root / "identity.json").read_text()), "seed": 3})
    assert "was made from other inputs" in refused(parent.root, 40, ["reward=dcg"], None)
    IDENTITY.write(parent.root, {"stage": "sft"})
    assert "only RL runs can be cloned" in refused(parent.root, 20, ["reward=dcg"], None)
