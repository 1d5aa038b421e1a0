"""Compares the logits of both sides of a conversion for the same text."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recipes.parallel import cpu_stand_in

if not torch.cuda.is_available():  # Before megatron-core is imported: it looks at CUDA as it loads.
    cpu_stand_in.install()

from recipes.checkpoint.open import open_stored_model
from recipes.checkpoint.stored.fill import load_weights
from recipes.console import quiet_libraries
from recipes.errors import UserError
from recipes.inference.second_reading import second_reading, transformers_logits
from recipes.inference.text_model import build_for_inference

PROMPTS = (
    "The monsoon reaches Kerala in the first days of June.",
    "भारत में बारिश कब होगी? मौसम विभाग के अनुसार जून में।",
    "Delhi दिल्ली 1947, 28.6° N: the capital राजधानी",
)
LENGTH = 24
# Shares of the largest logit. Measured over all families: 0 to 5e-7 with the same weights (transformers has
# other kernels, and a larger model adds up more rounding), and 0.001 to 0.044 with weights rounded to bf16,
# most where another expert is chosen. A tensor in the wrong place changes logits by about their own size.
BOUND = 1e-4
BOUND_NARROWED = 0.1


@dataclass(frozen=True)
class Comparison:
    """Of the logits of both sides."""

    difference: float
    """The largest, absolute."""
    largest: float
    """The source's largest logit."""
    bound: float
    """How large the difference may be, as a share of the largest logit."""
    second_reader: str | None = None
    """What read the source's configuration a second time: transformers, megatron-core; None: nothing can."""
    second_difference: float = 0.0
    """Between both readings of the source; BOUND is allowed."""

    @property
    def readings_agree(self) -> bool:
        """Whether the source's configuration was understood as its own library understands it."""
        return self.second_difference <= BOUND * self.largest < float("inf")

    @property
    def sides_agree(self) -> bool:
        """Whether source and target agree; False if there are numbers that are not finite."""
        return self.difference <= self.bound * self.largest < float("inf")

    @property
    def agrees(self) -> bool:
        """Whether both sides agree, and both readings of the source."""
        return self.sides_agree and self.readings_agree


def compare_logits(source: Path, target: Path, weights: str = "trained") -> Comparison:
    """The logits of both sides of a conversion; see :func:`compare_forms`."""
    (comparison,) = compare_forms(source, [target], weights)
    return comparison


def compare_forms(source: Path, targets: Sequence[Path], weights: str = "trained") -> list[Comparison]:
    """The logits of fixed English and Hindi prompts, from a stored model and from others made of it.

    In fp32, with one model in memory at a time. transformers runs a Hugging Face target, this project's model
    everything else. The source is run a second time by what reads its configuration independently.

    Args:
        source: what the others were made of; of a run, the checkpoint: it may have a newer one by now.
        targets: what was made of it.
        weights: ema: they were made of the average in a training checkpoint instead of its weights.

    Raises:
        UserError: a model cannot be loaded.
    """
    quiet_libraries()
    tokens = _tokens(source)
    before = _recipes_logits(source, tokens, weights)
    gc.collect()
    with open_stored_model(source, verify=False, weights=weights) as stored:
        second = second_reading(stored, tokens)
    gc.collect()
    found = []
    for target in targets:
        hugging_face = (target / "config.json").is_file()
        after = transformers_logits(target, tokens) if hugging_face else _recipes_logits(target, tokens)
        gc.collect()
        found.append(
            Comparison(
                _difference(before, after),
                before.abs().max().item(),
                BOUND_NARROWED if _narrowed(source, target, weights) else BOUND,
                None if second is None else second.reader,
                0.0 if second is None else _difference(before, second.logits),
            )
        )
    return found


def _difference(first: Tensor, second: Tensor) -> float:
    """The largest, over the rows that both have: padded ones are not in every form."""
    vocabulary = min(first.shape[-1], second.shape[-1])
    return (first[..., :vocabulary] - second[..., :vocabulary]).abs().max().item()


def _narrowed(source: Path, target: Path, weights: str) -> bool:
    """Whether the target stores some tensor with fewer digits than the source."""
    with (
        open_stored_model(source, verify=False, weights=weights) as before,
        open_stored_model(target, verify=False) as after,
    ):
        return any(
            torch.finfo(tensor.dtype).eps > torch.finfo(before.tensors[name].dtype).eps
            for name, tensor in after.tensors.items()
            if tensor.dtype.is_floating_point and name in before.tensors
        )


def _tokens(path: Path) -> Tensor:
    """``[prompts, LENGTH]``: the prompts' ids, repeated or cut to one length."""
    with open_stored_model(path) as source:
        vocabulary = source.model.vocab_size
        try:
            encoded = [source.text_tokenizer.encode(prompt) for prompt in PROMPTS]
        except UserError:  # It has no tokenizer: any ids will do.
            encoded = [[(7 * place + 3 * row) % vocabulary for place in range(LENGTH)] for row in range(3)]
    rows = [(ids * (LENGTH // len(ids) + 1))[:LENGTH] for ids in encoded]
    return torch.tensor(rows) % vocabulary


@torch.inference_mode()
def _recipes_logits(path: Path, tokens: Tensor, weights: str = "trained") -> Tensor:

    # Not load_text_model: torch_dist weights have no tokenizer.
    with open_stored_model(path, verify=False, weights=weights) as source:
        gpt = build_for_inference(source.model, precision="fp32").eval()
        load_weights(source, gpt)
    tokens = tokens.to(next(gpt.parameters()).device)
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    return gpt(tokens, positions, None, runtime_gather_output=True).float().cpu()
