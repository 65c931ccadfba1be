"""A start prints nothing of other packages' own."""

import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.slow

WITH_BF16_UNITS = """
import importlib.abc, importlib.machinery, sys

class Patched(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "bitsandbytes.functional":
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        load = found.loader.exec_module
        def exec_module(module):
            load(module)
            module.has_avx512bf16 = lambda: True
        found.loader.exec_module = exec_module
        return found

sys.meta_path.insert(0, Patched())
{first}
import bitsandbytes
"""
"""Imports bitsandbytes as on a CPU with bfloat16 units, where it looks for a faster kernel in a further package."""


def test_bitsandbytes_does_not_warn_about_a_kernel_that_nobody_asked_for() -> None:
    pytest.importorskip("bitsandbytes", reason="pip install -r requirements-bitsandbytes.txt")

    def said(first: str) -> str:
        code = WITH_BF16_UNITS.replace("{first}", first)
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "Failed to load CPU gemm_4bit_forward" in said("")
    assert said("import rlbench.running.runner") == ""
