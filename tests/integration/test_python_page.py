"""docs/python.md and the notebooks work as written."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import rlbench
from tests.helpers import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_the_page_shows_every_name():
    code = "\n".join(BLOCKS)
    shown = {name for name in rlbench.__all__ if f"rlbench.{name}(" in code or f"rlbench.{name}" in PAGE}
    assert set(rlbench.__all__) - shown == {"Runs"}  # what read and run return


def test_notebooks_hold_no_outputs_and_valid_code():
    assert [path.stem for path in NOTEBOOKS] == ["compare", "credit", "curves"]
    for path in NOTEBOOKS:
        content = json.loads(path.read_text(encoding="utf-8"))
        nbformat.validate(content)
        for cell in content["cells"]:
            if cell["cell_type"] == "code":
                assert cell["outputs"] == [] and cell["execution_count"] is None
                compile("".join(cell["source"]), path.name, "exec")


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "page"}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"docs/python.md, block {number}", "exec"), names)
    assert Path("curves.pdf").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In an empty folder, without a GPU."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    notebook = nbformat.read(path, as_version=4)
    done = NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [
        output for cell in done.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 2
