"""Refusals of a request, in the shape of OpenAI's errors."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """A request that is not carried out.

    Args:
        message: what is wrong, and what to send instead.
        status: of HTTP.
        param: the field that is wrong.
        code: a word for programs.
        headers: of the answer.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers

    @property
    def body(self) -> dict[str, object]:
        """As OpenAI's servers answer."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, headers=self.headers)


def too_busy(message: str) -> Refusal:
    return Refusal(message, status=429, code="queue_full", headers={"Retry-After": "1"})


def stopping() -> Refusal:
    return Refusal(
        "the server is shutting down", status=503, code="shutting_down", headers={"Retry-After": "30"}
    )


def failed() -> Refusal:
    return Refusal("the server has failed; its log says why", status=500, code="failed")
