"""The server's addresses, as an ASGI application."""

from __future__ import annotations

import hmac
import re
import time
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from recipes.errors import UserError
from recipes.server.answers import CLIENT_LEFT, Form, answer, client_left, whole_parts
from recipes.server.asked import Served
from recipes.server.bodies import read_body
from recipes.server.chats import ChatBody, ChatForm
from recipes.server.completions import CompletionBody, CompletionForm, SamplingBody
from recipes.server.engine_thread import EngineThread
from recipes.server.errors import Refusal
from recipes.server.generation import Generation
from recipes.server.metrics import CONTENT_TYPE, Metrics
from recipes.server.nemo_generate import NemoBody, nemo_answer

_OPEN = ("/health",)
"""Answered without a token: load balancers have none."""
_PORT = re.compile(r":\d*$")
B = TypeVar("B", CompletionBody, ChatBody, NemoBody)


def make_app(
    served: Served, engine: EngineThread, metrics: Metrics, token: str | None, hosts: tuple[str, ...] | None
) -> ASGIApp:
    """The application.

    Args:
        served: the model.
        engine: started.
        metrics: count what happens.
        token: clients have to send it; None: they need none.
        hosts: names by which clients may call this machine; None: any.
    """
    addresses = _Addresses(served, engine, metrics)
    app = Starlette(
        routes=[
            Route("/health", addresses.health, methods=["GET"]),
            Route("/metrics", addresses.metrics_text, methods=["GET"]),
            Route("/v1/models", addresses.models, methods=["GET"]),
            Route("/v1/models/{name:path}", addresses.model, methods=["GET"]),
            Route("/v1/completions", addresses.completions, methods=["POST"]),
            Route("/v1/chat/completions", addresses.chats, methods=["POST"]),
            Route("/generate", addresses.nemo_generate, methods=["PUT"]),
        ],
        exception_handlers={
            Refusal: _refused,
            UserError: _user_error,
            HTTPException: _no_such_address,
            Exception: _our_fault,
        },
    )
    app.router.redirect_slashes = False  # The address to be sent to would be made of the request's Host.
    paths = frozenset(route.path for route in app.routes if isinstance(route, Route))
    return _Doorman(app, metrics, paths, token, hosts)


class _Addresses:
    """What is done at each address."""

    def __init__(self, served: Served, engine: EngineThread, metrics: Metrics) -> None:
        self._served, self._engine, self._metrics = served, engine, metrics
        self._created = int(time.time())

    async def health(self, _: Request) -> Response:
        state = "failed" if self._engine.failure else "stopping" if self._engine.stopping else "ok"
        return JSONResponse({"status": state}, 200 if state == "ok" else 503)

    async def metrics_text(self, _: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._entry()]})

    async def model(self, request: Request) -> Response:
        self._served.check_name(request.path_params["name"])
        return JSONResponse(self._entry())

    def _entry(self) -> dict[str, Any]:
        return {
            "id": self._served.name,
            "object": "model",
            "created": self._created,
            "owned_by": "param-recipes",
            "max_model_len": self._served.max_length,
        }

    async def completions(self, request: Request) -> Response:
        body, generation = await self._begin(request, CompletionBody)
        return await self._answer(
            request, body, generation, CompletionForm(self._served, body.logprobs is not None)
        )

    async def chats(self, request: Request) -> Response:
        body, generation = await self._begin(request, ChatBody)
        return await self._answer(request, body, generation, ChatForm(self._served, bool(body.logprobs)))

    async def nemo_generate(self, request: Request) -> Response:
        body, generation = await self._begin(request, NemoBody)
        parts = await whole_parts(request, generation)
        if parts is None:
            return client_left()
        return JSONResponse(nemo_answer(self._served, body, generation.asked, parts))

    async def _begin(self, request: Request, kind: type[B]) -> tuple[B, Generation]:
        """Reads what is asked for, and hands it to the engine."""
        body = await read_body(request, kind, self._served.limits.max_body_bytes)
        # In a thread: a long prompt must not hold up the others' answers.
        asked = await run_in_threadpool(body.asked, self._served)
        return body, Generation(self._engine, self._served, asked, self._metrics)

    async def _answer(
        self, request: Request, body: SamplingBody, generation: Generation, form: Form
    ) -> Response:
        return await answer(
            request,
            generation,
            form,
            self._served.name,
            n=body.n or 1,
            stream=bool(body.stream),
            include_usage=body.include_usage,
        )


class _Doorman:
    """Counts every request, and lets in only those with the token and the right name of this machine."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        paths: frozenset[str],
        token: str | None,
        hosts: tuple[str, ...] | None,
    ) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths
        self._expected = None if token is None else token.encode()
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = CLIENT_LEFT

        async def counted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        refusal = self._refusal(Request(scope))
        try:
            await (refusal.response() if refusal else self._app)(scope, receive, counted)
        finally:
            # Not whatever path a client makes up: each is kept for ever.
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status)).inc()

    def _refusal(self, request: Request) -> Refusal | None:
        # A web page can let its own name lead here, and its visitors' browsers would send requests.
        host = _PORT.sub("", request.headers.get("host", "")).strip("[]").lower()
        if self._hosts is not None and host not in self._hosts:
            return Refusal("this server does not answer to that host name", status=403, code="wrong_host")
        if self._expected is None or request.scope["path"] in _OPEN:
            return None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if (
            hmac.compare_digest(given.strip().encode("latin-1"), self._expected)
            and scheme.lower() == "bearer"
        ):
            return None
        return Refusal(
            "a valid token is needed, in the header Authorization: Bearer ...",
            status=401,
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


async def _refused(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return refusal.response()


async def _user_error(_: Request, error: Exception) -> Response:
    return Refusal(str(error)).response()


async def _our_fault(_: Request, error: Exception) -> Response:
    """After this Starlette raises the error again: the log gets its traceback."""
    return Refusal("this server has a fault; its log says more", status=500).response()


async def _no_such_address(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.scope['path'][:100]}"
    return Refusal(
        f"{what}: {str(error.detail).lower()}", status=error.status_code, headers=error.headers
    ).response()
