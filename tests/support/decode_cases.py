"""The decode path against whole forward passes of the GPTModel, for tests on the CPU and on a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from recipes.config.schema import ParallelConfig
from recipes.config.world import launched_world
from recipes.families.model_config import ModelConfig
from recipes.inference.decode.forward import LeanDecoder
from recipes.inference.decode.weights import Unknown, read_weights
from recipes.inference.text_model import GPTTextModel
from tests.support.engine import initialized, process_groups
from tests.support.huggingface_models import shaken

PROMPTS = (13, 4, 9)
"""Lengths, the longest and the last longer than the window of 5, the second shorter."""
SLOTS = (2, 0, 1)
STEPS = 19  # With the longest prompt an even number, as sequence parallelism needs.


def tiny_model(model: ModelConfig, dtype: torch.dtype = torch.float32) -> GPTModel:
    """Every number away from its initial value."""
    return shaken(initialized(model, dtype=dtype)).eval()


def text_model(gpt: GPTModel, model: ModelConfig) -> GPTTextModel:
    """With a tokenizer that has ids only."""
    tokenizer: Any = SimpleNamespace(vocab_size=model.vocab_size, bos_id=1, eos_id=2, id_to_piece=str)
    return GPTTextModel(
        gpt,
        tokenizer,
        name="tiny",
        max_sequence_length=model.max_position_embeddings,
        document_start_id=None,
    )


@torch.no_grad()
def assert_every_position_agrees(gpt: GPTModel, model: ModelConfig, chunk: int, tolerance: float) -> None:
    """Ragged prompts read together, ``chunk`` tokens at a time, and steps after them, out of any window."""
    length = max(PROMPTS) + STEPS
    tokens = texts(model, length)
    whole = whole_logits(gpt, model, tokens)
    assert whole.std() > 0.3, "the comparison would say nothing"
    decoder = LeanDecoder(read_weights(gpt, model.vocab_size), len(SLOTS), length)
    decoder.chunk = chunk
    prompts = [tokens[row, :count].tolist() for row, count in enumerate(PROMPTS)]
    read = decoder.read(SLOTS, prompts)
    for row, count in enumerate(PROMPTS):
        assert (read[row].float() - whole[row, count - 1]).abs().max() < tolerance
    rows = torch.tensor(SLOTS, device=tokens.device).argsort()  # The text in each slot.
    for step in range(STEPS):
        positions = torch.tensor(PROMPTS, device=tokens.device)[rows] + step
        longest = int(positions.max()) + 1
        logits = decoder.step(tokens[rows, positions], positions, longest)
        assert (logits.float() - whole[rows, positions]).abs().max() < tolerance


def texts(model: ModelConfig, length: int) -> Tensor:
    """``[3, length]``, on the device."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(model.vocab_size, (len(PROMPTS), length), generator=generator).to("cuda")


def whole_logits(gpt: GPTModel, model: ModelConfig, tokens: Tensor) -> Tensor:
    """``[b, s, vocab_size]`` in fp32, on every rank of a model that is split."""
    return text_model(gpt, model).logits(tokens).float()


def split_case(models: list[ModelConfig], parallel: ParallelConfig) -> None:
    """This rank's parts of models, one after the other, each against the whole passes of all ranks."""
    with process_groups(parallel, launched_world()):
        for model in models:
            gpt = shaken(initialized(model, parallel=parallel)).eval()
            assert_every_position_agrees(gpt, model, chunk=6, tolerance=2e-5)
            assert_chosen_places_agree(gpt, model)


def assert_chosen_places_agree(gpt: GPTModel, model: ModelConfig) -> None:
    """An odd number of places in texts of odd length, which no two ranks can share out as they are."""
    tokens, rows, places = texts(model, 11), torch.tensor([2, 0, 1]), torch.tensor([10, 8, 6])
    generator = text_model(gpt, model)
    whole = generator.logits(tokens)
    assert whole.shape == (*tokens.shape, model.vocab_size)
    assert (generator.logits_at(tokens, rows, places) - whole[rows, places]).abs().max() < 2e-5
    after = generator.logits_after(tokens[:, :6], torch.arange(3), tokens[:, 6:], rows, places - 6)
    assert (after[:3] - whole[:, 5]).abs().max() < 2e-5
    assert (after[3:] - whole[rows, places]).abs().max() < 2e-5


def split_reason_case(model: ModelConfig, parallel: ParallelConfig) -> str | None:
    """Why the decode path does not compute a model that is split so."""
    with process_groups(parallel, launched_world()):
        try:
            read_weights(initialized(model, parallel=parallel), model.vocab_size)
        except Unknown as reason:
            return str(reason)
        return None
