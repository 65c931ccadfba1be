"""Code from outside the package: modules or Python files that enter pieces of algorithms or terms of rewards.

Loading one runs its decorators (`@baselines.piece`, `@rank_term`, ...); it is loaded once a process. Loads no torch of
its own.
"""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType


def load_plugins(names: Sequence[str]) -> list[str]:
    """Load plugins; what is wrong with them, one sentence a problem.

    Args:
        names: dotted modules, or paths that end in .py, taken from the working directory.
    """
    problems = []
    for name in names:
        if not isinstance(name, str):
            problems.append(f"plugins holds {name!r}, which is neither a module nor the path of a .py file")
            continue
        try:
            _load(name)
        except FileNotFoundError:
            problems.append(f"plugins: there is no file {name} in {Path.cwd()}")
        except ModuleNotFoundError as error:
            problems.append(f"plugins: {name} cannot be imported ({error}); install it, or give the path of a .py file")
        except Exception as error:  # whatever someone else's code raises is a problem of the configuration
            problems.append(f"plugins: {name} fails when it is loaded: {type(error).__name__}: {error}")
    return problems


def plugin_digests(names: Sequence[str]) -> dict[str, str]:
    """sha256 of each plugin's file, by the name it was loaded by."""
    return {name: hashlib.sha256(Path(str(_load(name).__file__)).read_bytes()).hexdigest() for name in names}


def _load(name: str) -> ModuleType:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name).resolve()
    known = f"rlbench_plugin:{path}"
    if known in sys.modules:
        return sys.modules[known]
    if not path.is_file():
        raise FileNotFoundError(name)
    spec = importlib.util.spec_from_file_location(known, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[known]
        raise
    return module
