"""Names that become parts of paths: of experiments, rows, data sets and models. Loads no torch."""

from rlbench.config import Config

LONGEST = 255
"""Bytes that a file system allows for one name."""


def odd_name(name: str) -> str:
    """Why a text cannot be the name of a folder; "" where it can."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "holds half a character (a lone surrogate)"
    if not name.strip():
        return "is empty"
    if name in (".", ".."):
        return "names the folder itself or the one above"
    if "/" in name or "\\" in name:
        return "holds a separator of paths"
    if not name.isprintable():
        return "holds a newline or another control character"
    return f"is longer than {LONGEST} bytes" if size > LONGEST else ""


def check_names(config: Config) -> list[str]:
    """What is wrong with the names of a config, one sentence a problem."""
    names = {
        "experiment_name": config.experiment_name,
        "variant": config.variant or "none",
        "algorithm.name": config.algorithm.name,
        "reward.name": config.reward.name,
        "dataset.name": config.dataset.name,
        "model.name": config.model.name,
    }
    problems = [
        f"{key} = {name!r} {odd}; give a name, such as {key}=mine"
        for key, name in names.items()
        if (odd := odd_name(name))
    ]
    if not problems and (odd := odd_name(config.label)):
        problems.append(f"the row's name '{config.label}' {odd}; give another with variant=NAME")
    return problems
