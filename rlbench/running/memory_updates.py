"""Memory of an update: which completions are forwarded together, and what their pass keeps for the backward pass."""

import math
from dataclasses import dataclass, replace

from rlbench.config.adapters import NONE
from rlbench.config.schema import Config, PreferenceConfig
from rlbench.models.token_head import LEAST_ROWS, TILE_ELEMENTS, TILE_ELEMENTS_ELSEWHERE
from rlbench.preference.places import lists_of_tuple
from rlbench.running.memory_shape import Shape
from rlbench.training.scoring import LEAST_SAVING

FLOAT, HALF = 4, 2  # bytes per number
NF4 = 0.5 + 1 / 64 + FLOAT / (64 * 256)
"""Bytes of a weight in 4 bits: 64 share a scale of 8 bits, and 256 scales share one in float32 (arXiv 2305.14314)."""
EIGHT_BIT_STATES = 2 * (1 + FLOAT / 256)
"""Bytes of AdamW's two states of a weight in 8 bits: 256 of them share a scale (arXiv 2110.02861)."""
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
"""Tile size, in tokens and vocabulary entries, in which TRL's fused LM head computes logits (trl/kernels)."""
TRL_TILES = 5
"""Number of tile-sized tensors that it holds at once on a CPU. The GPU kernel works in place."""
OWN_TILES = 2
"""Number of tile-sized float32 tensors that `token_head` holds at once: logits, and their exponentials."""


def bytes_of_number(config: Config) -> int:
    """Return the bytes of a number in the results of matrix products."""
    return HALF if config.trainer.bf16 or config.model.dtype == "bfloat16" else FLOAT


def bytes_of_weights(config: Config, shape: Shape, stage: str = "") -> int:
    """Return the bytes of all weights of a model.

    Args:
        config: the run.
        shape: sizes of its model.
        stage: the stage that trains it; "" for weights that are not trained.
    """
    number = HALF if config.model.dtype == "bfloat16" else FLOAT
    if config.adapter.quantization_of(stage) == NONE:
        return shape.parameters * number
    return (shape.parameters - shape.linear) * number + int(shape.linear * NF4)


def bytes_of_trained(config: Config, shape: Shape, stage: str) -> int:
    """Return the bytes of the weights that a stage trains, and of their gradients. Adapters are in float32."""
    return shape.adapter * FLOAT if config.adapter.trains(stage) else bytes_of_weights(config, shape)


def bytes_of_optimiser(config: Config, shape: Shape, stage: str, on_gpu: bool) -> int:
    """Return the bytes of the optimiser's states that must be on the device."""
    name, adapts = config.trainer.optimizer, config.adapter.trains(stage)
    weights = shape.adapter if adapts else shape.parameters
    if name.startswith("paged") and on_gpu:
        return 0  # they can move to host memory
    if name == "adafactor":
        return (
            2 * FLOAT * weights // min(shape.hidden, shape.ranks or shape.hidden)
        )  # a row and a column of each matrix
    if name.endswith("8bit"):
        in_float32 = 0 if adapts else shape.embeddings
        return int((weights - in_float32) * EIGHT_BIT_STATES) + in_float32 * 2 * FLOAT
    return 2 * bytes_of_trained(config, shape, stage)


@dataclass(frozen=True)
class Pass:
    """Completions that are forwarded together, all with the largest number of tokens.

    Attributes:
        prompts: n, number of prompts that are forwarded: distinct ones, or one for each completion.
        rows: B, number of completions.
        group: largest number of completions of one prompt.
        prompt: P, tokens of a prompt.
        completion: T, tokens of a completion.
        own_head: whether the LM head is `token_head`, which only sees completions; otherwise it is TRL's.
    """

    prompts: int
    rows: int
    group: int
    prompt: int
    completion: int
    own_head: bool

    @property
    def is_shared(self) -> bool:
        return self.prompts < self.rows

    @property
    def scored(self) -> int:
        """Tokens of completions."""
        return self.rows * self.completion

    @property
    def forwarded(self) -> int:
        """All tokens."""
        return self.prompts * self.prompt + self.scored


def plain_pass(rows: int, prompt: int, completion: int, own_head: bool = False) -> Pass:
    """The pass that forwards each completion with its own copy of the prompt."""
    return Pass(rows, rows, 1, prompt, completion, own_head)


def passes_of_updates(config: Config, shape: Shape, prompt: int, processes: int) -> list[Pass]:
    """The largest pass with gradients of each kind that the RL stage makes.

    Args:
        config: the run.
        shape: sizes of its model.
        prompt: tokens of the longest prompt.
        processes: number of processes of the run.
    """
    rl, new = config.trainer.rl, config.generation.max_new_tokens
    own = _shares(config, shape, processes)
    if isinstance(config.algorithm, PreferenceConfig):
        of_tuple = lists_of_tuple(config.algorithm)
        tuples = min(rl.micro_batch_size // of_tuple, rl.completions_per_update // of_tuple // processes)
        compared = _pass(config, Pass(tuples, tuples * of_tuple, of_tuple, prompt, new, own))
        # Supervised updates come first in a round. They forward chosen lists only, each with a prompt of its own.
        return [compared, plain_pass(compared.rows, prompt, new, own)] if config.algorithm.sft_share else [compared]
    share = rl.completions_per_update // processes
    rows = min(rl.micro_batch_size, share)
    if rl.micro_batch_tokens is not None:
        rows = _rows_within(rl.micro_batch_tokens, prompt, new, rl.group_size if rl.shuffle == "groups" else 1, share)
    return [_pass(config, Pass(_distinct(config, rows), rows, min(rl.group_size, rows), prompt, new, own))]


def _shares(config: Config, shape: Shape, processes: int) -> bool:
    """Whether `shared_passes` makes passes for the run."""
    trainer = config.trainer
    recomputes = trainer.parallel.strategy == "fsdp2" and trainer.gradient_checkpointing
    prevented = processes > 1 and recomputes  # as in `reasons_of_training`
    return uses_own_head(config, processes) and shape.shares_passes and not prevented


def uses_own_head(config: Config, processes: int) -> bool:
    """Whether SFT scores its labels with `token_head`, for models without the loss of a router."""
    trainer, parallel = config.trainer, config.trainer.parallel
    zero_3 = processes > 1 and parallel.strategy == "deepspeed" and parallel.zero_stage == 3
    return trainer.share_prompts != "never" and not zero_3


def _pass(config: Config, found: Pass) -> Pass:
    """The pass as it is made: prompts are only shared where that saves enough (`SharedPasses.rows`)."""
    separate = plain_pass(found.rows, found.prompt, found.completion, found.own_head)
    saves = separate.forwarded >= LEAST_SAVING * found.forwarded
    return found if found.own_head and (saves or config.trainer.share_prompts == "always") else separate


def _distinct(config: Config, rows: int) -> int:
    """Largest number of distinct prompts in a micro-batch of `rows` completions."""
    rl = config.trainer.rl
    if rl.shuffle == "completions":
        return min(rows, math.ceil(rl.completions_per_update / rl.group_size))
    if rl.micro_batch_tokens is not None:
        return math.ceil(rows / rl.group_size)
    starts = range(0, rl.completions_per_update, rows)
    return max((start + rows - 1) // rl.group_size - start // rl.group_size + 1 for start in starts)


def _rows_within(most: int, prompt: int, completion: int, group: int, share: int) -> int:
    """Number of completions that `cuts_by_tokens` forwards together, at their longest.

    Args:
        most: number of tokens.
        prompt: tokens of a prompt.
        completion: tokens of a completion.
        group: number of adjacent completions with the same prompt.
        share: number of completions of a process.
    """
    fitting = [rows for rows in range(1, share + 1) if -(-rows // group) * prompt + rows * completion <= most]
    return max(fitting, default=1)


def update(config: Config, shape: Shape, one: Pass, on_gpu: bool, stage: str = "rl") -> dict[str, int]:
    """Return the peak of an update, by component. It is between the forward and the backward pass of a micro-batch.

    Args:
        config: the run.
        shape: sizes of its model.
        one: the micro-batch.
        on_gpu: whether it computes on a GPU.
        stage: sft or rl.
    """
    adapts = config.adapter.trains(stage)
    number = HALF if config.trainer.bf16 else FLOAT
    last = one.scored if one.is_shared else one.forwarded  # tokens that go through the whole last block
    of_head = one.scored if one.own_head else one.forwarded
    backward = last * (3 * shape.intermediate + 2 * shape.hidden) * number  # gradients of a block's activations
    ends = 3 * last * shape.hidden * FLOAT  # before the first block and after the last
    for_head = 0 if adapts else shape.vocabulary * shape.hidden * FLOAT  # the gradient of its weights
    return {
        "gradients": bytes_of_trained(config, shape, stage),
        "activations": kept(config, shape, one, on_gpu, adapts) + ends + backward,
        "logits": _logits(config, shape, one, on_gpu) + for_head + of_head * shape.hidden * FLOAT,
        "bf16 copies": shape.parameters * HALF if config.trainer.bf16 and config.model.dtype == "float32" else 0,
    }


def _logits(config: Config, shape: Shape, one: Pass, on_gpu: bool) -> int:
    """Return the bytes of the logits in memory at once."""
    if one.own_head:
        elements = TILE_ELEMENTS_ELSEWHERE if on_gpu else TILE_ELEMENTS["cpu"]
        rows = min(max(elements // shape.vocabulary, LEAST_ROWS), one.scored)
        return rows * shape.vocabulary * FLOAT * OWN_TILES
    width = TILE_VOCABULARY if on_gpu else min(shape.vocabulary, TILE_VOCABULARY)
    number = (HALF if config.trainer.bf16 else FLOAT) if on_gpu else FLOAT * TRL_TILES
    return min(one.forwarded, TILE_TOKENS) * width * number


def kept(config: Config, shape: Shape, one: Pass, on_gpu: bool, adapts: bool = False) -> int:
    """Return the bytes that the blocks keep for the backward pass; with `adapts`, those of an adapter's layers too.

    With gradient checkpointing, a shared pass keeps nothing of them, and its backward pass computes one prompt and its
    completions again. A plain pass keeps the input of each block, and computes one block again.
    """
    recomputes = config.trainer.gradient_checkpointing
    adapter = _of_adapter(config, shape) if adapts else 0
    if one.is_shared:
        again = replace(one, prompts=1, rows=one.group) if recomputes else one
        return of_shared_blocks(config, shape, again, on_gpu) + again.forwarded * shape.layers * adapter
    block = one.forwarded * (of_plain_block(config, shape, one.prompt + one.completion) + adapter)
    return block + one.forwarded * shape.layers * shape.hidden * FLOAT if recomputes else shape.layers * block


def _of_adapter(config: Config, shape: Shape) -> int:
    """Return the bytes per token that a block keeps more with an adapter.

    These are the result of A in each layer. On bfloat16 weights without autocast each layer also keeps its input in
    float32, the type of the adapter. Two norms with frozen weights keep no normalised vector.
    """
    copies = shape.inputs * FLOAT if config.model.dtype == "bfloat16" and not config.trainer.bf16 else 0
    return shape.ranks * (HALF if config.trainer.bf16 else FLOAT) + copies - 2 * shape.hidden * FLOAT


def of_shared_blocks(config: Config, shape: Shape, one: Pass, on_gpu: bool) -> int:
    """Return the bytes that the blocks keep of prompts and of the completions on top of them.

    On a CPU the completions of most models attend to the keys and values of their prompt (`group_attention`): a block
    keeps query, key, value, output, and a copy of the output for the projection. Otherwise prompt and completion are
    copied to one row for each completion. Then a block keeps key and value of the whole row, repeated for all heads,
    and query, output and a row of the attention mask for each token of a completion. Until the forward pass ends, a
    cache also holds the keys and values of the rows.
    """
    number, length = bytes_of_number(config), one.prompt + one.completion
    prompts = one.prompts * one.prompt * of_plain_block(config, shape, one.prompt)
    completions = one.scored * _without_attention(config, shape)
    if not on_gpu and length <= shape.held:
        completions += one.scored * (3 * shape.attention + 2 * shape.key_value) * number
        completions += one.prompts * one.prompt * 2 * shape.key_value * number
    else:
        completions += one.scored * (2 * shape.attention + length) * number
        completions += one.rows * length * 2 * (shape.attention * number + shape.key_value * FLOAT)
    # The last block gives only keys and values of prompts, and keeps next to nothing of them.
    return (shape.layers - 1) * prompts + shape.layers * completions


def of_plain_block(config: Config, shape: Shape, length: int) -> int:
    """Return the bytes per token that a block keeps of rows with `length` tokens.

    Of the attention these are query, key, value and output, with key and value repeated for all heads, and a row of the
    mask.
    """
    return _without_attention(config, shape) + (4 * shape.attention + length) * bytes_of_number(config)


def _without_attention(config: Config, shape: Shape) -> int:
    """Return the bytes per token that a block keeps besides its attention, measured on Llama and Qwen2.

    In float32 these are six vectors of the residual width (input, normalised and output of two norms) and four of the
    feed-forward part (gate, its activation, up, product). Under autocast the norms stay in float32, and each product
    keeps a copy of its input in bfloat16.
    """
    if bytes_of_number(config) == HALF:
        return 26 * shape.hidden + 4 * shape.intermediate * HALF
    return FLOAT * (6 * shape.hidden + 4 * shape.intermediate)
