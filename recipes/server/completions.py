"""OpenAI's ``/v1/completions``: what may be asked, and the shape of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from recipes.config.schema import InferenceConfig
from recipes.inference.complete import prompt_ids
from recipes.inference.requests import Request, Sampling
from recipes.server.asked import Asked, Served, StopRule, seed_of
from recipes.server.bodies import Body
from recipes.server.choice import Part, token_text, top_texts
from recipes.server.errors import Refusal

MOST_STOPS, LONGEST_STOP = 16, 1000
MOST_BIASES = 1024
LOWEST_TEMPERATURE = 0.001

Zero = Annotated[float, Field(ge=0, le=0)]


class StreamOptions(Body):
    """Of a streamed answer."""

    include_usage: bool = False


class SamplingBody(Body):
    """How tokens are chosen, as completions and chats ask for it."""

    model: str | None = None
    """None: there is only one."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(ge=0, le=1000)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] = 0
    """0, and as other servers have it -1: no limit."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(ge=1, le=1000)] = 1.0
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Any = ()
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Many clients send these, with values that ask for nothing.
    user: str | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None

    @field_validator("temperature")
    @classmethod
    def _temperature(cls, value: float | None) -> float | None:
        if value is not None and 0 < value < LOWEST_TEMPERATURE:
            raise ValueError(f"must be 0 (the likeliest token) or at least {LOWEST_TEMPERATURE}")
        return value

    @field_validator("presence_penalty", "frequency_penalty", mode="before")
    @classmethod
    def _no_penalty(cls, value: Any) -> Any:
        if value not in (None, 0):
            raise ValueError("is not supported here, use repetition_penalty (1: none)")
        return value

    @field_validator("stop")
    @classmethod
    def _stop(cls, value: Any) -> Any:
        texts = [value] if isinstance(value, str) else value
        if texts is None:
            return ()
        if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
            raise ValueError("must be a text or a list of texts, none of them empty")
        if len(texts) > MOST_STOPS or max(map(len, texts), default=0) > LONGEST_STOP:
            raise ValueError(f"at most {MOST_STOPS} texts of {LONGEST_STOP:,} characters")
        return tuple(texts)

    @field_validator("stream_options")
    @classmethod
    def _stream_options(cls, value: StreamOptions | None, info: Any) -> StreamOptions | None:
        if value is not None and not info.data.get("stream"):
            raise ValueError("goes with stream=true")
        return value

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def requests(
        self,
        served: Served,
        prompts: Sequence[tuple[str, Sequence[int]]],
        max_tokens: int | None,
        *,
        echo: bool = False,
        logprobs: int | None = None,
        end_token: bool = False,
        ends: frozenset[int] | None = None,
    ) -> list[Asked]:
        """The completions of prompts, n of each after another.

        Args:
            served: the model.
            prompts: each with the text that it was made of.
            max_tokens: None: as many as fit.
            echo: answers repeat the prompt.
            logprobs: of how many of the likeliest tokens; 0: of the chosen ones alone.
            end_token: answers' tokens include the one that ends them.
            ends: tokens that end a completion; None: the end of a document.

        Raises:
            Refusal: something does not fit this model or this server.
        """
        n = self.n or 1
        served.check_count(len(prompts) * n)
        bias = self._bias(served)
        top = logprobs or 0
        # To a power of two: on a GPU a graph is captured for each number that is asked for.
        computed = min(1 << (top - 1).bit_length(), served.model.vocab_size) if top else 0
        asked = []
        for text, ids in prompts:
            new_tokens = max_tokens
            if new_tokens is None:
                room = served.max_length - len(ids)
                new_tokens = max(1, min(room, served.limits.max_completion_tokens or room))
            served.check_length(ids, new_tokens, "max_tokens")
            if self.min_tokens > new_tokens:
                raise Refusal(f"min_tokens: must not be above max_tokens, {new_tokens:,}", param="min_tokens")
            for number in range(n):
                request = Request(
                    tuple(ids),
                    new_tokens,
                    self.min_tokens,
                    self._sampling(bias, number),
                    ends if ends is not None else frozenset({served.model.eos_id}),
                    StopRule(served.model, ids, self.stop) if self.stop else None,
                    logprobs=logprobs is not None,
                    top_logprobs=computed,
                    prompt_logprobs=echo and logprobs is not None,
                )
                asked.append(Asked(request, text, top, self.stop, echo, end_token))
        return asked

    def _sampling(self, bias: dict[int, float], number: int) -> Sampling:
        return Sampling(
            greedy=self.temperature == 0,
            temperature=self.temperature or 1.0,
            top_k=max(self.top_k, 0),
            top_p=self.top_p or 0.0,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            repetition_penalty_style="ctrl",
            logit_bias=bias,
            seed=seed_of(self.seed, number),
        )

    def _bias(self, served: Served) -> dict[int, float]:
        given = self.logit_bias or {}
        if len(given) > MOST_BIASES:
            raise Refusal(f"logit_bias: at most {MOST_BIASES:,} tokens", param="logit_bias")
        if not all(token.isascii() and token.isdigit() and len(token) < 10 for token in given):
            raise Refusal("logit_bias: its keys must be token ids", param="logit_bias")
        bias = {int(token): value for token, value in given.items()}
        served.check_ids([*bias], "logit_bias")
        return bias


class CompletionBody(SamplingBody):
    """The body of ``POST /v1/completions``."""

    prompt: Any
    max_tokens: Annotated[int, Field(ge=0)] | None = 16
    """0: with echo and logprobs, a prompt is scored."""
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    add_BOS: bool | None = None
    best_of: int | None = None
    suffix: Literal[""] | None = None

    @field_validator("best_of")
    @classmethod
    def _best_of(cls, value: int | None, info: Any) -> int | None:
        if value is not None and value != (info.data.get("n") or 1):
            raise ValueError("is not supported here: leave it out, or set it to n")
        return value

    @field_validator("suffix", mode="before")
    @classmethod
    def _suffix(cls, value: Any) -> Any:
        if value not in (None, ""):
            raise ValueError("is not supported here: leave it out")
        return value

    def asked(self, served: Served) -> list[Asked]:
        """The completions that it asks for.

        Raises:
            Refusal: something does not fit this model or this server.
        """
        served.check_name(self.model)
        # Programs that score texts drop the entry of the one token that they let be generated.
        return self.requests(
            served,
            self._prompts(served),
            self.max_tokens,
            echo=bool(self.echo),
            logprobs=self.logprobs,
            end_token=True,
        )

    def _prompts(self, served: Served) -> list[tuple[str, list[int]]]:
        given = self.prompt if isinstance(self.prompt, list) else [self.prompt]
        if given and all(_is_id(entry) for entry in given):
            given = [given]  # One prompt as token ids.
        served.check_count(len(given))
        prompts = []
        for entry in given:
            if isinstance(entry, str):
                settings = InferenceConfig(add_BOS=self.add_BOS)
                prompts.append((entry, prompt_ids(served.model, entry, settings)))
            elif isinstance(entry, list) and all(_is_id(token) for token in entry):
                served.check_ids(entry, "prompt")
                prompts.append((served.model.decode(entry) if self.echo else "", entry))
            else:
                break
        if not given or len(prompts) < len(given):
            raise Refusal("prompt: must be a text, token ids, or a list of either", param="prompt")
        return prompts


def _is_id(entry: object) -> bool:
    return isinstance(entry, int) and not isinstance(entry, bool)


@dataclass(frozen=True)
class CompletionForm:
    """How completions are answered."""

    served: Served
    with_logprobs: bool
    id_prefix = "cmpl"
    kind = chunk_kind = "text_completion"

    def choice(self, part: Part, index: int) -> dict[str, Any]:
        """A whole completion."""
        return {
            "text": part.text,
            "index": index,
            "logprobs": self._logprobs(part) if self.with_logprobs else None,
            "finish_reason": part.finish_reason,
        }

    def chunk(self, part: Part, index: int, *, first: bool) -> dict[str, Any]:
        """A part of one looks the same."""
        return self.choice(part, index)

    def _logprobs(self, part: Part) -> dict[str, Any]:
        tokenizer = self.served.model.tokenizer
        tops = [
            top_texts(tokenizer, {**dict(token.top), token.id: token.logprob}.items()) if token.top else None
            for token in part.tokens
        ]
        return {
            "tokens": [token_text(tokenizer, token.id) for token in part.tokens],
            "token_logprobs": [token.logprob for token in part.tokens],
            "top_logprobs": tops if any(top is not None for top in tops) else None,
            "text_offset": [token.offset for token in part.tokens],
        }
