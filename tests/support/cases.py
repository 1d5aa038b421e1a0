"""Cases that pool workers run: importable by name in a fresh process."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def pretrain_case(overrides: list[str]) -> tuple[int, list[dict[str, Any]]]:
    """A whole run of recipes.pretrain; its exit code and metrics so far."""
    from recipes.config.hydra_app import compose
    from recipes.pretrain import run
    from recipes.run_directory import read_metrics

    config = compose("pretrain", overrides)
    code = run(config)
    return code, read_metrics(Path(config.output_dir) / config.name / "metrics.jsonl")


def evaluate_case(overrides: list[str]) -> int:
    """A whole evaluation of recipes.evaluate; its exit code."""
    from recipes.config.hydra_app import compose
    from recipes.evaluate import run

    return run(compose("evaluate", overrides))


def nemo_logits(path: str, tokens: list[list[int]]) -> Any:
    """Logits of a .nemo on one process, as a numpy array ``[b, s, V]``."""
    import torch

    from recipes.inference.text_model import load_text_model

    model = load_text_model(path, precision="fp32", num_threads=1)
    logits = model.logits(torch.tensor(tokens)).numpy()
    return logits


def training_logits(step_directory: str, tokens: list[list[int]]) -> Any:
    """Logits ``[b, s, V]`` of a training checkpoint, loaded as a run that resumes from it loads it."""
    import torch

    from recipes.checkpoint.formats.safety import load_plain
    from recipes.checkpoint.nemo.classic_config import from_nemo_config
    from recipes.checkpoint.save.training_state import load_checkpoint_weights
    from recipes.config.schema import ParallelConfig
    from recipes.model.build import build_gpt_model
    from tests.support.engine import process_groups

    state = load_plain(Path(step_directory) / "common.pt")["recipes"]["model"]
    rows = state["make_vocab_size_divisible_by"]
    model = from_nemo_config({"recipes": {"model": state}}, tokenizer_vocab_size=0, stored_rows=rows)
    with process_groups():
        gpt = build_gpt_model(model, ParallelConfig(), torch.float32, parallel_output=False).to("cuda")
        load_checkpoint_weights(Path(step_directory), gpt)
        ids = torch.tensor(tokens).to("cuda")
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        with torch.inference_mode():
            return gpt.eval()(ids, positions, None).float().cpu().numpy()


def completions(path: str, prompts: list[str]) -> list[str]:
    """Greedy completions of a .nemo."""
    from recipes.config.schema import InferenceConfig
    from recipes.inference.complete import complete
    from recipes.inference.text_model import load_text_model

    model = load_text_model(path, precision="fp32", num_threads=1)
    settings = InferenceConfig(greedy=True, tokens_to_generate=8)
    texts = [completion.completion for completion in complete(model, prompts, settings, batch_size=2, seed=1)]
    return texts


def logits_while_training(overrides: list[str], tokens: list[list[int]]) -> Any:
    """Logits ``[b, s, V]`` that a run with samples computes for ``tokens`` when it last writes samples."""
    import torch

    from recipes.training.callbacks import samples
    from tests.support.run_cases import run_case

    complete, found = samples.complete, []

    def complete_after_scoring(writer: Any, *args: Any, **settings: Any) -> Any:
        found.append(writer.logits(torch.tensor(tokens)).numpy())
        return complete(writer, *args, **settings)

    samples.complete = complete_after_scoring
    try:
        outcome = run_case(overrides)
    finally:
        samples.complete = complete
    assert outcome.code == 0, outcome.message
    return found[-1]
