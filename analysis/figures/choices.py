"""What the options of commands may choose for a figure. Loads no large package, so that help shows it at once."""

from rlbench.lists.metric_catalogue import metric_title

AXES = {name: metric_title(name) for name in ("updates", "completions", "generated_tokens", "seconds")}
"""Possible x axes of curves, with their axis labels."""
VARIANT = " @ "
"""Separator between reward and variant in a row's name."""
MANY = 9
"""Maximum number of rows in one panel."""
TRAINING = (
    ("train", "reward"),
    ("train", "hits"),
    ("validation", "in_catalog"),
    ("train", "entropy"),
    ("train", "kl"),
    ("train", "clip_low"),
    ("train", "clip_high"),
    ("train", "list_length"),
    ("train", "frac_zero_variance_units"),
)
"""Split and metric of the default panels of a training figure. Metrics that no run logged are skipped."""
SHOWN = ("reward@k", "hits@k", "advantage_std@k")
"""Maps of ranks drawn by default."""
METRIC = "ndcg@20"
"""Metric that the paper plots over updates."""
BACKBONES = {"qwen2.5_0.5b": "Qwen2.5-0.5B", "llama3.2_1b": "Llama-3.2-1B", "llama3.2_3b": "Llama-3.2-3B"}
"""The paper's names of the models in conf/model."""
REGIMES = {1: "on-policy", 2: "mu=2"}
"""The paper's names for the number of updates per rollout."""
