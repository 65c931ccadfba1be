"""Methods of preference optimisation that keep something: networks, estimates, and policies of earlier rounds."""

import pytest
import torch
from safetensors.torch import load_file

from rlbench.preference.steps import as_matrix, orthogonal
from rlbench.preference.store import Store, preferences
from tests.contract.test_preference import UPDATES, Stopped, StopsAt, same, small
from tests.helpers_safety import totals, train
from tests.helpers_training import load

TWO_ROUNDS = ["algorithm.rounds=2", "trainer.sft.max_length=400"]
METHODS = {
    "meta_apo": ["algorithm=meta_apo", "algorithm.options.meta={every:2,rate:0.5}", *TWO_ROUNDS],
    "mnpo": ["algorithm=mnpo", "algorithm.options.nash={eta:0.5,players:2}", *TWO_ROUNDS],
    "rpo": ["algorithm=rpo", "algorithm.options.posterior={noise:0.2,rate:0.5}", *TWO_ROUNDS],
    "orthogonal": [
        "algorithm=dpo",
        "algorithm.update=orthogonal",
        "+algorithm.options.orthogonal={rank:2}",
        *TWO_ROUNDS,
    ],
}
STOPS = [
    ("meta_apo", 5),
    ("mnpo", 5),
    *(pytest.param(name, stop, marks=pytest.mark.slow) for name in METHODS for stop in (2, 3, 4)),
    pytest.param("rpo", 5, marks=pytest.mark.slow),
    pytest.param("orthogonal", 5, marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def whole(mini, start, tmp_path_factory):
    """Uninterrupted runs, made once each."""
    made = {}

    def run_of(name):
        if name not in made:
            made[name] = train(small(tmp_path_factory.mktemp(name), *METHODS[name]), start, mini)[0]
        return made[name]

    return run_of


@pytest.mark.parametrize(("name", "stop"), STOPS)
def test_resumed_is_never_stopped(name, stop, whole, mini, start, tmp_path):
    """Bit for bit, with what the loss carries: stopped in the first round, between the rounds, and in the second."""
    config = small(tmp_path, *METHODS[name])
    with pytest.raises(Stopped):
        train(config, start, mini, StopsAt(stop))
    run, _, _ = train(config, start, mini)
    same(run, whole(name))
    memories = [totals(one, UPDATES)["memory"] for one in (run, whole(name))]
    assert memories[0] == memories[1]
    assert bool(memories[0]) == (name in ("meta_apo", "rpo"))


def test_earlier_log_probabilities_are_those_of_the_first_policy(whole, mini, start):
    """In the second round, lists are scored under the first round's reference: the model from which the run starts."""
    run = whole("mnpo")
    store = Store(run.root / "preferences")
    table, _ = store.read(1, 1)
    sums = store.read_earlier(1, 1)["sums"].to_pylist()
    own = store.read_reference(1, 1)["logps"].to_pylist()
    _, model = load(start)
    apart = 0.0
    for row, of_tuple, logps in zip(preferences(table, range(3)), sums, own, strict=False):
        ((*of_lists,),) = of_tuple
        for ids, found, now in zip(row.lists, of_lists, logps, strict=True):
            with torch.no_grad():
                every = model(torch.tensor([[*row.prompt, *ids]])).logits[0, :-1].double().log_softmax(-1)
            wanted = sum(every[len(row.prompt) - 1 + i, token].item() for i, token in enumerate(ids))
            assert found == pytest.approx(wanted, abs=1e-3)
            apart = max(apart, abs(found - sum(now)))
    assert apart > 0.01 and not store.earlier(0, 0).exists()


def test_the_second_round_keeps_away_from_the_first(whole):
    """No weight moves inside the span of what the first round has added to it."""
    run = whole("orthogonal")
    store = Store(run.root / "preferences")
    first, second = store.read_weights(0), store.read_weights(1)
    final = load_file(run.final_model / "model.safetensors")
    checked = 0
    for name in set(first) & set(final):
        learned, later = as_matrix(second[name] - first[name]).double(), as_matrix(final[name] - second[name]).double()
        if not learned.any() or not later.any():
            continue
        inside = orthogonal([learned], rank=2).T @ later
        assert inside.norm() < 1e-3 * later.norm()
        checked += learned.shape[1] > 1
    assert checked >= 4


def test_the_network_learns(whole):
    """With steps every two updates, it has made two by the end and holds the slopes of the latest ones."""
    memory = totals(whole("meta_apo"), UPDATES)["memory"]
    assert memory["meta.since"] == 4 and memory["meta.tuples"] == 2 * 4
    assert memory["meta.300"] != 0 and len(memory) == 2 * 301 + 2
