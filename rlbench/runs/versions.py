"""Versions of Python and of the packages that affect results, now and in earlier runs.

Versions are not part of a run's identity, because few version changes alter a result. Instead, a command that uses a
run made with other versions prints a notice. Importing this module loads no torch.
"""

import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from rlbench.base.records import PUT_BACK, read_object
from rlbench.runs.record import MANIFEST

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "trl",
    "accelerate",
    "datasets",
    "hydra-core",
    "wandb",
    "numpy",
    "pandas",
    "scipy",
)
NAMED = 3
"""Maximum number of runs that a notice names. Others are counted."""


def present() -> dict[str, str]:
    """Return the version of each package and of Python."""
    return {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}


def differing(root: Path) -> tuple[str, ...]:
    """Return the packages whose versions differ from those of a run, each with both versions.

    Packages without a recorded version are skipped. Without a manifest.json the result is empty.

    Args:
        root: the run directory.

    Raises:
        BadInput: if manifest.json cannot be read.
    """
    path = root / MANIFEST.name
    if not path.exists():
        return ()
    manifest = read_object(path, PUT_BACK)
    there: dict[str, object] = {}
    for key in ("packages", "versions"):  # all installed packages, then the relevant ones and Python
        part = manifest.get(key)
        there |= part if isinstance(part, dict) else {}
    now = present()
    return tuple(
        f"{name} was {_word(there[name])}, is now {now[name]}"
        for name in now
        if there.get(name, now[name]) != now[name]
    )


def _word(value: object) -> str:
    """Return a version as printable ASCII, whatever a foreign manifest contains."""
    return value if isinstance(value, str) and value.isascii() and value.isprintable() else ascii(value)


def notice(roots: Iterable[Path]) -> str:
    """Return one sentence on the runs made with other versions, or "".

    Raises:
        BadInput: as in `differing`.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for root in roots:
        if said := differing(root):
            found.setdefault(said, []).append("/".join(root.parts[-2:]))
    told = [f"{_named(names)} ({', '.join(said)})" for said, names in found.items()]
    if not told:
        return ""
    return (
        f"made with other package versions than are installed now: {'; '.join(told)}. The same command might give "
        "other numbers today; move these runs away to repeat them"
    )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
