"""The git state of the code. Loads no torch."""

import hashlib
import os
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

from rlbench import __version__
from rlbench.base import program
from rlbench.base.content import combined, file_digest

OUTPUTS = ("runs", "reports", "figures", "multirun", "wandb", ".cache")
"""Folders in the repository that our commands write to."""
CONFIGURATION = ("conf", "experiments")
"""Folders with YAML files that Hydra composes into a run's config."""
DATA_OF_CODE = ("rlbench", "hydra_plugins")
"""Folders in which a run may read files of any type, such as rlbench/data/films.csv."""
NO_COMMIT = {"commit": None, "dirty": None, "changed": None, "diff_sha256": None}


def git_state(root: Path) -> dict[str, Any]:
    """Return the commit of the code below `root`, and how the files differ from it.

    Two kinds of files count: tracked files that were modified or deleted, and untracked files that a run could import
    or compose (`affects_runs`). Files in `OUTPUTS` never count.

    Returns:
        `commit`; `dirty`: whether any file counts; `changed`: their sorted paths below `root`; `diff_sha256`: digest of
        the differences, None if there are none. All are None without git, or if the repository does not track the files
        (an installed copy).
    """

    def ask(*arguments: str) -> bytes | None:
        try:
            return subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):  # git is missing, or this is no repository (an installed copy)
            return None

    commit, tracked = ask("rev-parse", "HEAD"), ask("ls-files", "-z")
    if commit is None or not tracked:
        return dict(NO_COMMIT)
    outside = ["--", ".", *(f":(exclude){folder}" for folder in OUTPUTS)]
    diff = ask("diff", "HEAD", "--binary", "--relative", *outside) or b""
    changed = _names(ask("diff", "HEAD", "--name-only", "--relative", "-z", *outside))
    untracked = [name for name in _names(ask("ls-files", "--others", "--exclude-standard", "-z")) if affects_runs(name)]
    digest = hashlib.sha256(diff)
    for name in untracked:
        path = root / name
        if path.is_file():
            with path.open("rb") as file:
                digest.update(os.fsencode(name) + hashlib.file_digest(file, "sha256").digest())
    names = sorted({*changed, *untracked})
    return {
        "commit": commit.decode().strip(),
        "dirty": bool(names),
        "changed": names,
        "diff_sha256": digest.hexdigest() if names else None,
    }


def code_state() -> dict[str, Any]:
    """The state of the code of this process: `git_state` of the checkout.

    An installed copy has no commit. It has two more keys: `version` of the package, and `sha256` of its files, since
    two copies of one version may have been made from different commits.
    """
    if not program.INSTALLED:
        return git_state(program.ROOT)
    files = [path for folder in program.FOLDERS for path in sorted(folder.rglob("*")) if path.is_file()]
    digests = {path.relative_to(program.ROOT).as_posix(): file_digest(path) for path in files if path.suffix != ".pyc"}
    return NO_COMMIT | {"version": __version__, "sha256": combined(digests)}


def affects_runs(name: str) -> bool:
    """Whether a file could affect a run without being named: by import, by composition, or as data of the code.

    Args:
        name: path relative to the repository.
    """
    path = PurePosixPath(name)
    top = path.parts[0]
    if top in OUTPUTS:
        return False
    if top in DATA_OF_CODE:
        return True
    if path.suffix in (".yaml", ".yml"):
        return top in CONFIGURATION
    module = (*path.parent.parts, path.stem)
    return path.suffix in (".py", ".so") and all(part.split(".")[0].isidentifier() for part in module)


def _names(listed: bytes | None) -> list[str]:
    return sorted(os.fsdecode(name) for name in (listed or b"").split(b"\0") if name)
