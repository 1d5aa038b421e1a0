"""Whether a shown curl command sends what this project's server takes; the server's own reading decides."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request

from recipes.config.serving_schema import ServingConfig
from recipes.errors import UserError
from recipes.server.bodies import Body, read_body
from recipes.server.chats import ChatBody
from recipes.server.completions import CompletionBody
from recipes.server.errors import Refusal
from recipes.server.nemo_generate import NemoBody

BODIES: Mapping[tuple[str, str], type[Body]] = {
    ("POST", "/v1/completions"): CompletionBody,
    ("POST", "/v1/chat/completions"): ChatBody,
    ("PUT", "/generate"): NemoBody,
}


def check_curl(arguments: list[str]) -> None:
    """Sends nothing.

    Raises:
        UserError: the server would refuse the request.
    """
    parser = ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("-X", default="POST")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d", required=True)
    options = parser.parse_args(arguments)
    path = urlsplit(options.url).path
    kind = BODIES.get((options.X, path))
    if kind is None:
        raise UserError(f"{options.X} {path}: the server has no such address")
    headers = [tuple(part.strip().lower().encode() for part in each.split(":", 1)) for each in options.H]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": options.d.encode(), "more_body": False}

    request = Request({"type": "http", "headers": headers}, receive)
    try:
        asyncio.run(read_body(request, kind, ServingConfig().max_body_bytes))
    except Refusal as refusal:
        raise UserError(str(refusal)) from None
