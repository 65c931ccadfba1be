"""Fixtures of the contract tests."""

from pathlib import Path

import pytest

from tests.helpers_training import load


@pytest.fixture(scope="session")
def start(tiny_folder, tmp_path_factory) -> Path:
    """The small `tiny`, with completions of different lengths."""
    folder = tmp_path_factory.mktemp("start")
    for part in load(tiny_folder, ends_early=True):
        part.save_pretrained(folder)
    return folder
