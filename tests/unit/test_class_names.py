"""No two classes of rlbench and analysis share a name: each name means one thing."""

import ast
from collections import defaultdict

from tests.helpers import ROOT

ROOMS = ("rlbench", "analysis")


def test_no_two_public_classes_share_a_name():
    places = defaultdict(list)
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(path.relative_to(ROOT).as_posix())
    assert not {name: paths for name, paths in places.items() if len(paths) > 1}
