"""Memory that a training run needs per device, from the table of the model's tensors. No torch here."""

from __future__ import annotations

from recipes.config.lengths import total_steps
from recipes.config.schema import OptimConfig, ParallelConfig, PretrainConfig
from recipes.config.stages import stage_sizes
from recipes.config.timeline import timeline_of
from recipes.families.family import tensor_table
from recipes.families.model_config import ModelConfig, padded_vocab_size
from recipes.families.tensors import TensorSpec
from recipes.optim.kinds import parameter_kind
from recipes.plan.activations import layer_activations, stage_numbers
from recipes.plan.recorded import records_steps
from recipes.plan.stages import stage_tables, state_numbers

CUDA_OVERHEAD = 2**29
"""CUDA's context and the matrix library's workspaces, which torch's own count leaves out."""
CPU_OVERHEAD = 2**29
"""Python with torch, megatron-core, NeMo and Lightning loaded: 0.46 GiB measured."""
CPU_GAPS, CPU_GAPS_OF_SEVERAL = 1.2, 1.45
"""Memory of activations on the CPU divided by their size, with one micro-batch in a step and with several.

malloc leaves gaps between them, and more where the next micro-batch's do not fit: 1.17 and 1.45 measured.
"""


def run_memory(config: PretrainConfig, data_parallel_size: int, *, on_cuda: bool) -> dict[str, int]:
    """:func:`expected_memory_bytes` of the configured run, in the steps that need most."""
    sizes = {
        (
            each.micro_batch_size,
            each.global_batch_size // (each.micro_batch_size * data_parallel_size),
            each.seq_length,
        )
        for each in timeline_of(config).before(total_steps(config))
    }
    needs = [
        expected_memory_bytes(
            config.model,
            config.optim,
            config.parallel,
            micro_batch_size=micro_batch_size,
            num_micro_batches=num_micro_batches,
            seq_length=seq_length,
            data_parallel_size=data_parallel_size,
            bf16=uses_bf16(config, on_cuda=on_cuda),
            on_cuda=on_cuda,
            ema=config.trainer.ema.decay is not None,
            gradients_in_fp32=config.trainer.grad_reduce_in_fp32,
            details=config.trainer.log_details_every_n_steps is not None,
            recorded=on_cuda and records_steps(config),
        )
        for micro_batch_size, num_micro_batches, seq_length in sizes
    ]
    return max(needs, key=lambda parts: sum(parts.values()))


def uses_bf16(config: PretrainConfig, *, on_cuda: bool) -> bool:
    """Whether weights have 16 bits on the device."""
    precision = config.trainer.precision
    return precision in ("bf16", "fp16", "fp8") or (precision == "auto" and on_cuda)


def expected_memory_bytes(
    model: ModelConfig,
    optim: OptimConfig,
    parallel: ParallelConfig,
    *,
    micro_batch_size: int,
    num_micro_batches: int,
    seq_length: int,
    data_parallel_size: int,
    bf16: bool,
    on_cuda: bool,
    bytes_per_logit: int | None = None,
    ema: bool = False,
    gradients_in_fp32: bool = True,
    details: bool = False,
    recorded: bool = False,
) -> dict[str, int]:
    """Expected memory of the fullest process at the peak of a step, by part.

    With bf16: weights 2 bytes a parameter, gradients 4 (they are summed in fp32), main weights 4, AdamW's
    moments 8, the last two divided over data-parallel ranks (Rajbhandari et al. 2019, arXiv 1910.02054, ZeRO
    stage 1). With fp32 the weights are their own main weights. Activations: recipes/plan/activations.py. One
    H200 measured Param-1 (sequence 2048, micro-batch 4, with megatron-core's cross entropy, which takes 6
    bytes a logit) at 78.9 GiB; this says 79.2.

    Args:
        num_micro_batches: of one optimizer step on one data-parallel rank.
        on_cuda: whether kernels for the GPU compute it.
        bytes_per_logit: while the loss and its gradient are computed; None: those of
            recipes/model/cross_entropy.py, where the gradient takes the logits' place.
        ema: whether an average of the weights is kept, in fp32 and divided as the optimizer's state.
        gradients_in_fp32: also where weights have 16 bits.
        details: whether some steps keep a copy of the weights in fp32 during the update
            (trainer.log_details_every_n_steps).
        recorded: as CUDA graphs, which keep a micro-batch's activations.
    """
    sizes = stage_sizes(model, parallel)
    tables = stage_tables(model, sizes)
    layers = layer_activations(model, parallel, seq_length, on_cuda=on_cuda)
    tokens = micro_batch_size * seq_length // parallel.context_parallel_size
    width = 2 if bf16 else 4
    stages, first = [], 0
    for stage, (count, table) in enumerate(zip(sizes, tables, strict=True)):
        # Under 1F1B a stage keeps as many micro-batches alive as there are stages from it to the last.
        in_flight = min(len(sizes) - stage, num_micro_batches)
        kept, working = stage_numbers(layers[first : first + count], parallel, model.hidden_size)
        first += count
        kept *= in_flight
        logits = 0
        if stage == len(sizes) - 1:
            kept += 2 * model.hidden_size  # The last norm's input and output.
            rows = padded_vocab_size(model) // parallel.tensor_model_parallel_size
            logits = tokens * rows * (bytes_per_logit or width)
        # The backward pass of the layers begins when the tensors of the loss are gone.
        gaps = 1 if on_cuda else CPU_GAPS if num_micro_batches == 1 else CPU_GAPS_OF_SEVERAL
        activations = int(tokens * kept * width * gaps + max(0, tokens * working * width - logits))
        parts = _state_bytes(table, optim, parallel, data_parallel_size, bf16, ema)
        if not gradients_in_fp32:
            parts["gradients"] = parts["weights"]
        parts |= {"activations": activations, "logits and loss": logits}
        # Before an update and a save begin.
        gone = 0 if recorded else activations + logits
        if details:
            parts["copy of weights"] = max(0, _copied_bytes(table, parallel, data_parallel_size) - gone)
        if not on_cuda:
            saving = _saving_bytes(table, optim, parallel, data_parallel_size, ema)
            parts["saving"] = max(0, saving - gone)
        stages.append(parts | {"framework": CUDA_OVERHEAD if on_cuda else CPU_OVERHEAD})
    return max(stages, key=lambda parts: sum(parts.values()))


def checkpoint_bytes(model: ModelConfig, optim: OptimConfig, *, bf16: bool, ema: bool = False) -> int:
    """Size of a training checkpoint: weights, fp32 main weights, the optimizer's state, the average."""
    return sum(
        spec.stored_numbers() * ((2 if bf16 else 4) + _saved_state_bytes(spec, optim, bf16=bf16, ema=ema))
        for spec in tensor_table(model)
        if spec.trained
    )


def _saved_state_bytes(spec: TensorSpec, optim: OptimConfig, *, bf16: bool, ema: bool) -> int:
    """What a checkpoint holds for one number besides its weight."""
    # AdamW's distributed optimizer stores its main weights even where they equal the weights.
    return (4 if bf16 or optim.name == "adamw" else 0) + _moment_bytes(spec, optim) + (4 if ema else 0)


def _saving_bytes(
    table: list[TensorSpec], optim: OptimConfig, parallel: ParallelConfig, data_parallel_size: int, ema: bool
) -> int:
    """Host memory for a save: every rank's own part of weights in fp32, moments and average, once more.

    Measured on the CPU with 121M parameters: 12.8 bytes a number with AdamW (12 here), 8.8 in bf16 (12), 7.2
    with Muon (8), 15 with an average (16).
    """
    held = sum(spec.stored_numbers() * (4 + _moment_bytes(spec, optim) + (4 if ema else 0)) for spec in table)
    return held // (parallel.tensor_model_parallel_size * data_parallel_size)


def _state_bytes(
    table: list[TensorSpec],
    optim: OptimConfig,
    parallel: ParallelConfig,
    data_parallel_size: int,
    bf16: bool,
    ema: bool,
) -> dict[str, int]:
    numbers = main = moments = averages = 0.0
    for spec in table:
        held, sharded = state_numbers(spec, parallel, data_parallel_size)
        numbers += held
        main += 4 * sharded if bf16 else 0
        moments += _moment_bytes(spec, optim) * sharded
        averages += 4 * sharded if ema else 0
    return {
        "weights": int(numbers * (2 if bf16 else 4)),
        "gradients": int(numbers * 4),
        "main weights": int(main),
        "optimizer": int(moments),
        "average": int(averages),
    }


def _copied_bytes(table: list[TensorSpec], parallel: ParallelConfig, data_parallel_size: int) -> int:
    """Of the weights whose optimizer state a rank has, in fp32."""
    return int(sum(4 * state_numbers(spec, parallel, data_parallel_size)[1] for spec in table))


def _moment_bytes(spec: TensorSpec, optim: OptimConfig) -> int:
    """The optimizer's state for one number: two moments with AdamW, the momentum with Muon."""
    is_matrix = parameter_kind(spec.name, spec.shape) == "matrix"
    return 4 if optim.name == "muon" and is_matrix else 8
