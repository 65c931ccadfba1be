"""docs/python.md and the notebooks work as written."""

import json
import re
import time
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
    cells = executed(nbformat.read(path, as_version=4), tmp_path)
    assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", [])) >= 2


@pytest.mark.slow
def test_a_failing_cell_is_named(tmp_path: Path):
    code = [nbformat.v4.new_code_cell(source) for source in ("print('before')", "1 / 0")]
    with pytest.raises(pytest.fail.Exception, match=r"(?s)cell 1 of 2 .*1 / 0.*ZeroDivisionError"):
        executed(nbformat.v4.new_notebook(cells=code), tmp_path)
    code[1] = nbformat.v4.new_code_cell("import os\nprint('last words', flush=True)\nos._exit(3)")
    with pytest.raises(pytest.fail.Exception, match=r"(?s)cell 1 of 2 .*os._exit\(3\).*DeadKernelError"):
        executed(nbformat.v4.new_notebook(cells=code), tmp_path)


def executed(notebook: nbformat.NotebookNode, folder: Path) -> list[nbformat.NotebookNode]:
    """The cells of a notebook after all of them have run in a folder. The test fails at the first that fails.

    Some errors of the client, such as that of a kernel that starts too slowly, have no message of their own.
    """
    started, at, count = time.monotonic(), -1, len(notebook.cells)

    def note(cell: nbformat.NotebookNode, cell_index: int) -> None:
        nonlocal at
        at = cell_index

    client = NotebookClient(
        notebook,
        timeout=600,
        startup_timeout=300,
        resources={"metadata": {"path": str(folder)}},
        on_cell_start=note,
    )
    try:
        return client.execute().cells
    except Exception as error:
        cell = notebook.cells[max(at, 0)]
        said = "".join(output.get("text", "") for output in cell.get("outputs", []))
        pytest.fail(
            f"cell {at} of {count} failed {time.monotonic() - started:.0f} s after the start:\n{cell.source}\n\n"
            f"{type(error).__name__}: {error}\n\nits output:\n{said[-4000:]}",
            pytrace=False,
        )
