"""Steps that are timed."""

from __future__ import annotations

from dataclasses import replace


def measured_steps(overrides: list[str]) -> tuple[list[float], float, float]:
    """Seconds of two steps; the mean loss of the first and of the last of six others on the same tokens."""
    import torch
    from megatron.core import parallel_state

    from recipes.config.hydra_app import compose
    from recipes.plan.machine import free_bytes, this_machines_device
    from recipes.plan.measured import measurable
    from recipes.training import bare_step

    device = this_machines_device()
    config = measurable(compose("pretrain", overrides), device, free_bytes(device, 0))
    times = bare_step.time_steps(config, 2)
    parallel_state.destroy_model_parallel()
    losses: list[float] = []
    config = replace(config, optim=replace(config.optim, lr=1e-2))
    build = bare_step.build_engine

    def watched(gpt, run, dtype):  # type: ignore[no-untyped-def]
        gpt.register_forward_hook(lambda module, inputs, output: losses.append(output.mean().item()))
        return build(gpt, run, dtype)

    bare_step.build_engine = watched
    step = bare_step.bare_step(config)
    tokens = torch.randint(100, (config.trainer.global_batch_size, config.data.seq_length + 1))
    for _ in range(6):
        step(tokens)
    return times, losses[0], losses[-1]
