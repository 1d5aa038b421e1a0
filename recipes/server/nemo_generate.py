"""``PUT /generate`` as NeMo's megatron_gpt_eval serves it: its options, its meanings, its answer."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Any

from pydantic import Field, field_validator

from recipes.config.schema import InferenceConfig
from recipes.inference.complete import prompt_ids, requests_for
from recipes.inference.growing_text import END_OF_TEXT
from recipes.inference.requests import Request
from recipes.server.asked import LARGEST_SEED, Asked, Served
from recipes.server.bodies import Body
from recipes.server.choice import Part
from recipes.server.completions import LONGEST_STOP, LOWEST_TEMPERATURE, MOST_STOPS
from recipes.server.errors import Refusal


class NemoBody(Body):
    """The body of ``PUT /generate``, with NeMo's defaults."""

    sentences: Annotated[list[str], Field(min_length=1)]
    tokens_to_generate: Annotated[int, Field(ge=0)] = 64
    min_tokens_to_generate: Annotated[int, Field(ge=0)] = 0
    add_BOS: bool = False
    greedy: bool = False
    temperature: Annotated[float, Field(ge=LOWEST_TEMPERATURE, le=100)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(ge=0, le=1)] = 0.9
    repetition_penalty: Annotated[float, Field(ge=1, le=1000)] = 1.2
    end_strings: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]], Field(max_length=MOST_STOPS)
    ] = Field(default_factory=lambda: [END_OF_TEXT])
    compute_logprob: bool = False
    all_probs: bool = False
    random_seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] | None = None

    @field_validator("all_probs")
    @classmethod
    def _all_probs(cls, value: bool) -> bool:
        if value:
            raise ValueError("answers of the whole vocabulary's size are not served: use recipes.generate's")
        return value

    def asked(self, served: Served) -> list[Asked]:
        """The completions that it asks for.

        Raises:
            Refusal: something does not fit this model or this server.
        """
        served.check_count(len(self.sentences))
        settings = self._settings()
        rows = [prompt_ids(served.model, sentence, settings) for sentence in self.sentences]
        for row in rows:
            served.check_length(row, 0 if self.compute_logprob else 1, "tokens_to_generate")
        if self.compute_logprob:
            if min(map(len, rows)) < 2:
                raise Refusal("a sentence of one token has nothing to score; give it more text")
            scored = [Request(tuple(row), 0, logprobs=True, prompt_logprobs=True) for row in rows]
            return [Asked(one, text, echo=True) for one, text in zip(scored, self.sentences, strict=True)]
        if self.tokens_to_generate == 0:
            raise Refusal(
                "tokens_to_generate: 0 goes with compute_logprob, which scores sentences; ask for at least 1",
                param="tokens_to_generate",
            )
        served.check_length(max(rows, key=len), self.tokens_to_generate, "tokens_to_generate")
        if self.min_tokens_to_generate > self.tokens_to_generate:
            raise Refusal(
                "min_tokens_to_generate: must not be above tokens_to_generate", param="min_tokens_to_generate"
            )
        seed = secrets.randbelow(LARGEST_SEED) if self.random_seed is None else self.random_seed
        requests = requests_for(served.model, rows, settings, batch_size=len(rows), seed=seed)
        return [Asked(one, text) for one, text in zip(requests, self.sentences, strict=True)]

    def _settings(self) -> InferenceConfig:
        return InferenceConfig(**self.model_dump(exclude={"sentences", "random_seed", "all_probs"}))


def nemo_answer(
    served: Served, body: NemoBody, asked: Sequence[Asked], parts: Sequence[Part]
) -> dict[str, Any]:
    """NeMo's answer: sentences and their tokens, BOS included; of scored ones also ``logprob``, a number for
    each token after the first."""
    tokenizer = served.model.tokenizer
    logprobs: list[list[float | None]] | None = None
    if body.compute_logprob:
        token_ids = [list(one.request.prompt) for one in asked]
        logprobs = [[token.logprob for token in part.tokens[1:]] for part in parts]
    else:
        token_ids = [[*one.request.prompt, *part.ids] for one, part in zip(asked, parts, strict=True)]
    tokens = [[tokenizer.id_to_piece(token) for token in ids] for ids in token_ids]
    return {
        "sentences": [tokenizer.decode(ids) for ids in token_ids],
        "tokens": tokens,
        "logprob": logprobs,
        "token_ids": token_ids,
        "offsets": [list(accumulate(map(len, pieces[:-1]), initial=0)) for pieces in tokens],
    }
