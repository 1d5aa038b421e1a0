"""Completing and scoring prompts, as NeMo's megatron_gpt_eval does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from recipes.config.schema import InferenceConfig
from recipes.errors import UserError
from recipes.inference.check_request import check_prompt
from recipes.inference.engine import Engine, in_order
from recipes.inference.requests import Request, Sampling
from recipes.inference.text_generator import TextGenerator

# In end_strings this stands for the end-of-document token, whatever the tokenizer calls it.
END_OF_TEXT = "<|endoftext|>"
SEED_STEP = 0x9E3779B97F4A7C15  # Seeds of neighbours are far apart.


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
    model: TextGenerator,
    prompts: list[str],
    settings: InferenceConfig,
    *,
    batch_size: int,
    seed: int,
    first: int = 0,
) -> Iterator[Completion]:
    """Yields a completion per prompt, in order, from prompt number ``first`` on.

    ``batch_size`` are completed together. A finished one's place goes to the next prompt.

    Raises:
        UserError: a prompt is empty or too long.
    """
    rows = [prompt_ids(model, prompt, settings) for prompt in prompts]
    requests = requests_for(model, rows, settings, batch_size=batch_size, seed=seed)[first:]
    longest = max((len(request.prompt) + request.max_new_tokens for request in requests), default=1)
    engine = Engine(model, slots=min(batch_size, max(1, len(requests))), max_length=longest)
    for prompt, row, result in zip(prompts[first:], rows[first:], in_order(engine, requests), strict=True):
        ids = list(result.token_ids)
        yield Completion(prompt, _new_text(model, row, ids), row + ids)


def requests_for(
    model: TextGenerator, rows: Sequence[list[int]], settings: InferenceConfig, *, batch_size: int, seed: int
) -> list[Request]:
    """What the engine is asked for each prompt's ids.

    Raises:
        UserError: a prompt is empty or too long.
    """
    stop = stop_rule(model, settings.end_strings)
    seen: Counter[tuple[int, ...]] = Counter()
    requests = []
    for number, row in enumerate(rows):
        prompt = tuple(row)
        check_prompt(prompt, model.max_sequence_length)
        first = number - number % batch_size
        counted = rows[first : first + batch_size] if settings.count_from == "longest" else [row]
        end = min(max(map(len, counted)) + settings.tokens_to_generate, model.max_sequence_length)
        # The same prompt again is to get another text, and any prompt the same one wherever it stands.
        again = seen[prompt]
        seen[prompt] += 1
        requests.append(
            Request(
                prompt,
                end - len(prompt),
                min(settings.min_tokens_to_generate, end - len(prompt)),
                sampling_of(settings, (seed + again * SEED_STEP) % 2**63),
                end_ids=frozenset({model.eos_id}),
                stop=stop,
            )
        )
    return requests


def sampling_of(settings: InferenceConfig, seed: int) -> Sampling:
    """How the settings choose tokens."""
    return Sampling(
        greedy=settings.greedy,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        repetition_penalty=settings.repetition_penalty,
        seed=seed,
    )


def stop_rule(model: TextGenerator, end_strings: Sequence[str]) -> Callable[[list[int]], bool] | None:
    """Whether the generated ids end in one of the texts; None: only the end token ends them."""
    texts = tuple(text for text in end_strings if text != END_OF_TEXT)
    return (lambda generated: model.decode(generated).endswith(texts)) if texts else None


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
