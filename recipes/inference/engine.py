"""Continuous batching: many requests take turns in the rows of one static batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import torch

from recipes.inference.check_request import check_request
from recipes.inference.decode.decoder import Decoder
from recipes.inference.graphs import GraphStepper
from recipes.inference.memory import memory_for
from recipes.inference.requests import CANCELLED, LENGTH, STOP, Event, Request
from recipes.inference.rows import Needs, Rows, needs_of
from recipes.inference.sampling import Chosen, choose
from recipes.inference.stepper import Stepper
from recipes.inference.text_generator import TextGenerator

LAG = 2
"""Steps that a GPU is ahead of the host's reading of them."""


@dataclass
class _Running:
    """A request in a row."""

    number: int
    request: Request
    slot: int
    ids: list[int] = field(default_factory=list)
    launched: int = 0
    """New tokens that have been asked of the device."""
    finished: str | None = None
    first: Event | None = None
    """What is known of the prompt, until it is told."""


@dataclass
class _Pending:
    """Tokens that the device has been asked for and that the host has not read."""

    running: list[tuple[int, _Running]]
    """Rows of ``chosen``, and whose they are."""
    chosen: Chosen
    done: torch.cuda.Event | None

    def wait(self) -> None:
        if self.done is not None:
            self.done.synchronize()


class Engine:
    """Continues requests, up to ``slots`` at a time; a finished one's row goes to the next that waits.

    A request's tokens are the same alone and in any batch, but for ties within rounding: a matrix product may
    add in another order for another number of rows. One thread owns an engine. Under tensor or pipeline
    parallelism every rank has one and makes the same calls.

    Args:
        model: whose weights are used where they are.
        slots: requests that are continued together.
        max_length: tokens that a request may have with its prompt.
    """

    @torch.no_grad()
    def __init__(self, model: TextGenerator, *, slots: int, max_length: int) -> None:
        self.model, self.slots = model, slots
        self.max_length = min(max_length, model.max_sequence_length)
        texts = f"{slots:,} texts of {self.max_length:,} tokens at a time"
        with memory_for(texts, "lower batch_size, or the tokens (a server's serving.max_length)"):
            self.decoder: Decoder = model.decoder(slots, self.max_length)
            self.rows = Rows(slots, model.vocab_size, model.device)
        graphs = self.decoder.is_static and model.device.type == "cuda"
        self.stepper = (GraphStepper if graphs else Stepper)(self.decoder, self.rows)
        self._numbers = 0
        self._waiting: deque[tuple[int, Request]] = deque()
        self._occupied: dict[int, _Running] = {}
        self._pending: deque[_Pending] = deque()
        self._cancelled: list[int] = []
        self._needs: Needs | None = None
        """Of all rows; None: since they were joined, a request has come or gone."""

    @property
    def waiting(self) -> int:
        """Requests that have no row yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that have a row."""
        return len(self._occupied)

    @property
    def idle(self) -> bool:
        """Whether no step would do anything."""
        return not (self._waiting or self._occupied or self._pending or self._cancelled)

    def submit(self, request: Request) -> int:
        """Queues a request and returns its number, counted from 0.

        Raises:
            UserError: it does not fit, or asks for what cannot be.
        """
        check_request(request, self.max_length, self.model.vocab_size)
        number, self._numbers = self._numbers, self._numbers + 1
        self._waiting.append((number, request))
        return number

    def cancel(self, number: int) -> None:
        """Ends a request; its last event comes with the next step. Nothing happens if it has ended."""
        for waiting in self._waiting:
            if waiting[0] == number:
                self._waiting.remove(waiting)
                self._cancelled.append(number)
                return
        for running in self._of_anyone():
            if running.number == number and running.finished is None:
                self._end(running, CANCELLED)
                self._cancelled.append(number)
                return

    @torch.no_grad()
    def step(self) -> list[Event]:
        """Gives rows to waiting requests and advances all by a token.

        Returns:
            What has become known, at most an event per request; on a GPU it is a few steps old.
        """
        events = [Event(number, finished=CANCELLED) for number in self._cancelled]
        self._cancelled.clear()
        events += self._admit()
        events += self._catch_up()
        self._close_gaps()
        if self._occupied:
            self._launch_step()
            events += self._catch_up()
        return _joined(events)

    def _catch_up(self) -> list[Event]:
        """Reads what the device has been asked for, but for the last steps of a GPU that goes on."""
        ahead = LAG if self._occupied and self.model.device.type == "cuda" else 0
        events: list[Event] = []
        while len(self._pending) > ahead:
            events += self._collect(self._pending.popleft())
        return events

    def _of_anyone(self) -> list[_Running]:
        """Every request that has had a row and of which something may still come."""
        pending = [running for batch in self._pending for _, running in batch.running]
        return [*self._occupied.values(), *pending]

    def _admit(self) -> list[Event]:
        """Reads the prompts of waiting requests into free rows; their first tokens follow from that.

        Returns:
            The end of requests that want no tokens, which are done when they are read.
        """
        free = [slot for slot in range(self.slots) if slot not in self._occupied]
        admitted: list[_Running] = []
        ended: list[Event] = []
        while self._waiting and len(admitted) + len(ended) < len(free):
            number, request = self._waiting.popleft()
            if request.max_new_tokens:
                admitted.append(_Running(number, request, free[len(admitted)]))
            else:
                ended.append(replace(self._of_prompt(number, request), finished=LENGTH))
        if admitted:
            self._read(admitted)
        return ended

    def _read(self, admitted: list[_Running]) -> None:
        prompts = [running.request.prompt for running in admitted]
        logits = self.decoder.read([running.slot for running in admitted], prompts)
        self._needs = None
        for running in admitted:
            self._occupied[running.slot] = running
            self.rows.set(running.slot, running.request)
            running.first = self._of_prompt(running.number, running.request)
        slots = torch.tensor([running.slot for running in admitted], device=self.model.device)
        needs = self._joined_needs(admitted)
        chosen = choose(logits, self.rows, slots, needs, exact_shapes=self.stepper.exact_shapes)
        self.rows.advance(slots, chosen.ids, needs)
        self._launched(list(enumerate(admitted)), chosen)

    def _of_prompt(self, number: int, request: Request) -> Event:
        """What a request asks of its prompt's own tokens."""
        if not request.prompt_logprobs:
            return Event(number)
        tokens = torch.tensor([request.prompt], device=self.model.device)
        logprobs = self.model.logits(tokens[:, :-1])[0].float().log_softmax(-1)
        chosen = tuple(logprobs.gather(1, tokens[0, 1:, None]).squeeze(1).tolist())
        top = None
        if request.top_logprobs:
            values, ids = (part.tolist() for part in logprobs.topk(request.top_logprobs))
            top = tuple(tuple(zip(*both, strict=True)) for both in zip(ids, values, strict=True))
        return Event(number, prompt_logprobs=chosen, prompt_top=top)

    def _close_gaps(self) -> None:
        """Moves the last rows into free ones before them, where that makes a step smaller."""
        bucket = self.stepper.bucket
        while self._occupied:
            last = max(self._occupied)
            if bucket(last + 1) == bucket(len(self._occupied)):
                return
            target = min(slot for slot in range(self.slots) if slot not in self._occupied)
            running = self._occupied.pop(last)
            self.decoder.move(last, target)
            self.rows.move(last, target)
            running.slot = target
            self._occupied[target] = running

    def _launch_step(self) -> None:
        running = list(self._occupied.values())
        longest = max(len(one.request.prompt) + one.launched for one in running)
        self._needs = self._needs or self._joined_needs(running)
        chosen = self.stepper.step(max(self._occupied) + 1, longest, self._needs)
        self._launched([(one.slot, one) for one in running], chosen)

    def _joined_needs(self, running: Iterable[_Running]) -> Needs:
        return reduce(Needs.__or__, (needs_of(one.request, self.model.vocab_size) for one in running))

    def _launched(self, running: list[tuple[int, _Running]], chosen: Chosen) -> None:
        """Notes what the device was asked for, and frees rows that are known to need nothing more."""
        done = None
        if chosen.ids.is_cuda:
            chosen = chosen.on_the_host()
            done = torch.cuda.Event()
            done.record()
        self._pending.append(_Pending(running, chosen, done))
        for _, one in running:
            one.launched += 1
            if one.launched == one.request.max_new_tokens:
                del self._occupied[one.slot]
                self._needs = None

    def _collect(self, pending: _Pending) -> list[Event]:
        pending.wait()
        ids = pending.chosen.ids.tolist()
        events = []
        for row, running in pending.running:
            if running.finished is not None:
                continue  # The device went on until the host knew.
            running.ids.append(ids[row])
            if reason := _reason_to_end(running):
                self._end(running, reason)
            events.append(_event(running, pending.chosen, row))
        return events

    def _end(self, running: _Running, reason: str) -> None:
        running.finished = reason
        if self._occupied.get(running.slot) is running:
            del self._occupied[running.slot]
            self._needs = None
            self.rows.stop(running.slot)


def _reason_to_end(running: _Running) -> str | None:
    request, ids = running.request, running.ids
    if ids[-1] in request.end_ids or (request.stop is not None and request.stop(ids)):
        return STOP
    return LENGTH if len(ids) == request.max_new_tokens else None


def _event(running: _Running, chosen: Chosen, row: int) -> Event:
    request = running.request
    logprobs = top = full = None
    if request.logprobs and chosen.logprobs is not None:
        logprobs = (chosen.logprobs[row].item(),)
    if request.top_logprobs and chosen.top is not None:
        values, ids = (part[row, : request.top_logprobs].tolist() for part in chosen.top)
        top = (tuple(zip(ids, values, strict=True)),)
    if request.full_logprob and chosen.full is not None:
        full = (chosen.full[row].cpu().clone(),)
    event = Event(running.number, (running.ids[-1],), logprobs, top, full, finished=running.finished)
    first, running.first = running.first, None
    return event if first is None else first.followed_by(event)


def _joined(events: list[Event]) -> list[Event]:
    """One event per request, in the order of their first."""
    joined: dict[int, Event] = {}
    for event in events:
        before = joined.get(event.request)
        joined[event.request] = event if before is None else before.followed_by(event)
    return list(joined.values())


def in_order(engine: Engine, requests: Sequence[Request]) -> Iterator[Event]:
    """Continues all requests and yields the whole of each, in their order, as soon as it is known.

    Raises:
        UserError: one of them does not fit; nothing has been computed by then.
    """
    numbers = [engine.submit(request) for request in requests]
    known: dict[int, Event] = {}
    for number in numbers:
        while number not in known or known[number].finished is None:
            for event in engine.step():
                before = known.get(event.request)
                known[event.request] = event if before is None else before.followed_by(event)
        yield known.pop(number)
