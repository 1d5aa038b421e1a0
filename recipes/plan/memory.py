"""Memory that a training run needs per device, from the table of the model's tensors."""

from __future__ import annotations

from recipes.config.schema import ParallelConfig
from recipes.config.stages import stage_sizes
from recipes.families.family import tensor_table
from recipes.families.model_config import ModelConfig, padded_vocab_size
from recipes.families.tensors import POSITIONS, WORD_EMBEDDINGS, TensorSpec


def expected_memory_bytes(
    model: ModelConfig,
    parallel: ParallelConfig,
    *,
    micro_batch_size: int,
    seq_length: int,
    data_parallel_size: int,
    bf16: bool,
) -> dict[str, int]:
    """Expected memory of the fullest device, by part.

    Weights, gradients (fp32), optimizer state (two moments, and fp32 master weights under bf16; divided over
    data-parallel ranks) and activations without recomputation, the latter after
    Korthikanti et al. 2022 (arXiv 2205.05198, eq. 2) without its 5as/h attention-matrix term, since SDPA and
    flash kernels do not store it. An estimate that leaves out fragmentation and buffers.
    """
    sizes = stage_sizes(model, parallel)
    tables = _stage_tables(model, sizes)
    tokens = micro_batch_size * seq_length // parallel.context_parallel_size
    stages = []
    for stage, (layers, table) in enumerate(zip(sizes, tables, strict=True)):
        # Under 1F1B a stage keeps as many micro-batches alive as there are stages from it to the last.
        in_flight = len(sizes) - stage
        activations = tokens * layers * in_flight * _activation_bytes(model, parallel, layers, bf16)
        if stage == len(sizes) - 1:
            logits = padded_vocab_size(model) // parallel.tensor_model_parallel_size
            activations += tokens * logits * ((2 if bf16 else 4) + 4)
        stages.append(
            _state_bytes(table, parallel, data_parallel_size, bf16) | {"activations": int(activations)}
        )
    return max(stages, key=lambda parts: sum(parts.values()))


def _stage_tables(model: ModelConfig, sizes: list[int]) -> list[list[TensorSpec]]:
    """The tensors of each pipeline stage; a tied head is a copy of the embedding on the last one."""
    ends = [sum(sizes[: stage + 1]) for stage in range(len(sizes))]
    tables: list[list[TensorSpec]] = [[] for _ in sizes]
    for spec in tensor_table(model):
        if spec.layer is not None:
            tables[next(stage for stage, end in enumerate(ends) if spec.layer < end)].append(spec)
            continue
        first = spec.name == WORD_EMBEDDINGS or spec.part == POSITIONS
        tables[0 if first else -1].append(spec)
        if spec.name == WORD_EMBEDDINGS and spec.multiplied and len(sizes) > 1:
            tables[-1].append(spec)
    return tables


def _state_bytes(
    table: list[TensorSpec], parallel: ParallelConfig, data_parallel_size: int, bf16: bool
) -> dict[str, int]:
    tp = parallel.tensor_model_parallel_size
    expert_tp = parallel.expert_tensor_parallel_size or tp
    routed = others = 0
    for spec in table:
        if spec.routed:
            ranks = (expert_tp if spec.split else 1) * parallel.expert_model_parallel_size
            routed += spec.stored_numbers() // ranks
        else:
            others += spec.stored_numbers() // (tp if spec.split else 1)
    # Context-parallel ranks hold the same weights and shard the state too; experts have fewer replicas.
    shards = data_parallel_size * parallel.context_parallel_size
    state = (others + routed * parallel.expert_model_parallel_size) * (12 if bf16 else 8) // shards
    return {
        "weights": (others + routed) * (2 if bf16 else 4),
        "gradients": (others + routed) * 4,
        "optimizer": state,
    }


def _activation_bytes(model: ModelConfig, parallel: ParallelConfig, layers: int, bf16: bool) -> float:
    """Per token and layer: 34h bytes with 2-byte numbers, of which only sequence parallelism splits 10h."""
    hidden, scale = model.hidden_size, 1 if bf16 else 2
    split = 34 if parallel.sequence_parallel else 24
    size = hidden * (split / parallel.tensor_model_parallel_size + (34 - split)) * scale
    if parallel.recompute_granularity == "full":  # A layer's input is kept, the rest of one layer at a time.
        return 2 * hidden * scale + size / layers
    return size
