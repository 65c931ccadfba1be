"""Dropout of a model's own, which RL turns off."""

import copy

import pytest
import torch

from rlbench.models.dropout import without_dropout
from rlbench.models.shared_prompt import reason_against
from tests.helpers_models import FAMILIES, VOCABULARY, WITHOUT_DROPOUT, tiny_model

RATES = dict.fromkeys(WITHOUT_DROPOUT, 0.3)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_passes_of_training_are_equal_and_those_of_evaluation(family: str) -> None:
    model = tiny_model(family, **RATES)
    ids = torch.arange(2 * 12).reshape(2, 12) % VOCABULARY
    with torch.no_grad():
        first, second = (model(input_ids=ids).logits for _ in range(2))
        assert not torch.equal(first, second)  # the rates count
        wanted = copy.deepcopy(model).eval()(input_ids=ids).logits
        without_dropout(model)
        assert model.training
        torch.testing.assert_close(model(input_ids=ids).logits, wanted, atol=1e-12, rtol=1e-12)
    assert "dropout" not in str(reason_against(model))
