"""Loads user code: modules or Python files with pieces of algorithms, reward terms, datasets, metrics or matchers.

Loading a plugin runs its decorators (`@baselines.piece`, `@rank_term`, `@dataset`, ...), once per process. This module
itself loads no torch.
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rlbench.base.content import combined, file_digest
from rlbench.config.names import odd_path

HINT = " If a plugin adds it, name the plugin: plugins=[FILE.py]"
"""End of messages about unknown names that a plugin may add."""
SHOWN_NAME = 255
"""Maximum characters of an invalid plugin name that a message shows."""
_failed: dict[str, str] = {}
"""Error of each failed plugin, by key. It is not loaded again, because its first pieces are already registered."""
_of_every_stage: set[str] = set()
"""Modules that have registered something that every stage uses: a dataset, a metric or a matcher."""


def for_every_stage(function: Callable[..., Any]) -> None:
    """Note that every stage uses a function of a plugin, not only RL. For the decorators that register it."""
    _of_every_stage.add(function.__module__)


def used_by(stage: str, names: Sequence[str]) -> list[str]:
    """The plugins that can change a stage's result.

    RL may use all. The stages that cells share use those with datasets, metrics and matchers.

    Args:
        stage: the stage.
        names: all plugins, which have been loaded.
    """
    if stage == "rl":
        return list(names)
    return [
        name
        for name in names
        if any(module == _key(name) or module.startswith(f"{_key(name)}.") for module in _of_every_stage)
    ]


def code_digest_of(module: str) -> str:
    """Return the sha256 of the code that a module belongs to: of its file, or of its package's Python files."""
    top = sys.modules.get(module.split(".")[0])
    return _digest(sys.modules[module] if top is None else top)


def load_plugins(names: Sequence[str]) -> list[str]:
    """Load plugins and return one sentence per problem.

    Args:
        names: dotted modules, or paths ending in .py, relative to the working directory.
    """
    problems = []
    for name in names:
        if not _is_name(name):
            problems.append(
                f"plugins contains {ascii(name)[:SHOWN_NAME]}, which is neither a module name nor the path of a .py "
                "file"
            )
        elif name.endswith(".py") and not Path(name).is_file():
            where = "" if Path(name).is_absolute() else f" in {Path.cwd()}"
            problems.append(f"plugins: there is no file {name}{where}")
        elif _key(name) in _failed:
            problems.append(_failed[_key(name)])
        else:
            try:
                if not _has_files(_load(name)):
                    problems.append(f"plugins: {name} is a built-in Python module and registers nothing; remove it")
            except (Exception, SystemExit) as error:  # user code may raise anything
                problems.append(_failed.setdefault(_key(name), _sentence(name, error)))
    return list(dict.fromkeys(problems))


def plugin_digests(names: Sequence[str]) -> dict[str, str]:
    """Return the sha256 of each plugin, by the name it was loaded with: of its file, or of a package's Python files."""
    return {name: _digest(_load(name)) for name in names}


def _is_name(name: object) -> bool:
    """Return whether a value is a dotted module name or a valid path of a Python file. The file need not exist."""
    if not isinstance(name, str):
        return False
    return not odd_path(name) if name.endswith(".py") else all(part.isidentifier() for part in name.split("."))


def _has_files(module: ModuleType) -> bool:
    return bool(getattr(module, "__path__", None) or getattr(module, "__file__", None))


def _digest(module: ModuleType) -> str:
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    if not folders:
        return file_digest(Path(str(module.__file__)))
    files = {path.relative_to(folder).as_posix(): path for folder in folders for path in folder.rglob("*.py")}
    return combined({name: file_digest(path) for name, path in files.items()})


def _key(name: str) -> str:
    """Return the module name of a plugin in this process."""
    return f"rlbench_plugin:{Path(name).resolve()}" if name.endswith(".py") else name


def _load(name: str) -> ModuleType:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path, key = Path(name).resolve(), _key(name)
    if key in sys.modules:
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[key]
        raise
    return module


def _sentence(name: str, error: BaseException) -> str:
    """Describe the error raised by a plugin, with its line number."""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        return f"plugins: {name} cannot be imported ({error}); install it, or give the path of a .py file"
    path = str(Path(name).resolve())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    where = f", at line {lines[-1]}" if lines else ""
    return f"plugins: {name} fails when it is loaded{where}: {type(error).__name__}: {error}"
