"""The group that `rlbench.inspect` and `rlbench.sample_group` show has the credit of an update, rank by rank."""

import io
import re

import pytest
import torch
from rich.console import Console

from rlbench.commands.inspection import best, sample_group, show
from tests.conftest import SMALL, composed

SETTINGS = [*SMALL, "generation.max_new_tokens=64", "generation.constraint=catalogue", "generation.temperature=1"]
"""An untrained model that may only list items of the catalogue: some of its entries are hits."""


@pytest.mark.parametrize("algorithm", ["grpo", "rank_grpo", "rlmlr"])
def test_each_rank_is_shown_with_the_advantage_of_its_tokens(algorithm, tiny_folder):
    """Also where the credited units are not the ranks: one list, or a list next to its ranks (hybrid)."""
    config = composed(*SETTINGS, f"algorithm={algorithm}")
    group = sample_group(config, tiny_folder, prompt=0, group_size=12, seed=0)
    n = config.dataset.list_length
    assert group.returns.shape == group.advantages.shape == (12, n)
    seen = 0
    for which, (units, advantages) in enumerate(zip(group.unit_ids, group.token_advantages, strict=True)):
        for rank in range(n):
            of_tokens = advantages[units == rank]
            torch.testing.assert_close(of_tokens, group.advantages[which, rank].expand_as(of_tokens))
            seen += bool(of_tokens.ne(0).any())
    assert seen > 1, "some ranks have credit"

    which = best(group)
    shown = io.StringIO()
    show(group, config, which, Console(file=shown, width=200))
    entries = group.lists[which].parsed.entries[:n]
    rows = re.findall(r"^│ +(\d+) +│.*│ +([-\d.]+) +│ +([-+\d.]+) +│$", shown.getvalue(), re.MULTILINE)
    expected = zip(range(len(entries)), group.returns[which], group.advantages[which], strict=False)
    assert rows == [(str(rank + 1), f"{worth:.3f}", f"{credit:+.3f}") for rank, worth, credit in expected] != []
