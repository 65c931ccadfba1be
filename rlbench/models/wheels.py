"""Where the GGUF of a wheel is, as installed and as converted in the cache. Loads neither torch nor transformers."""

import json
from importlib import metadata
from pathlib import Path

from rlbench.base.digests import check_cached
from rlbench.base.errors import BadInput

LAYOUT = 2
"""Version of the output of `rlbench.models.gguf.convert_gguf`; part of the cache folder's name."""


def installed_gguf(package: str, version: str, member: str) -> Path | None:
    """The member as a file of the installed package, or None if this version of it is not installed."""
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(member)))
    return path if distribution.version == version and path.is_file() else None


def converted_gguf(package: str, version: str, member: str, digest: str | None, cache_dir: Path) -> Path | None:
    """The finished folder in the cache, or None. With a digest, only of that GGUF.

    Raises:
        BadInput: several folders match, or one is damaged.
    """
    pattern = converted_name(package, version, digest or "????????")
    found = []
    for folder in sorted(cache_dir.glob(pattern)):
        check_cached(folder)
        recorded = json.loads((folder / "source.json").read_text(encoding="utf-8"))
        if recorded["member"] == member and digest in (None, recorded["sha256"]):
            found.append(folder)
    if len(found) > 1:
        names = ", ".join(folder.name for folder in found)
        raise BadInput(f"{cache_dir} has different files named {member}: {names}; keep one")
    return found[0] if found else None


def converted_name(package: str, version: str, digest: str) -> str:
    """Name of the folder of a converted GGUF."""
    return f"{package}-{version}-{digest[:8]}-v{LAYOUT}"
