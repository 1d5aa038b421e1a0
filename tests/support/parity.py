"""What comparisons of GPTModel with transformers' models share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from megatron.core.inference.contexts import StaticInferenceContext
from megatron.core.models.gpt import GPTModel
from torch import Tensor

SAMPLES, LENGTH = 3, 33


def batch(vocab_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, labels and positions, each ``[b, s]``."""
    text = torch.randint(vocab_size, (SAMPLES, LENGTH + 1), generator=torch.Generator().manual_seed(3))
    text = text.to("cuda")
    positions = torch.arange(LENGTH, device=text.device).expand(SAMPLES, -1)
    return text[:, :-1].contiguous(), text[:, 1:].contiguous(), positions


def split_qkv(stored: Tensor, heads: int, groups: int, width: int) -> dict[str, Tensor]:
    """Rows of linear_qkv, per query group [queries, key, value], as three matrices q, k and v."""
    per_group = heads // groups
    rows = stored.view(groups, per_group + 2, width, -1)
    parts = {"q": rows[:, :per_group], "k": rows[:, per_group], "v": rows[:, per_group + 1]}
    return {letter: part.reshape(-1, stored.shape[1]) for letter, part in parts.items()}


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    """Of every parameter that has one, by its name."""
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def assert_gradients_agree(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """The same tensors, none of them zero, equal to 2e-5 of the tensor's largest gradient."""
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        scale = gradient.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(
            ours[name], gradient, rtol=0, atol=2e-5 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_cached_greedy_is_the_full_forward(gpt: GPTModel, vocab_size: int) -> None:
    """Greedy decoding with a key-value cache, from a prompt shorter than any window and out of it."""
    tokens, _, positions = batch(vocab_size)
    tokens = tokens.clone()
    prompt = 4  # Shorter than the window: decoding leaves it behind.
    context = StaticInferenceContext(max_batch_size=len(tokens), max_sequence_length=LENGTH)
    read = 0
    with torch.inference_mode():
        for place in range(prompt, LENGTH):
            logits = gpt(
                tokens[:, read:place],
                positions[:, read:place],
                None,
                inference_context=context,
                runtime_gather_output=True,
            )
            context.increment_sequence_len_offset(place - read)
            read = place
            expected = gpt(tokens[:, :place], positions[:, :place], None)[:, -1]
            torch.testing.assert_close(logits[:, -1], expected, rtol=0, atol=1e-5)
            tokens[:, place] = logits[:, -1].argmax(-1)
        whole = gpt(tokens[:, :-1], positions[:, :-1], None)[:, prompt - 1 :].argmax(-1)
    assert torch.equal(whole, tokens[:, prompt:])
