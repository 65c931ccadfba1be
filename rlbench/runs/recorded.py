"""Reads the config that a run directory has recorded."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlbench.base.errors import BadInput
from rlbench.base.files import leads_outside
from rlbench.base.user_files import read_user_yaml
from rlbench.config.resolving import resolve
from rlbench.config.schema import Config
from rlbench.runs.record import SETTINGS


def read_config(run: Path) -> Config:
    """Return the config of a run directory.

    Raises:
        BadInput: if the folder is not a run directory, or its config.yaml is damaged.
    """
    loaded = read_settings(run)
    try:
        return resolve(loaded)
    except BadInput as error:
        raise BadInput(*(f"{run / SETTINGS}: {problem}" for problem in error.problems)) from error


def read_settings(run: Path) -> DictConfig:
    """Return the settings of a run directory, whose keys and types are not checked.

    Raises:
        BadInput: if the folder is not a run directory, or its config.yaml is damaged.
    """
    path = run / SETTINGS
    if not path.is_file():
        raise BadInput(
            f"{run} is not a run directory, because it has no config.yaml; give a folder such as runs/mini/*/*/seed*"
        )
    if leads_outside(path, run):
        raise BadInput(f"{path} is a link to a place outside the run; replace it with the file itself")
    content = read_user_yaml(path)
    if not isinstance(content, dict):
        raise BadInput(f"{path} is damaged: it has no settings")
    try:
        loaded = OmegaConf.create(_literal(content))
    except OmegaConfBaseException as error:
        raise BadInput(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    assert isinstance(loaded, DictConfig)
    return loaded


def _literal(value: Any) -> Any:
    """Escape `${...}` in the values of a config. A run's config is resolved, so these are plain text."""
    if isinstance(value, dict):
        return {key: _literal(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_literal(one) for one in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value
