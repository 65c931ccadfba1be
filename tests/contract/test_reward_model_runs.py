"""A reward model that is trained with the policy: exact resume, and one run on two processes."""

import pytest
import torch

from rlbench.running.checks import check_config
from rlbench.training.callbacks import REWARD_MODEL_FILE
from tests.conftest import composed
from tests.contract.test_resume_of_state import Stopped, StopsAt, equal, train, weights
from tests.contract.test_sampling_runs import SEVERAL

WORDS = [word for word in SEVERAL if "success" not in word]


def of(folder, against):
    reward = [f"+reward.terms.reward_model={{weight:1.0,against:{against},rate:0.05}}"]
    return composed(*WORDS, *reward, f"runs_dir={folder}")


def kept(run, step):
    return torch.load(run.checkpoints / f"checkpoint-{step}" / REWARD_MODEL_FILE, weights_only=True)


@pytest.mark.parametrize("against", ["policy", pytest.param("catalogue", marks=pytest.mark.slow)])
def test_resumed_is_never_stopped(against, mini, start, tmp_path):
    assert not check_config(of(tmp_path, against))
    whole = train(of(tmp_path / "whole", against), start, mini)
    with pytest.raises(Stopped):
        train(of(tmp_path / "stopped", against), start, mini, StopsAt(5))
    run = train(of(tmp_path / "stopped", against), start, mini)
    assert run.read_metrics() == whole.read_metrics()
    assert equal(weights(run), weights(whole))
    there, again = kept(whole, 6), kept(run, 6)
    assert equal(there["weights"], again["weights"])
    for place, moments in there["optimiser"]["state"].items():
        assert equal(moments, again["optimiser"]["state"][place])
    values = [row["value"] for row in whole.read_metrics() if row["metric"] == "term/reward_model"]
    if against == "catalogue":  # its lessons do not depend on what an untrained policy writes
        assert there["weights"]["of_titles"].abs().max() > 0
    assert len(values) > 1
