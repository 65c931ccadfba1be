"""Cells composed together equal cells that Hydra composes one by one."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from rlbench.config.resolving import resolve
from rlbench.config.schema import POLICY_OPTIMISATION
from rlbench.launching.composing import compose_cells
from rlbench.running.cli import CONF, methods
from tests.conftest import slow

KINDS = [
    ["seed=3"],
    ["seed=3", "trainer.rl.learning_rate=1e-3", "trainer.rl.updates=7", "variant='learning_rate=1e-3'"],
    ["reward=log_decay", "matching=tolerant", "algorithm.kl.beta=0.01"],
    ["+debug=smoke", "evaluation.metric=recall@5", "trainer.rl.learning_rate=1e-3"],
    ["experiment=mini_ablation", "algorithm.credit=sequence", "variant=${algorithm.credit}"],
    ["dataset=redial", "model=qwen2.5_0.5b", "dataset.path=folder", "dataset.cutoffs=[1,5]"],
    ["dataset.contexts={train:40,validation:6,test:6}", "++trainer.rl.updates=9", "trainer.rl.updates=8"],
    [
        "+reward.terms.value={weight:1.0,alpha:2.0}",
        "~rates",
        "trainer.rl.learning_rate=1e-3",
        "tracker=none",
        "plugins=[a.py,b]",
    ],
    ["experiment=mini", "algorithm={credit:rank,kl:{beta:0.5}}", "runs_dir='a b=c'"],
]
"""Overrides of a cell besides its algorithm: values, groups, both in any order, and values in place of a group."""


def one_by_one(composed: DictConfig, cells: list[list[str]]) -> list[DictConfig]:
    configs = [GlobalHydra.instance().config_loader().load_sweep_config(composed, cell) for cell in cells]
    return [OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]) for config in configs]


def same(ours: list[DictConfig], hydras: list[DictConfig]) -> bool:
    return [OmegaConf.to_container(c) for c in ours] == [OmegaConf.to_container(c) for c in hydras]


def together(*own: str, cells: list[list[str]]) -> tuple[list[DictConfig], list[DictConfig]]:
    composed = compose("config", overrides=list(own), return_hydra_config=True)
    ours = list(compose_cells(GlobalHydra.instance().config_loader(), composed, cells))
    return ours, one_by_one(composed, cells)


@pytest.mark.parametrize("first", [0, *slow(1, 2, 3, 4, 5)])
def test_every_algorithm_with_another_kind_of_overrides(first):
    names = methods(POLICY_OPTIMISATION)[first::6]
    cells = [[f"algorithm={name}", *KINDS[number % len(KINDS)]] for number, name in enumerate(names)]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        ours, hydras = together(cells=cells)
    assert same(ours, hydras) and len(ours) == len(names) > len(KINDS)
    assert [resolve(config) for config in ours] == [resolve(config) for config in hydras]


def test_both_families_in_one_sweep():
    cells = [["algorithm=grpo"], ["algorithm=dpo", "algorithm.beta=0.2"], ["algorithm=rank_grpo"], ["algorithm=sprec"]]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        ours, hydras = together(cells=cells)
    assert same(ours, hydras)
    assert [resolve(config).label for config in ours] == [
        f"{n}-relevance" for n in ("grpo", "dpo", "rank_grpo", "sprec")
    ]


@pytest.mark.slow
def test_every_kind_in_one_sweep_whatever_came_before():
    cells = [[*kind, f"seed={seed}"] for seed in (1, 2) for kind in KINDS]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        ours, hydras = together("hydra.launcher.jobs=2", cells=cells)
    assert same(ours, hydras)


def test_cells_share_nothing_that_one_could_change():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        ours, _ = together(cells=[["seed=0"], ["seed=1"]])
    ours[0].trainer.rl.updates = 12345
    assert ours[1].trainer.rl.updates != 12345 and ours[1].seed == 1
    first, second = (resolve(config) for config in ours)
    first.trainer.rl.updates = 1
    assert second.trainer.rl.updates != 1 and resolve(ours[1]).trainer.rl.updates == second.trainer.rl.updates


def test_groups_of_a_folder_of_ones_own(tmp_path: Path):
    (tmp_path / "algorithm").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "algorithm" / "own.yaml").write_text("defaults: [grpo]\nname: own\n")
    (tmp_path / "mine" / "short.yaml").write_text("# @package _global_\ntrainer: {rl: {updates: 3}}\n")
    cells = [[f"algorithm={name}", *more] for name in ("own", "grpo") for more in (["seed=1"], ["+mine=short"])]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        ours, hydras = together(f"hydra.searchpath=['file://{tmp_path}']", cells=cells)
    assert same(ours, hydras)
    assert [config.algorithm.name for config in ours] == ["own", "own", "grpo", "grpo"]
    assert [config.trainer.rl.updates for config in ours][1::2] == [3, 3]


@pytest.mark.parametrize(
    "cell",
    [["trainer.rl.nothing=1"], ["algorithm=nothing"], ["seed.deeper=1"], ["seed=1,2"], ["+seed=1"], ["~nothing"]],
)
def test_what_hydra_refuses_is_refused(cell: list[str]):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()
        with pytest.raises(Exception) as hydras:
            one_by_one(composed, [cell])
        with pytest.raises(type(hydras.value)):
            list(compose_cells(loader, composed, [["seed=0"], cell]))


def test_the_step_of_hydra_that_is_used_by_itself():
    """`compose_cells` calls a private function of Hydra, which applies values after groups."""
    config = OmegaConf.create({"a": {"b": 1}})
    OmegaConf.set_struct(config, True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        assert isinstance(loader, ConfigLoaderImpl)
        defaults = loader.compute_defaults_list("config", ["algorithm=grpo", "seed=4"], None)
    assert [override.input_line for override in defaults.config_overrides] == ["seed=4"]
    with pytest.raises(ConfigCompositionException):
        ConfigLoaderImpl._apply_overrides_to_config(defaults.config_overrides, config)
