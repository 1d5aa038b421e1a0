"""Answering a request with completions: whole, or as a stream of events."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from recipes.server.choice import Part
from recipes.server.errors import Refusal
from recipes.server.generation import Generation, unless_disconnected

CLIENT_LEFT = 499
"""As nginx counts clients that did not wait."""


class Form(Protocol):
    """How one of OpenAI's interfaces writes completions."""

    id_prefix: str
    kind: str
    """What an answer calls itself."""
    chunk_kind: str
    """What a part of a streamed one calls itself."""

    def choice(self, part: Part, index: int) -> dict[str, Any]:
        """A whole completion."""

    def chunk(self, part: Part, index: int, *, first: bool) -> dict[str, Any]:
        """A part of one."""


async def whole_parts(request: Request, generation: Generation) -> list[Part] | None:
    """All completions; None: the client has left."""
    try:
        return await unless_disconnected(request.receive, generation.whole())
    except ClientDisconnect:
        return None
    finally:
        generation.cancel()


def client_left() -> Response:
    """For the count of requests; nobody reads it."""
    return Response(status_code=CLIENT_LEFT)


async def answer(
    request: Request,
    generation: Generation,
    form: Form,
    model: str,
    *,
    n: int,
    stream: bool,
    include_usage: bool,
) -> Response:
    """OpenAI's answer to a request.

    Args:
        request: its client may leave.
        generation: the completions, ``n`` of each prompt.
        form: how they are written.
        model: its name.
        n: as above.
        stream: send parts as they come.
        include_usage: end a stream with the tokens that it took.
    """
    head = {
        "id": f"{form.id_prefix}-{secrets.token_hex(12)}",
        "object": form.chunk_kind if stream else form.kind,
        "created": int(time.time()),
        "model": model,
    }
    if stream:
        return EventStream(_chunks(generation, form, head, n, include_usage), generation.cancel)
    parts = await whole_parts(request, generation)
    if parts is None:
        return client_left()
    choices = [form.choice(part, index) for index, part in enumerate(parts)]
    return JSONResponse({**head, "choices": choices, "usage": _usage(generation, n)})


async def _chunks(
    generation: Generation, form: Form, head: dict[str, Any], n: int, include_usage: bool
) -> AsyncGenerator[dict[str, Any]]:
    more = {"usage": None} if include_usage else {}
    begun: set[int] = set()
    async with aclosing(generation.parts()) as parts:
        async for index, part in parts:
            if part.text or part.tokens or part.finish_reason:
                yield {**head, "choices": [form.chunk(part, index, first=index not in begun)], **more}
                begun.add(index)
    if include_usage:
        yield {**head, "choices": [], "usage": _usage(generation, n)}


def _usage(generation: Generation, n: int) -> dict[str, int]:
    """Tokens; a prompt counts once, however many completions it has."""
    prompt = sum(len(one.request.prompt) for one in generation.asked[::n])
    generated = generation.generated
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


class EventStream(Response):
    """Server-sent events: one JSON object each, then ``[DONE]``.

    Args:
        chunks: the objects.
        cancel: called when the stream is over, however it ends.
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[dict[str, Any]], cancel: Callable[[], None]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._chunks, self._cancel = chunks, cancel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_disconnected(receive, self._send(send))
        except ClientDisconnect:
            pass
        finally:
            self._cancel()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async with aclosing(self._chunks) as chunks:
                async for chunk in chunks:
                    await send(_event(json.dumps(chunk, ensure_ascii=False, separators=(",", ":"))))
        except Refusal as refusal:  # Too late for a status; clients read this as an error.
            await send(_event(json.dumps(refusal.body)))
        else:
            await send(_event("[DONE]"))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _event(data: str) -> dict[str, Any]:
    return {"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True}
