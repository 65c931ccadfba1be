"""The table of learning rates: which row applies, what is refused, and what a dry run shows."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rlbench.base.errors import BadInput
from rlbench.base.program import CONF
from rlbench.config.rates import RateRow, row_for
from rlbench.config.resolving import resolve
from rlbench.running.plan import learning_rates
from rlbench.runs.identity import stage_settings
from tests.conftest import composed

TABLE = "rates=[{algorithm:grpo,reward:dcg,rate:2e-3,source:here},{model:tiny,rate:1e-3,steps:{2:5e-4},source:there}]"


def test_the_first_row_whose_names_all_fit_counts():
    narrow = RateRow(1.0, "a sweep", algorithm="grpo", reward="dcg")
    wide, other = RateRow(2.0, "a paper", algorithm="grpo"), RateRow(3.0, "a guess")
    grpo = {"algorithm": "grpo", "reward": "dcg", "dataset": "mini", "model": "tiny"}
    assert row_for([narrow, wide, other], grpo) is narrow
    assert row_for([wide, narrow], grpo) is wide
    assert row_for([narrow, wide, other], grpo | {"reward": "recall"}) is wide
    assert row_for([narrow, wide, other], grpo | {"algorithm": "gspo"}) is other
    assert row_for([narrow, wide], grpo | {"algorithm": "gspo"}) is None and row_for([], grpo) is None


def test_rate_and_steps_are_those_of_the_row_unless_given():
    null = [TABLE, "trainer.rl.learning_rate_steps=null"]
    rl = composed(*null).trainer.rl
    assert (rl.learning_rate, rl.learning_rate_steps) == (1e-3, {2: 5e-4})
    rl = composed(*null, "trainer.rl.learning_rate=7e-3").trainer.rl
    assert (rl.learning_rate, rl.learning_rate_steps, rl.learning_rate_source) == (7e-3, {2: 5e-4}, "")
    rl = composed(TABLE, "algorithm=grpo", "reward=dcg").trainer.rl
    assert (rl.learning_rate, rl.learning_rate_steps) == (2e-3, {})
    assert rl.learning_rate_source == "the table, for algorithm=grpo, reward=dcg (here)"


def test_other_settings_may_refer_to_the_rate_and_the_composed_config_stays():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[TABLE, "variant=lr${trainer.rl.learning_rate}"])
    before = OmegaConf.to_container(cfg)
    assert resolve(cfg).variant == "lr0.001" and OmegaConf.to_container(cfg) == before


def test_the_source_is_no_part_of_a_run():
    table, given = composed(TABLE), composed("trainer.rl.learning_rate=1e-3")
    assert table.trainer.rl.learning_rate_source != given.trainer.rl.learning_rate_source
    assert stage_settings(table, "rl") == stage_settings(given, "rl")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["dataset=redial", "trainer.rl.learning_rate=null"],
            "trainer.rl.learning_rate = null, and no row of rates fits",
        ),
        (
            ["rates=[{algorithm:dpo,rate:1,source:s}]"],
            "fits algorithm=rank_grpo, reward=relevance, dataset=mini, model=tiny",
        ),
        (["rates=[1]"], r"rates = \[1\] should be a list of rows"),
        (["rates=[{algorithm:dpo,source:s}]"], r"rates\[0\].rate is missing"),
        (["rates=[{rate:1,source:s},{rate:fast,source:s}]"], r"rates\[1\].rate = 'fast' must be a number"),
        (["rates=[{rate:1,source:s,methd:dpo}]"], r"rates\[0\] has no key 'methd'"),
    ],
)
def test_what_is_refused(overrides: list[str], said: str):
    with pytest.raises(BadInput, match=said) as error:
        composed(*overrides)
    assert len(error.value.problems) == 1


def test_a_dry_run_says_where_each_rate_is_from():
    grpo, dcg = composed(TABLE, "algorithm=grpo"), composed(TABLE, "algorithm=grpo", "reward=dcg")
    assert learning_rates([grpo]) == ["learning rate 0.001: from the table, for model=tiny (there)"]
    given = composed(TABLE, "algorithm=gspo", "trainer.rl.learning_rate=1e-5")
    assert learning_rates([grpo, dcg, given, given]) == [
        "learning rate 0.001 of grpo-relevance: from the table, for model=tiny (there)",
        "learning rate 0.002 of grpo-dcg: from the table, for algorithm=grpo, reward=dcg (here)",
        "learning rate 1e-05 of gspo-relevance: as given",
    ]
    assert learning_rates([composed("stage=sft")]) == []
