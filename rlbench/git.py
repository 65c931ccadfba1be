"""The state of the code in git. Loads no torch."""

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

RUNS = ("run.py", "rlbench", "conf", "hydra_plugins")
"""What decides how a run computes, below the repository."""


def git_state(root: Path) -> dict[str, Any]:
    """Commit, whether the tree differs from it, and the sha256 of the difference: `git diff HEAD`, and the files of
    code and configuration (`RUNS`) that git neither tracks nor ignores. All null where there is no git, or no
    repository."""

    def ask(*arguments: str) -> bytes | None:
        try:
            return subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):  # no git, or no repository (an installed copy)
            return None

    commit, status = ask("rev-parse", "HEAD"), ask("status", "--porcelain")
    if commit is None or status is None:
        return {"commit": None, "dirty": None, "diff_sha256": None}
    if not status:
        return {"commit": commit.decode().strip(), "dirty": False, "diff_sha256": None}
    digest = hashlib.sha256(ask("diff", "HEAD", "--binary") or b"")
    for name in sorted((ask("ls-files", "--others", "--exclude-standard", "-z", "--", *RUNS) or b"").split(b"\0")):
        path = root / os.fsdecode(name)
        if name and path.is_file():
            with path.open("rb") as file:
                digest.update(name + hashlib.file_digest(file, "sha256").digest())
    return {"commit": commit.decode().strip(), "dirty": True, "diff_sha256": digest.hexdigest()}
