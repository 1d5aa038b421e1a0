"""lm-eval's view of a TextGenerator."""

from __future__ import annotations

import copy
import logging
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from recipes.errors import UserError
from recipes.evaluation.batching import token_batches
from recipes.evaluation.response_cache import claim_cache
from recipes.evaluation.scoring import (
    Context,
    Ids,
    Row,
    by_context,
    context_batches,
    shared_beginnings,
    size_of_contexts,
    size_of_rows,
)
from recipes.evaluation.texts import Reading, Window, windows_of_all, windows_of_each
from recipes.evaluation.work import Unit, Work
from recipes.evaluation.writing import Prompt, Writer

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import CacheHook
    from torch import Tensor

    from recipes.inference.text_generator import TextGenerator

logger = logging.getLogger(__name__)

T = TypeVar("T")

BYTES_PER_LOGIT = 4  # They are read as fp32.
PIECE_BYTES = 2**26
"""Of probabilities that are held at once."""
MAX_GENERATED = 256  # lm-eval's, for tasks that name no limit

Scored = tuple[float, bool]
"""(log-probability of a continuation, whether greedy decoding would have written it)"""
TokenRequest = tuple[tuple[str, str] | None, list[int], list[int]]
"""((context, continuation) or None, context ids, continuation ids)"""


class ParamLM(TemplateLM):
    """Runs lm-eval's requests on a TextGenerator, as lm-eval's HFLM runs them on a transformers model.

    Sequences are right padded, which a causal model cannot see, so no attention mask is needed. Contexts
    begin with the token that training documents began with, if there was one; HFLM leaves that to the
    tokenizer.

    Args:
        readings: how the texts of tasks that `recipes.evaluation.texts` makes are read.
    """

    def __init__(
        self,
        model: TextGenerator,
        max_batch_tokens: int = 16384,
        max_logits_bytes: int = 2**29,
        work: Work | None = None,
        readings: Mapping[str, Reading] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.model, self.work, self.readings = model, work or Work(), readings
        self.max_batch_tokens, self.max_logits_bytes = max_batch_tokens, max_logits_bytes
        self.max_length = model.max_sequence_length
        self.truncated = Counter[str]()
        """Requests of each task whose beginning did not fit into the model's sequences."""
        self._cut_texts = set[tuple[str, str]]()
        self.max_gen_toks = min(MAX_GENERATED, self.max_length // 2)

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
        """Claims lm-eval's response cache (`use_cache`) for this model."""
        claim_cache(cache_hook, self.model)
        super().set_cache_hook(cache_hook)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Scored]:
        answers: list[Scored] = super().loglikelihood(requests, disable_tqdm)
        for request in requests:
            self.truncated[request.task_name] += request.args in self._cut_texts
        return answers

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: Sequence[TokenRequest], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[Scored]:
        for text, context, continuation in requests:
            self._check_continuation(text, continuation)
            if text is not None and len(context) + len(continuation) > self.max_length + 1:
                self._cut_texts.add(text)
        units = list(self._units(by_context([request[1:] for request in requests], self.max_length)))
        answers: dict[int, Scored] = {}
        for scored in self.work.answers(units, "scoring", quiet=disable_tqdm):
            answers |= scored
            for i, answer in scored.items():
                if (text := requests[i][0]) is not None:
                    self.cache_hook.add_partial("loglikelihood", text, answer)
        return [answers[i] for i in range(len(requests))]

    def _units(self, contexts: list[Context]) -> Iterator[Unit[Any]]:
        if not self.model.reads_contexts_once:
            yield from self._rows_to_read(contexts)
            return
        beginnings, others = shared_beginnings(contexts, least=self._enough())
        for beginning in beginnings:
            yield from self._rows_to_read(beginning.contexts, beginning.length)
        once: list[Context] = []
        whole: list[Context] = []
        for context in others:
            (once if context.is_worth_reading_once() else whole).append(context)
        yield from self._rows_to_read(whole)
        yield from self._contexts_to_read(once)

    def _rows_to_read(self, contexts: list[Context], begun: int = 0) -> Iterator[Unit[Row]]:
        """Context and continuation in one pass, but for the tokens with which all contexts begin; requests
        that need the same one share it.
        """
        sharing: dict[Ids, list[tuple[Ids, list[int]]]] = defaultdict(list)
        for context in contexts:
            for continuation, indices in context.requests.items():
                sharing[context.ids + continuation[:-1]].append((continuation, indices))
        read = self._read_rows
        rows = [Row(ids, sharing[ids], begun) for ids in sorted(sharing, key=lambda ids: (-len(ids), ids))]
        for batch in token_batches(
            rows, Row.length, self._max_read(), Row.scored, self._max_scored(), self._enough(), begun
        ):
            cost = len(batch) * batch[0].length()
            yield Unit("rows", batch, cost, read, size_of_rows, self._leaving_nothing(read))

    def _read_rows(self, rows: Sequence[Row]) -> dict[int, Scored]:
        places = [(i, place) for i, row in enumerate(rows) for place in _last(row.scored(), row.length())]
        which, where = torch.tensor(places, device=self.device).unbind(1)
        begun = rows[0].begun
        tokens = self._padded([row.ids[begun:] for row in rows])
        if begun:
            beginning = torch.tensor([rows[0].ids[:begun]], device=self.device)
            owners = torch.zeros_like(tokens[:, 0])
            logits = self.model.logits_after(beginning, owners, tokens, which, where)[1:]
        else:
            logits = self.model.logits_at(tokens, which, where)
        wanted, first = [], 0
        for row in rows:
            first += row.scored()  # Where the next row's positions begin.
            for continuation, indices in row.requests:
                wanted.append((range(first - len(continuation), first), continuation, indices))
        return self._scores(logits, wanted)

    def _contexts_to_read(self, contexts: list[Context]) -> Iterator[Unit[Context]]:
        """Each context in a first pass, what comes after it in a second."""
        read = self._read_contexts
        for batch in context_batches(contexts, self._max_read(), self._max_scored()):
            cost = sum(len(context.ids) + len(context.inputs) * context.longest for context in batch)
            yield Unit("contexts", batch, cost, read, size_of_contexts, self._leaving_nothing(read))

    def _read_contexts(self, batch: Sequence[Context]) -> dict[int, Scored]:
        inputs = [(number, row) for number, context in enumerate(batch) for row in sorted(context.inputs)]
        starts: dict[tuple[int, Ids], int] = {}
        places: list[tuple[int, int]] = []
        for i, (number, row) in enumerate(inputs):
            starts[number, row] = len(batch) + len(places)
            places += [(i, place) for place in range(len(row))]
        which, where = torch.tensor(places, device=self.device).unbind(1)
        logits = self.model.logits_after(
            self._padded([context.ids for context in batch]),
            torch.tensor([number for number, _ in inputs], device=self.device),
            self._padded([row for _, row in inputs]),
            which,
            where,
        )
        wanted = []
        for number, context in enumerate(batch):
            for continuation, indices in context.requests.items():
                start = starts[number, continuation[:-1]]
                positions = [number, *range(start, start + len(continuation) - 1)]
                wanted.append((positions, continuation, indices))
        return self._scores(logits, wanted)

    def _leaving_nothing(self, read: Callable[[Sequence[T]], object]) -> Callable[[Sequence[T]], None]:
        """The same for an attempt: what it reads without the other ranks is not gone on from."""

        def attempt(items: Sequence[T]) -> None:
            try:
                read(items)
            finally:
                self.model.forget()

        return attempt

    def _max_scored(self) -> int:
        """Positions of one pass at which the output head is computed."""
        return max(1, self.max_logits_bytes // (BYTES_PER_LOGIT * self.model.vocab_size))

    def _max_read(self) -> int:
        """Tokens of one pass: of more, a CPU's caches do not hold the activations."""
        return self.max_batch_tokens if self.device.type == "cuda" else min(self.max_batch_tokens, 2048)

    def _enough(self) -> int:
        """Tokens that keep the device busy: more in one pass is worth no padding."""
        return 4096 if self.device.type == "cuda" else 512

    def _padded(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return right_padded(rows, self.eot_token_id, self.device)

    def _scores(
        self, logits: Tensor, wanted: Sequence[tuple[Sequence[int], Ids, list[int]]]
    ) -> dict[int, Scored]:
        """Scores of continuations.

        Args:
            logits: ``[n, v]``.
            wanted: (the rows of ``logits`` before its tokens, a continuation, the requests that ask for it).
        """
        flat = sorted(
            (row, i, token)
            for i, (rows, continuation, _) in enumerate(wanted)
            for row, token in zip(rows, continuation, strict=True)
        )
        rows, owners, tokens = torch.tensor(flat, device=logits.device).unbind(1)
        sums = torch.zeros(2, len(wanted), dtype=torch.float64, device=logits.device)
        # Piece by piece, for the probabilities in fp32 take more memory than all else.
        size = max(1, PIECE_BYTES // (BYTES_PER_LOGIT * self.model.vocab_size))
        for first in range(0, len(logits), size):
            part = slice(*(bisect_left(flat, (place,)) for place in (first, first + size)))
            piece = logits[first : first + size, : self.model.vocab_size].float().log_softmax(-1)
            scores = piece[rows[part] - first, tokens[part]]
            misses = piece.argmax(-1)[rows[part] - first] != tokens[part]
            sums[0].index_add_(0, owners[part], scores.double())
            sums[1].index_add_(0, owners[part], misses.double())
        # Read back once per batch: reading each score would wait for the GPU each time.
        return {
            i: (log_probability, missed == 0)
            for (log_probability, missed), (_, _, indices) in zip(sums.T.tolist(), wanted, strict=True)
            for i in indices
        }

    def _check_continuation(self, text: tuple[str, str] | None, continuation: list[int]) -> None:
        if not 0 < len(continuation) <= self.max_length:
            raise UserError(
                f"a continuation of {len(continuation)} tokens cannot be scored by {self.model.name}, whose "
                f"sequences hold 1 to {self.max_length} tokens: {text!r:.200}"
            )

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        of_task: dict[str | None, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            of_task[request.task_name].append(i)
        windows = []
        for task, indices in of_task.items():
            texts = [self.tok_encode(requests[i].args[0]) for i in indices]
            for window in self._windows(texts, self.readings.get(task or "")):
                shares = {indices[text]: share for text, share in window.shares.items()}
                windows.append(Window(window.context, window.scored, shares))
        scores = self._loglikelihood_tokens(
            [(None, window.context, window.scored) for window in windows], disable_tqdm
        )
        totals = [0.0] * len(requests)
        for window, (score, _) in zip(windows, scores, strict=True):
            for i, share in window.shares.items():
                totals[i] += share * score
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _windows(self, texts: list[list[int]], reading: Reading | None) -> Iterator[Window]:
        if reading is None:  # As lm-eval's own models read the texts of its own tasks.
            for i, ids in enumerate(texts):
                for window in get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1):
                    context, scored = make_disjoint_window(window)
                    yield Window(context, scored, {i: 1.0})
        elif reading.packed:
            before = self._start() if self._start() != [self.eot_token_id] else []
            yield from windows_of_all([ids and [*before, *ids, self.eot_token_id] for ids in texts], reading)
        else:
            yield from windows_of_each(texts, self.prefix_token_id, reading)

    @torch.no_grad()
    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        same_settings: dict[str, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            same_settings[repr(request.args[1])].append(i)

        units = [
            unit
            for same in same_settings.values()
            for unit in self._texts_to_write([(i, requests[i]) for i in same])
        ]
        texts: dict[int, str] = {}
        for written in self.work.answers(units, "generating", quiet=disable_tqdm):
            texts |= written
            for i, text in written.items():
                self.cache_hook.add_partial("generate_until", requests[i].args, text)
        return [texts[i] for i in range(len(requests))]

    def _texts_to_write(self, requests: list[tuple[int, Instance]]) -> Iterator[Unit[Prompt]]:
        """For requests of equal settings."""
        until, max_new = self._generation_settings(requests[0][1].args[1])
        prompts = [(i, self._prompt(request, max_new)) for i, request in requests]
        prompts.sort(key=lambda prompt: (-len(prompt[1]), prompt[1]))
        longest = len(prompts[0][1]) + max_new
        writer = Writer(
            self.model,
            slots=min(len(prompts), max(1, self.max_batch_tokens // longest)),
            max_length=longest,
            max_new=max_new,
            until=until,
            end_id=self.eot_token_id,
        )
        for some in writer.units(prompts):
            cost = sum(len(ids) + max_new for _, ids in some)
            what = f"texts until {until}, {max_new} tokens"
            yield Unit(what, some, cost, writer.write, writer.size, writer.longest_pass)

    def check_generation(self, task: str, settings: dict[str, Any] | None) -> None:
        """Refuses a task whose texts cannot be generated, before anything runs.

        Raises:
            UserError: it samples, or its texts leave no room for a prompt.
        """
        try:
            self._generation_settings(copy.deepcopy(settings or {}))
        except UserError as error:
            raise UserError(f"{task}: {error}; leave it out") from None

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

    def _prompt(self, request: Instance, max_new: int) -> list[int]:
        ids, room = self._start() + self.tok_encode(request.args[0]), self.max_length - max_new
        self.truncated[request.task_name] += len(ids) > room
        return ids[-room:] or [self.prefix_token_id]


def _last(count: int, length: int) -> range:
    return range(length - count, length)


def right_padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> Tensor:
    """Rows of ids as one tensor `[b, s]`, s being the longest row."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device)
