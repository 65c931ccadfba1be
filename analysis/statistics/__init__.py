"""Statistics for S trainings judged on the same Q samples of C contexts; docs/statistics.md says when to use which.

Intervals of means and differences (`intervals`) and of the interquartile mean over several cells (`aggregates`), tests
of differences (`comparisons`), whole distributions (`profiles`), and what a design can detect (`power`).
"""

from analysis.statistics.aggregates import FEWEST_RUNS, iqm, iqm_interval, run_scores, stratified_bootstrap
from analysis.statistics.comparisons import (
    Comparison,
    Permutation,
    compare,
    holm,
    label_test,
    permutation_test,
    sign_flip_test,
    smallest_p,
)
from analysis.statistics.intervals import (
    LEVEL,
    RESAMPLES,
    STREAM,
    Estimate,
    Floats,
    Scores,
    compared_seeds,
    context_sums,
    critical_value,
    mean_interval,
    paired_difference,
    pooled_interval,
    resample_weights,
    satterthwaite,
    seed_interval,
)
from analysis.statistics.power import (
    Components,
    detectable_range,
    detection_power,
    difference,
    minimum_detectable_difference,
    variance_components,
)
from analysis.statistics.profiles import (
    Probability,
    performance_profile,
    probability_interval,
    probability_of_improvement,
    superiority,
)

__all__ = [
    "Comparison",
    "Components",
    "Estimate",
    "FEWEST_RUNS",
    "Floats",
    "LEVEL",
    "Permutation",
    "Probability",
    "RESAMPLES",
    "STREAM",
    "Scores",
    "compare",
    "compared_seeds",
    "context_sums",
    "detectable_range",
    "detection_power",
    "difference",
    "critical_value",
    "holm",
    "iqm",
    "iqm_interval",
    "label_test",
    "mean_interval",
    "minimum_detectable_difference",
    "paired_difference",
    "performance_profile",
    "permutation_test",
    "pooled_interval",
    "probability_interval",
    "probability_of_improvement",
    "resample_weights",
    "run_scores",
    "satterthwaite",
    "seed_interval",
    "sign_flip_test",
    "smallest_p",
    "stratified_bootstrap",
    "superiority",
    "variance_components",
]
