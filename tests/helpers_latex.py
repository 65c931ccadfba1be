"""Helpers for tests that compile LaTeX."""

import shutil
import subprocess
from pathlib import Path

import pytest

# TeX takes hundreds of megabytes, so CI does not install it and skips these tests.
needs_pdflatex = pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="there is no pdflatex (apt-get install texlive-latex-recommended)"
)


def compile_latex(folder: Path, document: str) -> str:
    """Compile a document in a folder as paper.tex, and return what pdflatex has printed."""
    (folder / "paper.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout
