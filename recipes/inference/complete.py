"""Completing and scoring prompts, as NeMo's megatron_gpt_eval does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recipes.config.schema import InferenceConfig
from recipes.config.world import launched_world
from recipes.counts import counted
from recipes.data.chat.conversations import USER
from recipes.data.tokenizer import TextTokenizer
from recipes.errors import UserError
from recipes.inference.chat_template import ChatTemplate
from recipes.inference.check_request import check_prompt
from recipes.inference.engine import Engine, in_order
from recipes.inference.growing_text import GrowingText
from recipes.inference.requests import Event, Request, Sampling
from recipes.inference.surprises import say_cut
from recipes.inference.text_generator import TextGenerator
from recipes.inference.token_bias import token_biases
from recipes.inference.token_text import offsets

SEED_STEP = 0x9E3779B97F4A7C15  # Seeds of neighbours are far apart.


@dataclass(frozen=True)
class Completion:
    """What NeMo's generate() returns, for one prompt."""

    prompt: str
    completion: str
    token_ids: list[int]
    """Prompt and completion, the leading BOS included."""
    tokens: list[str]
    """As the tokenizer spells them."""
    offsets: list[int]
    """The character at which each token begins in the text of all; of a character's byte tokens the same."""
    logprob: list[float] | None = None
    """Natural log-probability of each token after the first, by the model alone: without temperature, penalty
    or bias."""
    full_logprob: list[list[float]] | None = None
    """Those of the whole vocabulary at the same places."""


@dataclass(frozen=True)
class Score:
    """What a completion says of its tokens, for a prompt alone."""

    prompt: str
    token_ids: list[int]
    """The leading BOS included."""
    tokens: list[str]
    offsets: list[int]
    logprob: list[float]
    full_logprob: list[list[float]] | None = None


def prompt_ids(model: TextGenerator, prompt: str, settings: InferenceConfig) -> list[int]:
    """The prompt's tokens, preceded by the token that documents start with if that is wanted."""
    start = model.document_start_id
    if settings.add_BOS is not None:
        start = model.bos_id if settings.add_BOS else None
        if settings.add_BOS and start is None:
            raise UserError("inference.add_BOS=true: the tokenizer has no BOS; set it to false")
    ids = model.encode(prompt)
    return [start, *ids] if start is not None else ids


def rows_of(
    model: TextGenerator, prompts: list[str], settings: InferenceConfig, chat: ChatTemplate | None = None
) -> list[list[int]]:
    """Each prompt's tokens; with ``chat``, those that ask for an answer to it."""
    if chat is None:
        return [prompt_ids(model, prompt, settings) for prompt in prompts]
    return [chat.ids([{"role": USER, "content": prompt}]) for prompt in prompts]


def complete(
    model: TextGenerator,
    prompts: list[str],
    settings: InferenceConfig,
    *,
    batch_size: int,
    seed: int,
    first: int = 0,
    chat: ChatTemplate | None = None,
) -> Iterator[Completion]:
    """A completion per prompt, in order, from prompt number ``first`` on, each as soon as it is there.

    ``batch_size`` are completed together. A finished one's place goes to the next prompt. With ``chat``,
    prompts are a user's messages and completions their answers.

    Raises:
        UserError: a prompt is empty or too long, or a biased token does not exist.
    """
    rows = rows_of(model, prompts, settings, chat)
    requests = requests_for(model, rows, settings, batch_size=batch_size, seed=seed, chat=chat)[first:]
    if launched_world().rank == 0:
        say_cut(settings, requests, model.max_sequence_length)
    return _completed(model, prompts[first:], rows[first:], requests, settings, batch_size)


def _completed(
    model: TextGenerator,
    prompts: list[str],
    rows: list[list[int]],
    requests: list[Request],
    settings: InferenceConfig,
    batch_size: int,
) -> Iterator[Completion]:
    longest = max((len(request.prompt) + request.max_new_tokens for request in requests), default=1)
    engine = Engine(model, slots=min(batch_size, max(1, len(requests))), max_length=longest)
    for prompt, row, result in zip(prompts, rows, in_order(engine, requests), strict=True):
        new = list(result.token_ids)
        text = GrowingText(model, row, settings).finish(new)
        logprob, full = _all_probs(model, row, result) if settings.all_probs else (None, None)
        ids = row + new
        spelled = _spelled(model.tokenizer, ids)
        yield Completion(prompt, text, ids, spelled, offsets(model.tokenizer, ids), logprob, full)


def stream(
    model: TextGenerator,
    row: list[int],
    settings: InferenceConfig,
    *,
    seed: int,
    chat: ChatTemplate | None = None,
) -> Iterator[str]:
    """The parts of one completion's text, each as soon as it is final. Closing it early is allowed.

    Args:
        row: the prompt's ids.

    Raises:
        UserError: as complete().
    """
    (request,) = requests_for(model, [row], settings, batch_size=1, seed=seed, chat=chat)
    if launched_world().rank == 0:
        say_cut(settings, [request], model.max_sequence_length)
    return _streamed(model, row, request, GrowingText(model, row, settings))


def _streamed(model: TextGenerator, row: list[int], request: Request, text: GrowingText) -> Iterator[str]:
    engine = Engine(model, slots=1, max_length=len(row) + request.max_new_tokens)
    engine.submit(replace(request, stop=text.ends))
    ids: list[int] = []
    while not engine.idle:
        for event in engine.step():
            ids += event.token_ids
        yield text.take()
    yield text.finish(ids)


def requests_for(
    model: TextGenerator,
    rows: Sequence[list[int]],
    settings: InferenceConfig,
    *,
    batch_size: int,
    seed: int,
    chat: ChatTemplate | None = None,
) -> list[Request]:
    """What the engine is asked for each prompt's ids.

    Raises:
        UserError: a prompt is empty or too long, or a biased token does not exist.
    """
    sampling = sampling_of(model, settings)
    seen: Counter[tuple[int, ...]] = Counter()
    requests = []
    for number, row in enumerate(rows):
        prompt = tuple(row)
        check_prompt(prompt, model.max_sequence_length, _name(number, rows))
        first = number - number % batch_size
        together = rows[first : first + batch_size] if settings.count_from == "longest" else [row]
        end = min(max(map(len, together)) + settings.tokens_to_generate, model.max_sequence_length)
        # The same prompt again is to get another text, and any prompt the same one wherever it stands.
        again = seen[prompt]
        seen[prompt] += 1
        text = GrowingText(model, row, settings)
        requests.append(
            Request(
                prompt,
                end - len(prompt),
                min(settings.min_tokens_to_generate, end - len(prompt)),
                replace(sampling, seed=(seed + again * SEED_STEP) % 2**63),
                end_ids=frozenset({model.eos_id}) if chat is None else chat.ends,
                stop=text.ends if text.end_strings else None,
                logprobs=settings.all_probs,
                full_logprob=settings.all_probs,
            )
        )
    return requests


def sampling_of(model: TextGenerator, settings: InferenceConfig) -> Sampling:
    """How the settings choose tokens.

    Raises:
        UserError: a biased token does not exist.
    """
    return Sampling(
        greedy=settings.greedy,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
        repetition_penalty=settings.repetition_penalty,
        repetition_penalty_style=settings.repetition_penalty_style,
        logit_bias=token_biases(settings.logit_bias, model.tokenizer),
    )


def _all_probs(
    model: TextGenerator, prompt: list[int], result: Event
) -> tuple[list[float], list[list[float]]]:
    """Log-probabilities of the tokens after the first, and of the whole vocabulary there."""
    assert result.logprobs is not None and result.full is not None
    before = _prompt_logprobs(model, prompt)
    chosen = before.gather(1, torch.tensor(prompt[1:], dtype=torch.long)[:, None]).squeeze(1)
    every = [*before.tolist(), *(logprobs.tolist() for logprobs in result.full)]
    return [*chosen.tolist(), *result.logprobs], every


def _prompt_logprobs(model: TextGenerator, ids: list[int]) -> Tensor:
    """``[s - 1, V]`` on the CPU: of what follows each token but the last."""
    if len(ids) == 1:
        return torch.empty(0, model.vocab_size)
    tokens = torch.tensor([ids[:-1]], device=model.device)
    return model.logits(tokens)[0].float().log_softmax(-1).cpu()


def score(model: TextGenerator, prompts: list[str], settings: InferenceConfig) -> Iterator[Score]:
    """The log-probabilities of each prompt's own tokens, each as soon as they are there.

    Raises:
        UserError: a prompt has nothing to score or is too long; nothing has been computed by then.
    """
    rows = [prompt_ids(model, prompt, settings) for prompt in prompts]
    for number, ids in enumerate(rows):
        name = _name(number, rows)
        if len(ids) < 2:
            raise UserError(f"{name} of {counted(len(ids), 'token')} has nothing to score; give it more text")
        if len(ids) > model.max_sequence_length:
            raise UserError(f"{name} has {len(ids):,} tokens; the model reads {model.max_sequence_length:,}")
    return _scored(model, prompts, rows, settings)


def _name(number: int, rows: Sequence[list[int]]) -> str:
    """What a refusal calls a prompt."""
    return f"prompt {number + 1:,}" if len(rows) > 1 else "a prompt"


def _scored(
    model: TextGenerator, prompts: list[str], rows: list[list[int]], settings: InferenceConfig
) -> Iterator[Score]:
    for prompt, ids in zip(prompts, rows, strict=True):
        every = _prompt_logprobs(model, ids)
        chosen = every.gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1)
        full = every.tolist() if settings.all_probs else None
        tokenizer = model.tokenizer
        yield Score(prompt, ids, _spelled(tokenizer, ids), offsets(tokenizer, ids), chosen.tolist(), full)


def _spelled(tokenizer: TextTokenizer, ids: Sequence[int]) -> list[str]:
    return [tokenizer.id_to_piece(token) for token in ids]
