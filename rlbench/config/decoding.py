"""All settings that can change the text of a list; none is left to a model's own file.

transformers fills unset fields of a passed `GenerationConfig` from the model's `generation_config.json` (5.23,
`_prepare_generation_config`). Therefore every field is set here: a run's settings (`DECODING`) from its config, all
others (`NEUTRAL`) to the value without effect. Evaluation, rollouts and preference lists use the same settings.
Importing this module loads neither torch nor transformers.
"""

from datetime import datetime
from typing import Any

from rlbench.config.schema import EvaluationConfig, GenerationConfig

SAMPLING = ("temperature", "top_p", "top_k", "min_p")
"""Settings that affect only sampled lists."""
SHAPING = ("repetition_penalty", "no_repeat_ngram_size")
"""Settings that also affect greedy lists."""
LENGTH = ("max_new_tokens",)
DECODING = SAMPLING + SHAPING + LENGTH
"""Keys of `generation` that are fields of the same name in transformers' `GenerationConfig`."""
CONSTRAINTS = ("none", "catalogue")
EXCLUSIONS = ("repeats", "seen")
PLAIN: dict[str, float] = {"top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1, "no_repeat_ngram_size": 0}
"""Values at which a run's settings leave the policy's distribution unchanged. Temperature is not included."""
NEUTRAL: dict[str, Any] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "length_penalty": 1.0,
    "early_stopping": False,
    "renormalize_logits": False,
    "remove_invalid_values": False,
    "token_healing": False,
    "use_mtp": False,
    "use_cache": True,
    "guidance_scale": 1.0,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
}
"""Fields of transformers' `GenerationConfig`, at the values without effect."""
ABSENT = (
    "max_length",
    "max_time",
    "stop_strings",
    "top_h",
    "bad_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "watermarking_config",
    "cache_implementation",
    "cache_config",
    "max_cache_len",
    "decoder_start_token_id",
    "is_assistant",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    "assistant_early_exit",
    "assistant_lookbehind",
    "target_lookbehind",
    "assistant_ensemble_weight",
    "speculation_type",
    "low_memory",
    "penalty_alpha",
    "dola_layers",
    "constraints",
    "force_words_ids",
    "prefill_chunk_size",
)
"""Fields that must stay unset to have no effect. `rlbench.models.generation` clears them in the model's config."""
TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
"""Token ids, which stay the model's own. Each of several EOS ids ends a list."""


def greedy_identity(generation: GenerationConfig) -> dict[str, Any]:
    """Return what determines greedy lists, for a stage's identity: limits, penalties and the date in the prompt.

    `prefill` counts because its values round differently, and draw different numbers for sampled lists. Runs from
    before this key existed have prefill=repeated, which is left out.
    """
    prefill = {} if generation.prefill == "repeated" else {"prefill": generation.prefill}
    return {key: getattr(generation, key) for key in (*SHAPING, *LENGTH, "template_date")} | prefill


def sampling_identity(generation: GenerationConfig) -> dict[str, Any]:
    """Return what determines sampled lists, for a stage's identity."""
    return {key: getattr(generation, key) for key in SAMPLING} | greedy_identity(generation)


def constraint_identity(section: GenerationConfig | EvaluationConfig) -> dict[str, Any]:
    """Return what lists of rollouts or of evaluation are held to, for a stage's identity; {} for nothing."""
    if section.constraint == "none":
        return {}
    return {"constraint": section.constraint, "exclude": sorted(section.exclude)}


def evaluation_identity(evaluation: EvaluationConfig) -> dict[str, Any]:
    """Return how evaluation decodes in another way than rollouts, for a stage's identity."""
    return constraint_identity(evaluation) | ({"beams": evaluation.beams} if evaluation.beams > 1 else {})


def changed(generation: GenerationConfig) -> str:
    """Describe the settings that make the sampling distribution differ from the policy's, apart from temperature.

    Returns:
        Text such as "top_p = 0.9 and min_p = 0.1", or "" if there are none.
    """
    given = {key: getattr(generation, key) for key in PLAIN}
    return " and ".join(f"{key} = {value}" for key, value in given.items() if value != PLAIN[key])


def decoding_fields(generation: GenerationConfig, *, sampled: bool) -> dict[str, Any]:
    """Return all fields of transformers' `GenerationConfig` for one kind of list, except `TOKENS` and `ABSENT`.

    Args:
        generation: the run's settings.
        sampled: whether lists are sampled. Greedy lists ignore `SAMPLING`.
    """
    fields = NEUTRAL | {key: getattr(generation, key) for key in (*SHAPING, *LENGTH)} | {"do_sample": sampled}
    if sampled:
        fields |= {key: getattr(generation, key) for key in SAMPLING}
        if generation.min_p == 0:
            fields.pop("min_p")  # 0 would make transformers sort the probabilities at every step without effect
    return fields


def check_constraints(generation: GenerationConfig, evaluation: EvaluationConfig) -> list[str]:
    """Return one sentence per invalid setting of `constraint`, `exclude` and `beams`. Names were checked before."""
    problems = []
    for key, section in (("generation", generation), ("evaluation", evaluation)):
        is_inherited = section is evaluation and evaluation.exclude == generation.exclude
        if section.constraint == "none" and section.exclude and not is_inherited:
            problems.append(
                f"{key}.exclude = [{', '.join(section.exclude)}] needs {key}.constraint=catalogue, because items are "
                f"only known while a list is held to the catalogue; use {key}.exclude=[] otherwise"
            )
    if generation.constraint != "none":
        held = f"generation.constraint = '{generation.constraint}'"
        if generation.engine != "transformers" or generation.prefill != "shared":
            problems.append(
                f"{held} needs generation.engine=transformers and generation.prefill=shared, which are the only "
                "rollouts that can be held to the catalogue; use these, or generation.constraint=none"
            )
        if generation.stop_after_list:
            problems.append(
                f"{held} with generation.stop_after_list = true: a list that is held to the catalogue ends after its "
                "last entry anyway; use generation.stop_after_list=false"
            )
    if evaluation.beams > 1:
        shaped = [key for key in SHAPING if getattr(generation, key) != PLAIN[key]]
        if shaped:
            problems.append(
                f"evaluation.beams = {evaluation.beams} with generation.{shaped[0]} = "
                f"{getattr(generation, shaped[0])}: a penalised score is no probability of a list; use "
                f"generation.{shaped[0]}={PLAIN[shaped[0]]}, or evaluation.beams=1"
            )
        if generation.prefill != "shared":
            problems.append(
                f"evaluation.beams = {evaluation.beams} needs generation.prefill=shared; use it, or evaluation.beams=1"
            )
    return problems


def check_decoding(generation: GenerationConfig) -> list[str]:
    """Return one sentence per invalid setting. `rlbench.config.bounds` checks the ranges."""
    problems = []
    try:
        datetime.fromisoformat(generation.template_date)
    except ValueError:
        problems.append(
            f"generation.template_date = '{generation.template_date}' is not a date; write YYYY-MM-DD, such as "
            "2024-07-26"
        )
    unknown_to = {
        "continuous": ("min_p", "repetition_penalty", "no_repeat_ngram_size"),
        "vllm_colocate": ("no_repeat_ngram_size",),
        "vllm_server": ("no_repeat_ngram_size",),
    }
    problems += [
        f"generation.{key} = {getattr(generation, key)} is not supported by generation.engine = "
        f"'{generation.engine}', so training and evaluation would decode differently; use {PLAIN[key]}, or "
        "generation=default"
        for key in unknown_to.get(generation.engine, ())
        if getattr(generation, key) != PLAIN[key]
    ]
    return problems
