"""Completing and scoring prompts, as NeMo's megatron_gpt_eval does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recipes.config.schema import InferenceConfig
from recipes.errors import UserError
from recipes.inference.sampling import choose_next
from recipes.inference.text_generator import TextGenerator

# In end_strings this stands for the end-of-document token, whatever the tokenizer calls it.
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Completion:
    prompt: str
    completion: str
    token_ids: list[int]
    """Prompt and completion, the leading BOS included."""


@dataclass(frozen=True)
class Score:
    prompt: str
    tokens: list[int]
    logprobs: list[float]
    """Natural log-probability of each token after the first."""


def prompt_ids(model: TextGenerator, prompt: str, settings: InferenceConfig) -> list[int]:
    """The prompt's tokens, preceded by the token that documents start with if that is wanted."""
    start = model.document_start_id
    if settings.add_BOS is not None:
        start = model.bos_id if settings.add_BOS else None
        if settings.add_BOS and start is None:
            raise UserError("inference.add_BOS=true: the tokenizer has no BOS; set it to false")
    ids = model.encode(prompt)
    return [start, *ids] if start is not None else ids


def complete(
    model: TextGenerator, prompts: list[str], settings: InferenceConfig, *, batch_size: int, seed: int
) -> Iterator[Completion]:
    """Yields a completion per prompt, in order.

    Raises:
        UserError: a prompt is empty or too long.
    """
    generator = torch.Generator(device=model.device).manual_seed(seed)
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        rows = [prompt_ids(model, prompt, settings) for prompt in batch]
        end = max(len(row) for row in rows) + settings.tokens_to_generate

        def choose(logits: Tensor, context: Tensor) -> Tensor:
            return choose_next(logits, context, settings, generator)

        def stop(row: int, generated: list[int]) -> bool:
            return _ends(model, generated, settings.end_strings)

        generated = model.generate(
            rows, [end] * len(rows), choose, stop, min_new_tokens=settings.min_tokens_to_generate
        )
        for prompt, row, ids in zip(batch, rows, generated, strict=True):
            yield Completion(prompt, _new_text(model, row, ids), row + ids)


def _ends(model: TextGenerator, generated: list[int], end_strings: list[str]) -> bool:
    if generated[-1] == model.eos_id:
        return True
    others = [text for text in end_strings if text != END_OF_TEXT]
    return bool(others) and model.decode(generated).endswith(tuple(others))


def _new_text(model: TextGenerator, prompt: list[int], generated: list[int]) -> str:
    # Decoded together with the prompt: a first piece may carry the space between the two.
    return model.decode(prompt + generated)[len(model.decode(prompt)) :]


def score(model: TextGenerator, prompts: list[str], settings: InferenceConfig) -> Iterator[Score]:
    """Yields the log-probabilities of each prompt's own tokens."""
    for prompt in prompts:
        ids = prompt_ids(model, prompt, settings)
        if len(ids) < 2:
            raise UserError("a prompt of one token has nothing to score; give it more text")
        if len(ids) > model.max_sequence_length:
            raise UserError(
                f"a prompt has {len(ids):,} tokens; the model reads {model.max_sequence_length:,}"
            )
        tokens = torch.tensor([ids], device=model.device)
        logprobs = model.logits(tokens[:, :-1])[0].float().log_softmax(-1)
        chosen = logprobs.gather(1, tokens[0, 1:, None]).squeeze(1)
        yield Score(prompt, ids, chosen.tolist())
