"""progress.json, which a launcher in another process reads."""

import json
from pathlib import Path

from rlbench.base.progress import Progress


def state(file: Path) -> dict:
    return json.loads(file.read_text())


def test_the_first_and_the_last_state_are_written_at_once(tmp_path: Path) -> None:
    file = tmp_path / "progress.json"
    bar = Progress("training", 3, file=file, show=False)
    assert (state(file)["done"], state(file)["total"], state(file)["description"]) == (0, 3, "training")
    bar.to(1)  # too soon: less than half a second later
    assert state(file)["done"] == 0
    bar.to(3, "loss 0.5")
    bar.close()
    assert (state(file)["done"], state(file)["note"], state(file)["first"]) == (3, "loss 0.5", 0)
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


def test_a_resumed_run_says_where_it_began(tmp_path: Path) -> None:
    file = tmp_path / "progress.json"
    bar = Progress("training", 10, file=file, show=False)
    bar._started -= 100.0
    bar.start_at(6)
    bar.to(10)
    bar.close()
    assert state(file)["first"] == 6 and state(file)["seconds"] < 50
