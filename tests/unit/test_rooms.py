"""The rooms of the package: which room imports which, and the picture of them."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = sorted(path.parent for path in (ROOT / "rlbench").glob("*/__init__.py"))
LIGHT = ("analysis.report", "analysis.tables", "rlbench.run", "rlbench.config.schema", "rlbench.lists.relevance")


def test_imports_keep_the_contracts():
    found = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout


def test_every_room_is_in_the_order_and_says_what_it_is_for():
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "img" / "rooms.py")
    rooms = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rooms)
    assert sorted(sum(rooms.layers(), [])) == [room.name for room in ROOMS]
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.drawing(), "run python docs/img/rooms.py"
    for room in ROOMS:
        assert ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))), room.name


@pytest.mark.parametrize("module", LIGHT)
def test_what_needs_no_model_loads_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
