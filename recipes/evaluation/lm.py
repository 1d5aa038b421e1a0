"""lm-eval's view of a TextGenerator."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from recipes.console import Progress
from recipes.errors import UserError
from recipes.evaluation.batching import token_batches

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import CacheHook
    from torch import Tensor

    from recipes.inference.text_generator import StopRule, TextGenerator

logger = logging.getLogger(__name__)

BYTES_PER_LOGIT = 4  # They are read as fp32.
DEFAULT_MAX_GENERATED = 256  # lm-eval's, for tasks that name no limit
CACHE_OWNER_KEY = "recipes.evaluation.model"

Scored = tuple[float, bool]
"""(log-probability of a continuation, whether greedy decoding would have written it)"""
TokenRequest = tuple[tuple[str, str] | None, list[int], list[int]]
"""((context, continuation) or None, context ids, continuation ids)"""


class ParamLM(TemplateLM):
    """Runs lm-eval's requests on a TextGenerator, as lm-eval's HFLM runs them on a transformers model.

    Sequences are right padded, which a causal model cannot see, so no attention mask is needed. Contexts
    begin with the token that training documents began with, if there was one; HFLM leaves that to the
    tokenizer.
    """

    def __init__(
        self, model: TextGenerator, max_batch_tokens: int = 16384, max_logits_bytes: int = 2**29
    ) -> None:
        super().__init__()
        self.model = model
        self.max_batch_tokens, self.max_logits_bytes = max_batch_tokens, max_logits_bytes
        self.max_length = model.max_sequence_length
        self.max_gen_toks = min(DEFAULT_MAX_GENERATED, self.max_length // 2)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def eot_token_id(self) -> int:
        return self.model.eos_id

    @property
    def prefix_token_id(self) -> int:
        if self.model.document_start_id is not None:
            return self.model.document_start_id
        return self.model.eos_id if self.model.bos_id is None else self.model.bos_id

    @property
    def tokenizer_name(self) -> str:
        return self.model.name

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self.model.encode(string)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        context_ids, continuation_ids = super()._encode_pair(context, continuation)
        return self._start() + context_ids, continuation_ids

    def _start(self) -> list[int]:
        start = self.model.document_start_id
        return [] if start is None else [start]

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Claim lm-eval's response cache (`use_cache`) for this model.

        lm-eval looks responses up by their request text alone, so a file that another model filled would
        silently give that model's answers.
        """
        if cache_hook.dbdict is not None:
            owner = fingerprint(self.model)
            if cache_hook.dbdict.setdefault(CACHE_OWNER_KEY, owner) != owner:
                raise UserError(
                    f"the response cache {cache_hook.dbdict.filename} belongs to another model than "
                    f"{self.model.name}: give each model a cache file of its own, or delete it"
                )
        super().set_cache_hook(cache_hook)

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: Sequence[TokenRequest], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[Scored]:
        # Requests that need the same forward pass share it, such as one-letter answers to one question.
        sharing: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, (text, context, continuation) in enumerate(requests):
            self._check_continuation(text, continuation)
            sharing[tuple((context + continuation)[-(self.max_length + 1) : -1])].append(i)
        inputs = sorted(sharing, key=lambda row: (-len(row), row))

        def scored(row: tuple[int, ...]) -> int:
            """The positions before which a continuation of the row begins or goes on: the last ones."""
            return max(len(requests[i][2]) for i in sharing[row])

        most = self.max_logits_bytes // (BYTES_PER_LOGIT * self.model.vocab_size)
        answers: dict[int, Scored] = {}
        with _progress("scoring", len(requests), disable_tqdm) as bar:
            for rows in token_batches(inputs, len, self.max_batch_tokens, scored, most):
                logits = self._logits_at_the_ends(rows, [scored(row) for row in rows])
                order, scores = [], []
                for row, row_logits in zip(rows, logits, strict=True):
                    continuations = [requests[i][2] for i in sharing[row]]
                    order += sharing[row]
                    scores += self._score_continuations(row_logits, continuations)
                # Read back once per batch: reading each score would wait for the GPU each time.
                for i, (log_probability, greedy) in zip(order, torch.stack(scores).tolist(), strict=True):
                    answers[i] = (log_probability, bool(greedy))
                    if requests[i][0] is not None:
                        self.cache_hook.add_partial("loglikelihood", requests[i][0], answers[i])
                bar.add(len(order))
        return [answers[i] for i in range(len(requests))]

    def _logits_at_the_ends(self, rows: Sequence[Sequence[int]], counts: list[int]) -> Sequence[Tensor]:
        """Logits ``[count, v]`` after each of a row's last ``count`` tokens, per row."""
        tokens = right_padded(rows, self.eot_token_id, self.device)
        places = [
            (row, place)
            for row, (ids, count) in enumerate(zip(rows, counts, strict=True))
            for place in range(len(ids) - count, len(ids))
        ]
        which, where = torch.tensor(places, device=self.device).unbind(1)
        return self.model.logits_at(tokens, which, where).split(counts)

    def _check_continuation(self, text: tuple[str, str] | None, continuation: list[int]) -> None:
        if not 0 < len(continuation) <= self.max_length:
            raise UserError(
                f"a continuation of {len(continuation)} tokens cannot be scored by {self.model.name}, whose "
                f"sequences hold 1 to {self.max_length} tokens: {text!r:.200}"
            )

    def _score_continuations(self, logits: Tensor, continuations: list[list[int]]) -> list[Tensor]:
        """Score continuations that end one position after a row of logits `[s, v]`; each score is `[2]`."""
        longest = max(map(len, continuations))
        log_probabilities = logits[-longest:, : self.model.vocab_size].float().log_softmax(-1)  # [longest, v]
        best = log_probabilities.argmax(-1)  # [longest]
        scores = []
        for continuation in continuations:
            ids = torch.tensor(continuation, device=logits.device)
            chosen = log_probabilities[-len(ids) :].gather(-1, ids[:, None]).sum()
            greedy = (best[-len(ids) :] == ids).all()
            scores.append(torch.stack([chosen, greedy.to(chosen.dtype)]))
        return scores

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        windows: list[TokenRequest] = []
        ends = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1):
                windows.append((None, *make_disjoint_window(window)))
            ends.append(len(windows))
        scores = [score for score, _ in self._loglikelihood_tokens(windows, disable_tqdm)]

        totals = [sum(scores[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    @torch.no_grad()
    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        same_settings: dict[str, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            same_settings[repr(request.args[1])].append(i)

        texts: dict[int, str] = {}
        with _progress("generating", len(requests), disable_tqdm) as bar:
            for indices in same_settings.values():
                until, max_new = self._generation_settings(requests[indices[0]].args[1])
                prompts = [self._prompt(requests[i].args[0], max_new) for i in indices]
                order = sorted(range(len(prompts)), key=[(-len(ids), ids) for ids in prompts].__getitem__)
                lengths = [len(ids) + max_new for ids in prompts]
                for batch in token_batches(order, lengths.__getitem__, self.max_batch_tokens):
                    generated = self.model.greedy(
                        [prompts[k] for k in batch], max_new, self._stop_rule(until)
                    )
                    for i, ids in zip([indices[k] for k in batch], generated, strict=True):
                        texts[i] = self._generated_text(ids, until)
                        self.cache_hook.add_partial("generate_until", requests[i].args, texts[i])
                    bar.add(len(batch))
        return [texts[i] for i in range(len(requests))]

    def _generation_settings(self, settings: dict[str, Any]) -> tuple[list[str], int]:
        """The stop strings and the limit of new tokens that a task asks for."""
        asked: dict[str, Any] = dict(normalize_gen_kwargs(settings, self.max_gen_toks))
        until = handle_stop_sequences(asked.pop("until", None), eos=self.model.eos_text)
        max_new = asked.pop("max_gen_toks")
        if asked.pop("do_sample") or asked.pop("temperature", 0.0):
            raise UserError(f"a task asks for sampling ({settings}), but text is generated greedily here")
        if max_new >= self.max_length:
            raise UserError(
                f"a task generates up to {max_new} tokens, which leaves no room for its prompt in the "
                f"{self.max_length} tokens of {self.model.name}"
            )
        if asked:
            logger.warning("generation settings without effect in greedy decoding: %s", asked)
        return [text for text in until if text], max_new

    def _prompt(self, context: str, max_new: int) -> list[int]:
        ids = (self._start() + self.tok_encode(context))[-(self.max_length - max_new) :]
        return ids or [self.prefix_token_id]

    def _stop_rule(self, until: list[str]) -> StopRule:
        # A token of text is at least one byte, so this many last tokens hold any stop string they complete.
        # A token without text could push one out of the window: that row runs longer, and its text is still
        # cut.
        window = max((len(text.encode()) for text in until), default=0) + 4

        def stop(row: int, generated: list[int]) -> bool:
            if generated[-1] == self.eot_token_id:
                return True
            tail = self.model.decode(generated[-window:])
            return any(text in tail for text in until)

        return stop

    def _generated_text(self, ids: list[int], until: list[str]) -> str:
        if self.eot_token_id in ids:
            ids = ids[: ids.index(self.eot_token_id)]
        return postprocess_generated_text(self.model.decode(ids), until, think_end_token=None)


def right_padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> Tensor:
    """Rows of ids as one tensor `[b, s]`, s being the longest row."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device)


@torch.no_grad()
def fingerprint(model: TextGenerator) -> str:
    """A name for exactly these weights and this tokenizer: what the model makes of one line of text."""
    text = "The quick brown fox jumps over the lazy dog. ऋषियों को सताने वाले दुष्ट राक्षसों का राजा।"
    ids = model.encode(text)[: model.max_sequence_length]
    logits = model.logits(torch.tensor([ids], device=model.device))  # [1, s, v]
    seen = hashlib.sha256(repr((model.name, model.vocab_size, model.max_sequence_length, ids)).encode())
    seen.update(logits.float().cpu().numpy().tobytes())
    return seen.hexdigest()


def _progress(what: str, total: int, disabled: bool) -> Progress:
    enabled = not disabled and os.environ.get("RANK", "0") == "0"
    return Progress(total, "request", label=what, enabled=enabled)
