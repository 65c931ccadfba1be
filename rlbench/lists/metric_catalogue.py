"""The catalogue of metrics: title, unit, direction and level of every number that is recorded or reported.

Figures, tables, pages, messages and docs take their words from here. docs/metrics.md and docs/results-schema.md have
the definitions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as recorded. `recall@k` stands for recall@5, recall@10, ...; `term/<name>` for every reward term.
        title: as shown. {k} stands for the number after @, {name} for the name after /.
        unit: as shown in parentheses; "" for none. "share" and "0 to 1" also mean that values lie in [0, 1].
        better: direction of better values; None if neither is better.
        level: what one value belongs to. query: a list and the truth of its query. list: a list alone. run: all lists
            of a split or rollout together, an update, or the whole run. Values of the first two are recorded as means.
        k: what k counts: the ranks before a cut-off, sampled lists, or one rank; "" without k.
    """

    name: str
    title: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    level: Literal["query", "list", "run"] = "run"
    k: Literal["", "cut-off", "lists", "rank"] = ""

    @property
    def label(self) -> str:
        """The title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def is_bounded(self) -> bool:
        """Whether values lie in [0, 1]."""
        return self.unit in ("share", "0 to 1")

    @property
    def is_accuracy(self) -> bool:
        """Whether it says how well lists hit their truths, at a cut-off or for a number of lists."""
        return self.level == "query" and self.better == "higher"


def _accuracy(name: str, title: str, unit: str, k: Literal["cut-off", "lists"] = "cut-off") -> Metric:
    return Metric(f"{name}@k", title, unit, "higher", "query", k)


LIST_LENGTH = Metric("list_length", "Entries per list", level="list")
LOSS = Metric("loss", "Loss")

EVALUATION = (
    _accuracy("recall", "Recall@{k}", "share"),
    _accuracy("ndcg", "NDCG@{k}", "0 to 1"),
    _accuracy("hit_rate", "Hit rate@{k}", "share"),
    _accuracy("mrr", "MRR@{k}", "0 to 1"),
    _accuracy("map", "MAP@{k}", "0 to 1"),
    _accuracy("published_recall", "Published Recall@{k}", "share"),
    _accuracy("published_ndcg", "Published NDCG@{k}", "0 to 1"),
    _accuracy("published_truncate_first_recall", "Published Recall@{k}, cut first", "share"),
    _accuracy("published_truncate_first_ndcg", "Published NDCG@{k}, cut first", "0 to 1"),
    Metric("in_catalog", "In catalogue", "share", "higher", "list"),
    Metric("in_catalog_lax", "In catalogue by the lax rule", "share", "higher", "list"),
    Metric("duplicates", "Repeated entries", "share", "lower", "list"),
    Metric("seen", "Items named before", "share", "lower", "list"),
    LIST_LENGTH,
    Metric("eos", "Lists that end", "share", "higher", "list"),
    Metric("overflow", "Lists with entries past rank N", "share", "lower", "list"),
    Metric("exact_length", "Lists of N entries", "share", "higher", "list"),
    Metric("parse_failures", "Lines without an entry", "share", "lower", "list"),
    Metric("misaligned", "Ranks in another line", "share", "lower", "list"),
    Metric("completion_tokens", "Tokens per list", level="list"),
    Metric("rank_hit_rate@k", "Samples with a hit at rank {k}", "share", "higher", k="rank"),
    Metric("coverage", "Recommended part of the catalogue", "share"),
    Metric("gini", "Gini coefficient of recommendations", "0 to 1"),
    Metric("popularity", "Popularity of recommended items", "share"),
    Metric("novelty", "Novelty of recommended items", "bits"),
    Metric("ece", "Expected calibration error", "0 to 1", "lower"),
    Metric("brier", "Brier score", "0 to 1", "lower"),
    _accuracy("pass", "Pass@{k}", "share", "lists"),
    _accuracy("union_recall", "Union recall@{k}", "share", "lists"),
    LOSS,
)
"""Metrics of an evaluation on validation or test."""

TRAINING = (
    LOSS,
    Metric("grad_norm", "Gradient norm"),
    Metric("learning_rate", "Learning rate"),
    Metric("reward", "Reward per list", better="higher", level="list"),
    Metric("reward_std", "Reward per list, deviation"),
    Metric("hits", "Hits per list", "items", "higher", "query"),
    Metric("success", "Lists that succeed", "share", "higher", "query"),
    LIST_LENGTH,
    Metric("entropy", "Entropy", "nats per token"),
    Metric("kl", "KL to the reference policy", "nats per token"),
    Metric("kl_rollout", "KL to the rollout policy", "nats per token"),
    Metric("clip_low", "Tokens clipped below", "share"),
    Metric("clip_high", "Tokens clipped above", "share"),
    Metric("max_abs_log_ratio", "Largest |log ratio|", "nats"),
    Metric("frac_zero_variance_units", "Units without signal", "share", "lower"),
    Metric("skipped_completions", "Completions without a pass", "share"),
    Metric("groups_refused", "Drawn groups that do not train", "share", "lower"),
    Metric("groups_refused_used", "Refused groups that train", "share", "lower"),
    Metric("members_edited", "Lists made with the ground truth", "share"),
    Metric("groups_replayed", "Groups from earlier rollouts", "share"),
    Metric("experts_silent", "Experts without an answer", "share", "lower"),
    Metric("prompts_made", "Groups of prompts that were made", "share"),
    Metric("members_kept", "Lists that are kept successes", "share"),
    Metric("prompts_without_weight", "Prompts drawn against their weight", "share", "lower"),
    Metric("effective_units", "Effective units", "count", "higher"),
    Metric("advantage_mean", "Advantage, mean"),
    Metric("advantage_std", "Advantage, deviation"),
    Metric("completion_length", "Tokens per list", level="list"),
    Metric("truncated", "Lists cut off at the token limit", "share", "lower", "list"),
    Metric("token_accuracy", "Tokens predicted correctly", "share", "higher"),
    Metric("tuples", "Tuples of a round", "count", "higher"),
    Metric("without_tuple", "Prompts without a tuple", "share", "lower"),
    Metric("written", "Lists of tuples that a recipe has written", "share"),
    Metric("implicit_reward_chosen", "Implicit reward of the chosen list"),
    Metric("implicit_reward_rejected", "Implicit reward of a rejected list"),
    Metric("implicit_reward_margin", "Implicit reward, margin", better="higher"),
    Metric("implicit_reward_accuracy", "Tuples whose chosen list is preferred", "share", "higher"),
    Metric("engine_logp_difference_mean", "Policy and engine, mean |log ratio| of a token", "nats", "lower"),
    Metric("engine_logp_difference_max", "Policy and engine, largest |log ratio| of a token", "nats", "lower"),
    Metric("engine_ratio_min", "Correction of sampling, smallest weight"),
    Metric("engine_ratio_mean", "Correction of sampling, mean weight"),
    Metric("engine_ratio_max", "Correction of sampling, largest weight"),
    Metric("reward@k", "Return of rank {k}", better="higher", level="list", k="rank"),
    Metric("hits@k", "Lists with a hit at rank {k}", "share", "higher", "query", "rank"),
    Metric("advantage_mean@k", "Advantage of rank {k}, mean", k="rank"),
    Metric("advantage_std@k", "Advantage of rank {k}, deviation", k="rank"),
    Metric("schedule/<name>", "Scheduled {name}"),
    Metric("term/<name>", "Reward term {name} per list", level="list"),
    Metric("regulariser/<name>", "Regulariser {name}"),
)
"""Metrics of training, in the order in which an update's are recorded."""

COMPUTING = (
    ("rollout", "rollouts"),
    ("reference", "passes without gradient"),
    ("update", "updates"),
    ("evaluation", "evaluations"),
)
"""Phases that run the model, in words."""

BUDGET = (
    Metric("updates", "Updates"),
    Metric("prompts", "Prompts"),
    Metric("completions", "Completions"),
    Metric("generated_tokens", "Generated tokens"),
    Metric("trained_tokens", "Trained tokens"),
    Metric("evaluation_tokens", "Evaluation tokens"),
    Metric("reference_tokens", "Tokens scored without gradient"),
    Metric("seconds", "Time", "s"),
    Metric("attempts", "Attempts"),
    Metric("peak_memory_bytes_process", "Memory", "bytes"),
    Metric("peak_memory_bytes_gpu", "GPU memory", "bytes"),
    Metric("energy_joules_cpu", "CPU energy", "J"),
    Metric("energy_joules_gpu", "GPU energy", "J"),
    *(Metric(f"tokens_per_second_{phase}", f"Speed, {words}", "tokens/s", "higher") for phase, words in COMPUTING),
    *(Metric(f"mfu_{phase}", f"FLOPs utilisation, {words}", "share", "higher") for phase, words in COMPUTING),
    Metric("mfu_total", "FLOPs utilisation", "share", "higher"),
    *(Metric(f"operations_{phase}", f"Operations, {words}", "FLOP") for phase, words in COMPUTING),
    Metric("peak_operations_per_second", "Peak of a device", "FLOP/s"),
    Metric("peak_devices", "Devices"),
)
"""What a run spends."""

METRICS = {metric.name: metric for metric in (*EVALUATION, *TRAINING, *BUDGET)}
"""All metrics by name. Plugins add theirs (`rlbench.lists.plugged`)."""
_OWN = frozenset(METRICS)


def entry_of(name: str) -> Metric | None:
    """The catalogue's entry of a recorded name: that of `recall@k` for recall@10; None if there is none."""
    stem, at, k = name.partition("@")
    family, slash, _ = name.partition("/")
    if at and k.isdigit():
        return METRICS.get(f"{stem}@k")
    return METRICS.get(f"{family}/<name>" if slash else name)


def of_training(families: Mapping[str, Iterable[str]], ranks: int) -> list[str]:
    """Names under which a training can record metrics, in the order of the catalogue.

    Args:
        families: the names after the / of term, regulariser and schedule.
        ranks: number of ranks, for metrics of one rank.
    """
    names = []
    for metric in TRAINING:
        stem, slash, _ = metric.name.partition("/")
        if slash:
            names += [f"{stem}/{name}" for name in families[stem]]
        elif metric.k == "rank":
            names += [metric.name.replace("@k", f"@{rank}") for rank in range(1, ranks + 1)]
        else:
            names.append(metric.name)
    return names


def metric_of(name: str) -> Metric:
    """The metric with a recorded name, with its number or name in the title: Recall@10 for recall@10.

    A name that is not in the catalogue, as of a plugin, is its own title.
    """
    found = entry_of(name)
    if found is None:
        return Metric(name, name)
    title = found.title.replace("{k}", name.partition("@")[2]).replace("{name}", name.partition("/")[2])
    return Metric(name, title, found.unit, found.better, found.level, found.k)


def metric_title(name: str) -> str:
    """The title of a recorded name, without its unit: NDCG@10 for ndcg@10."""
    return metric_of(name).title


def inside(text: str) -> str:
    """A title or label as inside a sentence: without its capital, unless it begins with an abbreviation."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def selectable(cutoffs: Sequence[int]) -> list[str]:
    """Names of the metrics that may choose a checkpoint or a trial of a search. Higher is better in all of them."""
    return [
        metric.name.replace("@k", f"@{k}")
        for metric in (*EVALUATION, *(one for name, one in METRICS.items() if name not in _OWN))
        if metric.k == "cut-off" and metric.better == "higher"
        for k in cutoffs
    ]


def docs_table() -> str:
    """The table of docs/metrics.md. `python -m rlbench.lists.metric_catalogue` prints it."""
    lines = ["| metric | title | unit | better | level |", "|---|---|---|---|---|"]
    for metric in METRICS.values():
        number = {"": "", "cut-off": "k", "lists": "k lists", "rank": "k"}[metric.k]
        title = metric.title.format(k=number, name="<name>").replace("|", "\\|")
        lines.append(f"| `{metric.name}` | {title} | {metric.unit} | {metric.better or ''} | {metric.level} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(docs_table())
