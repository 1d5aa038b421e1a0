"""Published speeds of runs on H100s, and what the planner says of the same runs.

Sources: MPT: mosaicml/llm-foundry, scripts/train/benchmarking/README.md (FSDP, sequence 2,048, bf16).
NVIDIA/dgxc-benchmarking v25.04 (Megatron): Nemotron-4 15B (TP 2, micro-batch 2, 4 samples of 4,096 tokens for
each GPU) and Llama 3.1 8B (CP 2, micro-batch 1, 16 samples of 8,192 tokens for each GPU).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from recipes.config.cluster_schema import ClusterConfig, HardwareConfig
from recipes.config.schema import OptimConfig, ParallelConfig, PretrainConfig, TrainerConfig
from recipes.config.stages import stage_sizes
from recipes.families.model_config import ModelConfig
from recipes.plan.kernels import stage_kernels
from recipes.plan.links import group_of
from recipes.plan.stages import stage_tables
from recipes.plan.step_time import step_time
from recipes.plan.traffic import GRADIENT_BYTES, WEIGHT_BYTES, hidden_behind

GPUS_PER_NODE = 8
H100 = HardwareConfig(gpu="h100", nvlink_gb_per_s=450, network_gb_per_s=50)
"""As the data sheets of an H100 node say, with the planner's defaults."""
ADAMW = OptimConfig(lr=1e-4)


def _mpt(num_layers: int, hidden_size: int, num_attention_heads: int) -> ModelConfig:
    return ModelConfig(
        num_layers=num_layers,
        hidden_size=hidden_size,
        ffn_hidden_size=4 * hidden_size,
        num_attention_heads=num_attention_heads,
        vocab_size=50_368,
        max_position_embeddings=2048,
        normalization="LayerNorm",
        activation="gelu",
        position_embedding_type="learned_absolute",
        share_embeddings_and_output_weights=True,
    )


MODELS = {
    "MPT 1B": _mpt(24, 2048, 16),
    "MPT 3B": _mpt(32, 2560, 20),
    "MPT 7B": _mpt(32, 4096, 32),
    "Nemotron-4 15B": ModelConfig(
        num_layers=32,
        hidden_size=6144,
        ffn_hidden_size=24_576,
        num_attention_heads=48,
        num_query_groups=8,
        vocab_size=256_000,
        max_position_embeddings=4096,
        normalization="LayerNorm",
        activation="squared_relu",
    ),
    "Llama 3.1 8B": ModelConfig(
        num_layers=32,
        hidden_size=4096,
        ffn_hidden_size=14_336,
        num_attention_heads=32,
        num_query_groups=8,
        vocab_size=128_256,
        max_position_embeddings=8192,
    ),
}


@dataclass(frozen=True)
class ShardedRun:
    """A run under PyTorch's FSDP: a block's weights are gathered before it is computed."""

    model: str
    gpus: int
    micro_batch_size: int
    micro_batches: int
    gathered_twice: bool
    """FULL_SHARD: once more for the backward pass; SHARD_GRAD_OP keeps them."""
    measured: float
    """Tokens per second of one GPU."""

    @cached_property
    def _blocks(self) -> list[int]:
        model = MODELS[self.model]
        table = stage_tables(model, [model.num_layers])[0]
        inside = [
            sum(spec.stored_numbers() for spec in table if spec.layer == layer)
            for layer in range(model.num_layers)
        ]
        return [*inside, sum(spec.stored_numbers() for spec in table if spec.layer is None)]

    def planned(self, hardware: HardwareConfig) -> float:
        """Tokens per second of one GPU."""
        (kernels,) = stage_kernels(
            MODELS[self.model], ADAMW, ParallelConfig(), hardware,
            micro_batch_size=self.micro_batch_size, seq_length=2048, data_parallel_size=self.gpus,
        )  # fmt: skip
        group = group_of(self.gpus, 1, GPUS_PER_NODE)
        weights = [WEIGHT_BYTES * size for size in self._blocks]
        gradients = [GRADIENT_BYTES * size for size in self._blocks]
        # The first gathering of a micro-batch and its last reduction are hidden by nothing.
        gathered = hidden_behind(weights, group, hardware, kernels.forward)[1]
        if self.gathered_twice:
            gathered += hidden_behind(weights[:-1], group, hardware, kernels.backward)[1]
        reduced = hidden_behind(gradients, group, hardware, kernels.backward)[1]
        seconds = self.micro_batches * (kernels.micro_batch + gathered + reduced) + kernels.optimizer
        return self.micro_batches * self.micro_batch_size * 2048 / seconds


@dataclass(frozen=True)
class MegatronRun:
    """A run under Megatron, as this project's trainer would do it, with two GPUs to a replica."""

    gpus: int
    measured: float
    model: str
    parallel: ParallelConfig
    micro_batch_size: int
    samples_of_gpu: int
    """In a step."""
    seq_length: int

    def planned(self, hardware: HardwareConfig) -> float:
        """Tokens per second of one GPU."""
        trainer = TrainerConfig(
            micro_batch_size=self.micro_batch_size, global_batch_size=self.samples_of_gpu * self.gpus
        )
        parallel = replace(self.parallel, overlap_grad_reduce=True, overlap_param_gather=True)
        config = PretrainConfig(model=MODELS[self.model], optim=ADAMW, parallel=parallel, trainer=trainer)
        config = replace(config, data=replace(config.data, seq_length=self.seq_length))
        assert stage_sizes(config.model, parallel) == [32]
        cluster = ClusterConfig(self.gpus // GPUS_PER_NODE, GPUS_PER_NODE, hardware)
        return step_time(config, cluster, self.gpus // 2).tokens_per_second


MPT_3B = {
    16: ShardedRun("MPT 3B", 16, 10, 3, True, 24_142),
    128: ShardedRun("MPT 3B", 128, 8, 1, False, 23_422),
    256: ShardedRun("MPT 3B", 256, 8, 1, False, 22_772),
    512: ShardedRun("MPT 3B", 512, 8, 1, False, 21_664),
}
MPT_7B = {
    8: ShardedRun("MPT 7B", 8, 6, 1, True, 10_643),
    128: ShardedRun("MPT 7B", 128, 6, 1, True, 10_475),
    256: ShardedRun("MPT 7B", 256, 6, 1, True, 10_119),
    512: ShardedRun("MPT 7B", 512, 6, 1, True, 9_670),
}
MPT_1B = {
    8: ShardedRun("MPT 1B", 8, 14, 1, True, 45_455),
    128: ShardedRun("MPT 1B", 128, 12, 1, False, 44_123),
    512: ShardedRun("MPT 1B", 512, 12, 1, False, 39_837),
}
NEMOTRON = {
    gpus: MegatronRun(
        gpus, measured, "Nemotron-4 15B",
        ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True),
        micro_batch_size=2, samples_of_gpu=4, seq_length=4096,
    )
    for gpus, measured in {16: 6_159, 512: 6_046, 1_024: 5_980, 2_048: 5_894}.items()
}  # fmt: skip
LLAMA_8B = {
    gpus: MegatronRun(
        gpus, measured, "Llama 3.1 8B", ParallelConfig(context_parallel_size=2),
        micro_batch_size=1, samples_of_gpu=16, seq_length=8192,
    )
    for gpus, measured in {8: 10_682, 128: 10_630}.items()
}  # fmt: skip
