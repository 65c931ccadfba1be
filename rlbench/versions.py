"""Versions of Python and of the packages that results depend on: the present ones, and those of earlier runs.

They are no part of a run's identity, since few changes of version change a result. So a command that uses a run which
other versions have made says so. Importing this module loads no torch.
"""

import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from rlbench.files import read_object

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
"""Runs that a notice names; more are counted."""
REMEDY = "put it back from a copy, or move the run directory away"


def present() -> dict[str, str]:
    """Package to version, and python."""
    return {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}


def differing(root: Path) -> tuple[str, ...]:
    """Packages whose versions were others when a run was made, each with both versions.

    Nothing is said of packages whose version the run has not recorded, nor where it has no manifest.json yet.

    Args:
        root: the run directory.

    Raises:
        BadInput: where its manifest.json cannot be read.
    """
    path = root / "manifest.json"
    if not path.exists():
        return ()
    manifest = read_object(path, REMEDY)
    there: dict[str, object] = {}
    for key in ("packages", "versions"):  # of all that was installed, and of what counts, which has python too
        part = manifest.get(key)
        there |= part if isinstance(part, dict) else {}
    now = present()
    return tuple(
        f"{name} {_word(there[name])} there, {now[name]} now" for name in now if there.get(name, now[name]) != now[name]
    )


def _word(value: object) -> str:
    """A version as a line can show it, whatever stands in a manifest that someone else has made."""
    return value if isinstance(value, str) and value.isascii() and value.isprintable() else ascii(value)


def notice(roots: Iterable[Path]) -> str:
    """One sentence on the runs that other versions have made or begun; "" where there are none.

    Raises:
        BadInput: as `differing`.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for root in roots:
        if said := differing(root):
            found.setdefault(said, []).append("/".join(root.parts[-2:]))
    told = [f"{_named(names)} ({', '.join(said)})" for said, names in found.items()]
    if not told:
        return ""
    return (
        f"made with other versions of packages than the present ones: {'; '.join(told)}. Their numbers may differ from "
        "what the same command would compute now; move them away to make them anew"
    )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
