"""The package as installed by a user: contents of the wheel, and a run from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.slow

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def _tracked(*folders: str) -> list[str]:
    asked = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in asked.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network, from a copy of the tracked files."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in _tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    before = sorted(source.rglob("*"))
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(out)]
    subprocess.run([*PIP, "wheel", "--quiet", *options, str(source)], check=True)
    assert sorted(source.rglob("*")) == before  # a build leaves no files that a later one would pick up
    (found,) = out.iterdir()
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the installed wheel; its dependencies come from this environment."""
    target = tmp_path_factory.mktemp("installed")
    subprocess.run([*PIP, "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel], check=True)
    return target


def test_the_wheel_holds_code_configs_and_experiments(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.partition("/")[0].endswith(".dist-info")}
        metadata = archive.read(f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info/METADATA").decode()
    code = {*_tracked("rlbench", "analysis", "hydra_plugins")}
    data = {f"rlbench/{name}" for name in _tracked("conf", "experiments")}
    assert names == code | data
    assert "\nRequires-Dist: torch>=" in metadata and '\nRequires-Dist: ray; extra == "ray"' in metadata
    assert "\nRequires-Python: <3.14,>=3.11\n" in metadata and "\nLicense-File: LICENSE\n" in metadata


def test_a_sweep_and_its_report_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """Cells run in separate processes and use nothing of the checkout."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(installed), "WANDB_MODE": "offline"}

    def rlbench(*arguments: str) -> str:
        # The script of a wheel installed by --target begins with this interpreter.
        done = subprocess.run(
            [str(installed / "bin" / "rlbench"), *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (tmp_path / "analysis.py").write_text("raise ImportError('a file of the user took the place of the package')\n")
    assert "rlbench run +debug=smoke" in rlbench("run", "--help")
    assert "python run.py" not in rlbench("run", "--help")
    rlbench("run", "-m", "+debug=smoke", "seed=0,1", "tracker=none")
    cells = sorted((tmp_path / "runs/smoke/mini-tiny/rank_grpo-relevance").iterdir())
    assert [cell.name.partition("-")[0] for cell in cells] == ["seed0", "seed1"]
    for cell in cells:
        manifest = json.loads((cell / "manifest.json").read_text())
        assert manifest["command"][:2] == ["rlbench", "run"]
        assert manifest["git"]["commit"] is None and manifest["git"]["version"]
    planned = json.loads((tmp_path / "runs/smoke/sweep.json").read_text())["cells"]
    assert all(cell["command"][:3] == ["rlbench", "run", "+debug=smoke"] for cell in planned.values())
    rlbench("status", "runs/smoke")
    rlbench("report", "runs/smoke", "--resamples", "20")
    page = (tmp_path / "reports/smoke/report.html").read_text(encoding="utf-8")
    assert "rlbench report runs/smoke" in page and "run.py" not in page
    reproduced = rlbench("reproduce", "table1")
    assert "rlbench run +table1=sweep" in reproduced
    assert not (tmp_path / "conf").exists()
