"""Cases that pool workers run: importable by name in a fresh process."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def pretrain_case(overrides: list[str]) -> tuple[int, list[dict[str, Any]]]:
    """A whole run of recipes.pretrain; its exit code and metrics so far."""
    from recipes.config.hydra_app import compose
    from recipes.pretrain import run
    from recipes.training.rundir import read_metrics

    config = compose("pretrain", overrides)
    code = run(config)
    return code, read_metrics(Path(config.output_dir) / config.name / "metrics.jsonl")


def nemo_logits(path: str, tokens: list[list[int]]) -> Any:
    """Logits of a .nemo on one process, as a numpy array ``[b, s, V]``."""
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state

    from recipes.inference.text_model import load_text_model

    model = load_text_model(path, precision="fp32", num_threads=1)
    logits = model.logits(torch.tensor(tokens)).numpy()
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()
    return logits
