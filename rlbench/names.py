"""Checks names that become parts of paths: experiments, rows, datasets and models. Loads no torch."""

from rlbench.config import Config

LONGEST = 255
"""Maximum bytes of one name in a file system."""


def odd_name(name: str) -> str:
    """Return why a text cannot be a folder name, or "" if it can."""
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
    """Return one sentence per invalid name in a config."""
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
