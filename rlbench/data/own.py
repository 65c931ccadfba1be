"""A user's own data after its rows have been read: splits, catalogue, demonstrations and notices.

`rlbench.data.jsonl` and `rlbench.data.hf` read the files, and `rlbench.data.own_rows` their rows.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rlbench.base.errors import BadInput, noting
from rlbench.config.schema import OwnConfig
from rlbench.data.catalog_files import read_catalog
from rlbench.data.checks import EXAMPLES, fingerprint, same_wording, share_outside_catalog, wordings
from rlbench.data.dialogues import draw
from rlbench.data.lengths import LongPrompts
from rlbench.data.own_rows import FIELDS, Reading
from rlbench.data.record import SPLITS, RankedListDataset, Record
from rlbench.data.stage1.files import demonstrated
from rlbench.lists.catalog import Catalog, normalise
from rlbench.lists.exact import CatalogReader
from rlbench.lists.items import TITLES, Item, line_of, plural

GIVEN, TRUTH_THEN_POPULAR = "given", "truth_then_popular"
DEMONSTRATIONS = (GIVEN, TRUTH_THEN_POPULAR)
"""Values of `dataset.demonstrations`."""


def option_problems(config: OwnConfig) -> list[str]:
    """Problems of settings that need no file."""
    problems = []
    if config.prompt_template is not None and "{conversation}" not in config.prompt_template:
        problems.append("dataset.prompt_template has no {conversation}, so the model would not see the prompt; add it")
    if config.demonstrations not in DEMONSTRATIONS:
        problems.append(
            f"dataset.demonstrations = '{config.demonstrations}' is unknown; known: {', '.join(DEMONSTRATIONS)}"
        )
    shares = {"validation_fraction": config.validation_fraction, "test_fraction": config.test_fraction}
    problems += [f"dataset.{key} = {share} must lie in (0, 1)" for key, share in shares.items() if not 0 < share < 1]
    if not problems and sum(shares.values()) >= 1:
        problems.append("dataset.validation_fraction + dataset.test_fraction must be below 1, to leave a train split")
    return problems


def template_of(config: OwnConfig) -> OwnConfig:
    """The settings with the words of the prompt's template filled in, except for the conversation."""
    if config.prompt_template is None:
        return config
    words = {"{n}": str(config.list_length), "{items}": plural(config.item), "{item}": config.item}
    text = config.prompt_template
    for mark, word in words.items():
        text = text.replace(mark, word)
    return replace(config, prompt_template=text)


def read_own_catalog(config: OwnConfig, path: Path | None, problems: list[str]) -> tuple[Catalog | None, list[str]]:
    """The catalogue of a file with its notices; None without a file or with problems, which are added."""
    if path is None:
        return None, []
    try:
        catalog, notices = read_catalog(path, config.line_format != TITLES, config.item)
    except BadInput as error:
        problems += error.problems
        return None, []
    items = [(" ".join(title.split()), year) for title, year in catalog.items]
    if changed := sum(old != new for old, new in zip(catalog.items, items, strict=True)):
        catalog = Catalog(items)
        notices = [*notices, f"catalogue {path.name}: white space was collapsed in {changed} titles"]
    return catalog, notices


def dataset_of(name: str, reading: Reading, catalog: Catalog | None, notices: Sequence[str]) -> RankedListDataset:
    """The dataset: splits that are missing are drawn, demonstrations are gathered, and oddities become notices.

    Args:
        name: the dataset.
        reading: all rows, without problems.
        catalog: the catalogue; None takes the items of the truths.
        notices: about the files.

    Raises:
        BadInput: there is no train split, or the demonstrations have problems.
    """
    config = reading.config
    told = [*notices, *reading.notices()]
    with noting(told):
        splits, drawn = _with_all_splits(name, reading)
    told += drawn
    for split, records in splits.items():
        if split != "sft":
            same = Counter((one.context_id, tuple(one.ground_truth)) for one in records)
            if twice := sum(count - 1 for count in same.values() if count > 1):
                told.append(
                    f"{split}: {twice} records repeat another one's context and truth; each counts as an answer"
                )
    if catalog is None:
        catalog = Catalog(
            dict.fromkeys(item for records in splits.values() for one in records for item in one.ground_truth)
        )
        told.append(
            f"dataset.catalog is not set, so the catalogue holds the {len(catalog)} {plural(config.item)} of the truths"
        )
        told += [f"catalogue: {notice}" for notice in catalog.report(config.item)]
    for split, records in splits.items():
        if share := share_outside_catalog(records, catalog):
            told.append(
                f"{split}: {share:.2%} of the ground-truth {plural(config.item)} are not in the catalogue and can "
                "never be hits"
            )
    if odd := CatalogReader(catalog).exact:
        told.append(
            f"{len(odd)} titles of the catalogue look like layout or a sentence, so only a line with exactly "
            f"this title names the {config.item}: {examples(odd)}"
        )
    shown = [one for one in [*splits.pop("sft", []), *splits["train"]] if one.completion is not None]
    splits["train"] = [replace(one, completion=None) for one in splits["train"]]
    if config.demonstrations == TRUTH_THEN_POPULAR:
        shown = truth_then_popular(splits["train"], catalog, config.list_length)
        told.append(f"{len(shown)} demonstrations were made by the rule {TRUTH_THEN_POPULAR}")
    if shown:
        splits = {"sft": shown, **splits}
    elif config.demonstrations_from is None:
        told.append(
            "there are no demonstrations, so stage=sft has nothing to learn from: give records a completion, or set "
            "dataset.demonstrations_from=FILE or dataset.demonstrations=truth_then_popular"
        )
    asked = {split: splits[split] for split in ("train", "validation")}
    with noting(told):
        found = demonstrated(config.demonstrations_from, asked, config.list_length)
    if found is not None:
        splits |= found[0]
        told += found[1]
    long = LongPrompts(config.max_conversation_chars, config.long_prompts)
    splits = long.applied(splits)
    training = wordings(splits.get("sft", []), splits["train"])
    told += long.notices()
    told += [one for split in ("validation", "test") for one in same_wording(split, splits[split], training)]
    splits = {split: splits[split] for split in SPLITS if split in splits}
    return RankedListDataset(
        name, catalog, splits, notices=told, fingerprint=fingerprint(splits, catalog), item=config.item
    )


def _with_all_splits(name: str, reading: Reading) -> tuple[dict[str, list[Record]], list[str]]:
    """The splits that were given, with missing ones drawn from train by a hash of seed and cluster.

    Raises:
        BadInput: there is nothing to train on.
    """
    config = reading.config
    splits = {split: records for split, records in reading.splits.items() if split is not None}
    free = reading.splits.get(None, [])
    notices = []
    if free and set(splits) - {"sft"}:
        raise BadInput(
            f"dataset {name}: {len(free)} records have no split, but others do; give each record a split, or none"
        )
    source = free or splits.get("train", [])
    if not source:
        raise BadInput(
            f"dataset {name}: there are no train records, which RL takes its prompts from; name a file train.jsonl, "
            "or give records the split train"
        )
    shares = {"validation": config.validation_fraction, "test": config.test_fraction}
    wanted = {split: share for split, share in shares.items() if not splits.get(split)}
    if wanted:
        parts: dict[str, list[Record]] = {"train": [], **{split: [] for split in wanted}}
        for record in source:
            parts[_drawn(record, wanted, config.seed)].append(record)
        shown = splits.get("sft", [])
        kept = [record for record in shown if _drawn(record, wanted, config.seed) == "train"]
        if shown:
            parts["sft"] = kept
        splits |= parts
        counts = ", ".join(f"{len(part)} {split}" for split, part in parts.items())
        notices.append(
            f"the files have no {' and no '.join(wanted)} split; records were divided by cluster with "
            f"dataset.seed = {config.seed}: {counts}"
        )
        if empty := [split for split in ("train", *wanted) if not parts[split]]:
            raise BadInput(
                f"dataset {name}: {len(source)} records of {len({r.cluster_id for r in source})} clusters are too few "
                f"to draw a {' and a '.join(empty)} split; give more records, or files for these splits"
            )
    else:
        splits["train"] = list(source)
    return splits, notices


def _drawn(record: Record, shares: Mapping[str, float], seed: int) -> str:
    """The split of a record: a hash of seed and cluster, uniform on [0, 1), against the shares in their order."""
    place = draw(seed, record.cluster_id)
    for split, share in shares.items():
        if place < share:
            return split
        place -= share
    return "train"


def truth_then_popular(train: Sequence[Record], catalog: Catalog, list_length: int) -> list[Record]:
    """The train records with simple demonstrations: the truth, then what most train truths name, then the catalogue.

    Nothing seen and nothing twice is named. Ties keep the order of the catalogue.
    """
    popularity = Counter(item for record in train for item in record.ground_truth)
    order: Iterable[Item] = [item for item, _ in popularity.most_common()]
    popular = list(dict.fromkeys([*order, *catalog.items]))
    made = []
    for record in train:
        seen = set(map(normalise, record.seen_titles))
        best = [*record.ground_truth]
        if record.gains is not None:
            gains = dict(zip(best, record.gains, strict=True))
            best.sort(key=lambda item: -gains[item])
        chosen: dict[str, Item] = {}
        for item in (*best, *popular):
            if len(chosen) == list_length:
                break
            key = f"{normalise(item[0])} {item[1]}"
            if normalise(item[0]) not in seen and key not in chosen:
                chosen[key] = item
        text = "\n".join(line_of(*item) for item in chosen.values())
        made.append(replace(record, completion=[{"role": "assistant", "content": text}]))
    return made


def named_columns(columns: Mapping[str, str]) -> list[str]:
    """Problems of a mapping of columns: fields that no record has."""
    known = ", ".join(FIELDS)
    return [
        f"dataset.columns names the field '{name}', which is unknown; known: {known}"
        for name in columns
        if name not in FIELDS
    ]


def examples(names: Iterable[str]) -> str:
    """The first names, for a message."""
    listed = list(names)
    return ", ".join(listed[:EXAMPLES]) + (f" and {len(listed) - EXAMPLES} more" if len(listed) > EXAMPLES else "")
