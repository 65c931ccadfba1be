"""Pages of the site that are made when it is built: the config keys, and the API reference of each package."""

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import config_keys  # noqa: E402

PACKAGES = ("rlbench", "analysis")
CONFIG_KEYS = "config-keys.md"
API = "API reference"
"""The entry of the navigation that gets a page for each package."""


def packages() -> dict[str, list[str]]:
    """Each package, by its dotted name, to its public modules."""
    found = {}
    for top in PACKAGES:
        for init in sorted((ROOT / top).rglob("__init__.py")):
            name = ".".join(init.parent.relative_to(ROOT).parts)
            modules = sorted(path.stem for path in init.parent.glob("*.py") if not path.stem.startswith("_"))
            found[name] = [f"{name}.{module}" for module in modules]
    return found


def api_page(package: str, modules: list[str]) -> str:
    """A page that mkdocstrings fills from the docstrings, without importing a module."""
    shown = [
        f"# {package}\n",
        f"::: {package}\n    options: {{show_root_heading: false, show_root_toc_entry: false}}\n",
    ]
    return "\n".join(shown + [f"::: {module}\n    options: {{heading_level: 2}}\n" for module in modules])


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the navigation's entry for the API reference."""
    pages = [{name: f"api/{name}.md"} for name in packages()]
    config.nav = _filled(config.nav, pages)
    return config


def _filled(entries: Any, pages: list[dict[str, str]]) -> Any:
    if isinstance(entries, list):
        return [_filled(entry, pages) for entry in entries]
    if isinstance(entries, dict):
        return {title: pages if title == API else _filled(below, pages) for title, below in entries.items()}
    return entries


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    files.append(File.generated(config, CONFIG_KEYS, content=config_keys.page()))
    for name, modules in packages().items():
        files.append(File.generated(config, f"api/{name}.md", content=api_page(name, modules)))
    return files
