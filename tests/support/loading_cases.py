"""A case about the memory that loading takes, in a process of its own."""

from __future__ import annotations

from pathlib import Path


def peak_case(stored: str, path: str) -> float:
    """By how much a process grows at the most while an fp32 model is filled, in the model's bytes."""
    import torch

    from recipes.checkpoint.stored.fill import load_weights
    from recipes.checkpoint.stored.stored_model import StoredModel
    from recipes.checkpoint.stored.stored_tokenizer import StoredTokenizer
    from recipes.families.family import tensor_table
    from recipes.families.model_config import ModelConfig
    from recipes.inference.text_model import build_for_inference
    from tests.support.huggingface_models import stored_in

    torch.set_num_threads(1)
    model = ModelConfig(
        num_layers=1,
        hidden_size=256,
        ffn_hidden_size=256,
        num_attention_heads=4,
        num_query_groups=4,
        vocab_size=64_000,
        max_position_embeddings=64,
    )
    dtype = getattr(torch, stored)
    tensors = {spec.name: torch.ones(spec.shape, dtype=dtype) for spec in tensor_table(model)}
    source = StoredModel(
        path=Path(path),
        generation="classic",
        version=None,
        kind="",
        config={},
        tensors=stored_in(Path(path), tensors),
        tokenizer=StoredTokenizer("sentencepiece", "none", {}),
        describe=lambda pieces, rows: model,
    )
    del tensors
    gpt = build_for_inference(model, "fp32")  # Memory that nothing has been written to is none yet.
    Path("/proc/self/clear_refs").write_text("5")  # The peak begins again.
    before = _memory("VmRSS")
    load_weights(source, gpt)
    grown = _memory("VmHWM") - before
    assert all((parameter == 1).all() for parameter in gpt.parameters())
    return grown / sum(parameter.nbytes for parameter in gpt.parameters())


def _memory(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
