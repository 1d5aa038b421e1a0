"""Both sides of a conversion read the same text and should say the same."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import torch
from torch import Tensor

from recipes.errors import UserError
from recipes.training.quiet import quiet_libraries

PROMPTS = (
    "The monsoon reaches Kerala in the first days of June.",
    "भारत में बारिश कब होगी? मौसम विभाग के अनुसार जून में।",
    "Delhi दिल्ली 1947, 28.6° N: the capital राजधानी",
)
LENGTH = 24


def compare_logits(source: Path, target: Path) -> tuple[float, float]:
    """Largest absolute difference of the logits of fixed English and Hindi prompts, and the largest logit.

    In fp32, one side in memory at a time. A Hugging Face target is run by transformers, everything else by
    the model here.

    Raises:
        UserError: a side cannot be loaded.
    """
    quiet_libraries()
    tokens = _tokens(source)
    ours = _our_logits(source, tokens)
    gc.collect()
    hugging_face = (target / "config.json").is_file()
    theirs = _transformers_logits(target, tokens) if hugging_face else _our_logits(target, tokens)
    vocabulary = min(ours.shape[-1], theirs.shape[-1])
    difference = (ours[..., :vocabulary] - theirs[..., :vocabulary]).abs().max().item()
    return difference, ours.abs().max().item()


def _tokens(path: Path) -> Tensor:
    """``[prompts, LENGTH]``: the prompts' ids, repeated or cut to one length."""
    from recipes.checkpoint.sources import open_source

    with open_source(path) as source:
        vocabulary = source.model.vocab_size
        try:
            encoded = [source.text_tokenizer.encode(prompt) for prompt in PROMPTS]
        except UserError:  # It has no tokenizer: any ids will do.
            encoded = [[(7 * place + 3 * row) % vocabulary for place in range(LENGTH)] for row in range(3)]
    rows = [(ids * (LENGTH // len(ids) + 1))[:LENGTH] for ids in encoded]
    return torch.tensor(rows) % vocabulary


@torch.inference_mode()
def _our_logits(path: Path, tokens: Tensor) -> Tensor:
    from recipes.checkpoint.nemo_file import load_weights
    from recipes.checkpoint.sources import open_source
    from recipes.inference.text_model import build_for_inference

    with open_source(path, verify=False) as source:  # Not by a tokenizer: torch_dist weights have none.
        gpt = build_for_inference(source.model, precision="fp32").eval()
        load_weights(source, gpt)
    tokens = tokens.to(next(gpt.parameters()).device)
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    return gpt(tokens, positions, None, runtime_gather_output=True).float().cpu()


def _transformers_logits(path: Path, tokens: Tensor) -> Tensor:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    # The remote code that a family without a class leaves with is this project's own.
    own_code = "auto_map" in json.loads((path / "config.json").read_text(encoding="utf-8"))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, trust_remote_code=own_code)
    with torch.inference_mode():
        logits: Tensor = model.eval()(tokens).logits
    return logits.float()
