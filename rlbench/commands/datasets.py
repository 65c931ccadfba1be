"""Checks, measures and stores datasets for `rlbench.datasets`. Loads numpy and pyarrow."""

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rlbench.base.errors import BadInput
from rlbench.base.files import megabytes
from rlbench.config.schema import Config
from rlbench.data import load_dataset
from rlbench.data.checks import check_dataset
from rlbench.data.record import RankedListDataset
from rlbench.data.summary import ALIKE, leaks, split_counts
from rlbench.lists.items import plural
from rlbench.models.sources import is_local
from rlbench.runs.inputs import load

out = Console(highlight=False)


def check(config: Config) -> int:
    """Print every problem of a dataset, or its sizes and notices. Returns 1 if there is a problem, else 0."""
    try:
        dataset = load_dataset(config.dataset)
        problems, notices = check_dataset(dataset, config.dataset.list_length), dataset.notices
    except BadInput as error:
        problems, notices = error.problems, error.notices
    _print_notices(notices)
    if problems:
        for problem in problems:
            out.print(problem, style="red", markup=False, soft_wrap=True)
        out.print(f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in {config.dataset.name}", markup=False)
        return 1
    sizes = ", ".join(f"{len(records)} {split}" for split, records in dataset.splits.items())
    out.print(
        f"no problems: {sizes}; {len(dataset.catalog)} {plural(dataset.item)} in the catalogue",
        markup=False,
        soft_wrap=True,
    )
    return 0


def stats(config: Config, tokenizer: str | None) -> int:
    """Print counts of every split, and what evaluation shares with training.

    Args:
        config: config with the dataset.
        tokenizer: hub id or folder of a tokenizer, to count tokens; None leaves them out.

    Raises:
        BadInput: problems of the dataset, or the tokenizer cannot be loaded.
    """
    dataset = _sound(config)
    tokens = None
    if tokenizer is not None:
        from transformers import AutoTokenizer

        from rlbench.models.loading import require_vocabulary

        try:
            made = AutoTokenizer.from_pretrained(tokenizer, local_files_only=is_local(tokenizer))
        except (OSError, ValueError) as error:
            raise BadInput(f"--tokenizer {tokenizer} cannot be loaded: {str(error).splitlines()[0]}") from error
        require_vocabulary(Path(tokenizer))

        def tokens(text: str) -> int:
            return len(made(text, add_special_tokens=False)["input_ids"])

    counts = {split: split_counts(records, dataset.catalog, tokens) for split, records in dataset.splits.items()}
    table = Table("", *counts, box=None, pad_edge=False)
    for name in next(iter(counts.values())):
        table.add_row(name, *(_shown(of_split[name]) for of_split in counts.values()))
    out.print(table)
    out.print(f"catalogue: {len(dataset.catalog)} {plural(dataset.item)}", markup=False)
    shared = Table("shared with train and sft", "validation", "test", box=None, pad_edge=False)
    found = leaks(dataset)
    for name, words in (
        ("contexts", "contexts"),
        ("clusters", "clusters"),
        ("prompts", "prompts, up to case and spaces"),
        ("alike", f"prompts nearly equal (ratio from {ALIKE:g} on)"),
        ("searched", "  of other prompts searched"),
    ):
        shared.add_row(words, *(str(getattr(leak, name)) for leak in found.values()))
    out.print()
    out.print(shared)
    _print_notices(dataset.notices)
    return 0


def prepare(config: Config) -> int:
    """Read, check and store a dataset in the data cache.

    Raises:
        BadInput: problems of the dataset, or there is no data cache.
    """
    if config.runtime.data_cache is None:
        raise BadInput("runtime.data_cache = null: there is no data cache to fill; give runtime.data_cache=FOLDER")
    dataset = _sound(config)
    _print_notices(dataset.notices)
    if dataset.place is None:
        return 1  # why it is not stored has been said
    folder = Path(config.runtime.data_cache) / dataset.place.name
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    out.print(f"{config.dataset.name} is stored in {folder} ({megabytes(size)})", markup=False, soft_wrap=True)
    return 0


def _sound(config: Config) -> RankedListDataset:
    """The dataset, from the data cache if there is one.

    Raises:
        BadInput: its problems.
    """
    dataset = load(config)
    if dataset.place is None and (problems := check_dataset(dataset, config.dataset.list_length)):
        raise BadInput(*problems, notices=dataset.notices)
    return dataset


def _print_notices(notices: Iterable[str]) -> None:
    for notice in notices:
        out.print(f"note: {notice}", markup=False, soft_wrap=True)


def _shown(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if value < 100 else f"{value:,.0f}"
