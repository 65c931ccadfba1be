"""The config reference in the documentation matches the schema and `conf/`, and named paths and modules exist."""

import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest

from docs.hooks import config_keys
from rlbench.config.bounds import BOUNDS, NULLABLE, Bound
from rlbench.config.datasets import schemas
from rlbench.config.models import model_schemas
from rlbench.config.schema import ALGORITHMS, Config
from tests.helpers import ROOT

SCHEMAS = {"algorithm": ALGORITHMS, "dataset": schemas(), "model": model_schemas()}


def leaves(kind, prefix=""):
    for name, hint in get_type_hints(kind).items():
        if name not in {field.name for field in fields(kind)} or name == "clone":
            continue  # class variable, or no setting
        variants = SCHEMAS[name].values() if kind is Config and name in SCHEMAS else [hint]
        for found in variants:
            if is_dataclass(found):
                yield from leaves(found, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"


@pytest.fixture(scope="module")
def found():
    return [key for section in config_keys.sections().values() for key in section]


def test_every_setting_of_the_schema_is_listed_and_nothing_else(found):
    assert {key.name for key in found} == set(leaves(Config))


def test_every_setting_has_a_meaning(found):
    assert not [key.name for key in found if len(key.meaning) < 10]


def test_ranges_and_null_are_those_that_are_checked(found):
    numbers = {key.name: key for key in found if key.bound}
    assert set(BOUNDS) <= set(numbers)
    assert {name for name, key in numbers.items() if key.kind.endswith("or null")} == NULLABLE


@pytest.mark.parametrize(
    ("bound", "shown"),
    [
        (Bound(0, 1, open_low=True), "(0, 1]"),
        (Bound(), "(−∞, ∞)"),
        (Bound(2, 2**31 - 1), "[2, 2³¹ − 1]"),
        (Bound(0, 1, open_high=True), "[0, 1)"),
    ],
)
def test_intervals(bound, shown):
    assert config_keys.interval(bound) == shown


def test_a_row_of_the_page():
    page = config_keys.page()
    assert (
        "| `trainer.rl.num_iterations` | int | `1`<br>`mini-tiny`: 2<br>`redial_official-smollm2_135m`: 2<br>"
        "`redial_official-tiny`: 2 | [1, 2³¹ − 1] | "
        "Updates on each rollout, the paper's mu; 1 is on-policy. |" in page.replace("\N{NO-BREAK SPACE}", " ")
    )
    widths = {len(re.split(r"(?<!\\)\|", line)) for line in page.splitlines() if line.startswith("|")}
    assert widths == {7}  # all rows have the same five cells: no value adds a separator


def test_the_page_is_made_without_torch():
    code = "import sys; from docs.hooks import config_keys; config_keys.page(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


PAGES = [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/tutorial/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def named_paths(text):
    """Return repository paths named in a text. `conf/dataset/NAME.yaml` is cut before its placeholder."""
    found = re.findall(
        r"(?<![\w/])((?:rlbench|analysis|tests|conf|examples|experiments|benchmarks|docs)/[\w./-]*)", text
    )
    return {re.split(r"[A-Z]{4}\.", path)[0].rstrip(".") for path in found}


def named_modules(text):
    """Return dotted names that start with a package of this repository, without file names."""
    found = re.findall(r"(?<![\w/])((?:rlbench|analysis|benchmarks)(?:\.[a-z_]\w*)+)", text)
    return {name for name in found if not name.endswith((".json", ".md"))}


def is_there(module):
    """Return whether a dotted name is a module or a name inside one."""
    folder, *parts = [ROOT / module.split(".")[0], *module.split(".")[1:]]
    for part in parts:
        if (folder / f"{part}.py").exists():
            return True
        if not (folder / part).is_dir():
            return part in (folder / "__init__.py").read_text(encoding="utf-8")
        folder /= part
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_modules_that_a_page_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    # The `*` matches what follows a "{" or "<", where the pattern stops.
    assert not [path for path in named_paths(text) if not list(ROOT.glob(f"{path}*" if path[-1] != "/" else path))]
    assert not [module for module in named_modules(text) if not is_there(module)]


def test_a_file_or_module_that_is_not_there_is_found():
    text = "`rlbench/lists/none.py` `rlbench.lists.none` `rlbench.lists.metrics` `conf/dataset/NAME.yaml` `mine/conf/a`"
    assert [path for path in named_paths(text) if not list(ROOT.glob(f"{path}*"))] == ["rlbench/lists/none.py"]
    assert [module for module in named_modules(text) if not is_there(module)] == ["rlbench.lists.none"]
