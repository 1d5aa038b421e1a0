"""Reading what a request sends: JSON of a known shape, of bounded size. What is not known is refused."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect, Request

from recipes.console import printable
from recipes.server.errors import Refusal

SLOWEST_BODY_S = 30.0
"""A client that needs longer holds a connection for nothing."""
LONGEST_NAME = 100


class Body(BaseModel):
    """What a request may send; numbers are numbers, not text, and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


B = TypeVar("B", bound=Body)


async def read_body(request: Request, kind: type[B], max_bytes: int) -> B:
    """The JSON object that a request brings.

    Raises:
        Refusal: it is too large, comes too slowly, is no JSON, or has other fields or values than ``kind``.
    """
    # Without it a page in this machine's browser could send requests, as forms need no permission.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal("send JSON, with the header Content-Type: application/json", status=415)
    try:
        async with asyncio.timeout(SLOWEST_BODY_S):
            content = await _content(request, max_bytes)
    except TimeoutError:
        raise Refusal(f"the request's body took more than {SLOWEST_BODY_S:.0f} s", status=408) from None
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise _refusal(error) from None


async def _content(request: Request, max_bytes: int) -> bytes:
    too_large = Refusal(f"the request's body has more than {max_bytes:,} bytes", status=413)
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > max_bytes:
        raise too_large
    content = bytearray()
    try:
        async for part in request.stream():
            content += part
            if len(content) > max_bytes:
                raise too_large
    except ClientDisconnect:
        raise Refusal("the request's body is not complete") from None
    return bytes(content)


def _refusal(error: ValidationError) -> Refusal:
    errors = error.errors(include_url=False, include_context=False)
    unknown = [_place(found["loc"]) for found in errors if found["type"] == "extra_forbidden"]
    if unknown:
        names = ", ".join(unknown[:10])
        return Refusal(f"unknown fields: {names}", param=unknown[0], code="unknown_field")
    first = errors[0]
    if first["type"] == "json_invalid":
        return Refusal(f"the request's body is no JSON: {first['msg'].partition(': ')[2]}")
    place = _place(first["loc"])
    if not place:
        return Refusal(f"the request's body: {first['msg']}")
    return Refusal(f"{place}: {first['msg'].removeprefix('Value error, ')}", param=place)


def _place(location: tuple[Any, ...]) -> str:
    return printable(".".join(str(part) for part in location))[:LONGEST_NAME]
