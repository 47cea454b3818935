"""Errors as OpenAI's API has them: a status, a body, and whether a client should try again. Pure.

OpenAI's SDKs try a status of 408, 409, 429 or 500 and above again by themselves, twice, unless
`x-should-retry` says otherwise; they wait as long as `retry-after-ms` says.
"""

from __future__ import annotations

import math

import msgspec

from edgekit.core.protocol import wire

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class HttpError(Exception):
    """A request that has no answer.

    Attributes:
        status: of HTTP.
        code: one of `wire.CODES`, or a word for what only HTTP has.
        retry: whether the same request can succeed later.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str = "",
        retry: bool = False,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.param, self.retry, self.retry_after_ms = param, retry, retry_after_ms

    @property
    def body(self) -> bytes:
        """The JSON of it."""
        ours = "server_error" if self.status >= 500 else "invalid_request_error"
        detail = {
            "message": self.message[: wire.MAX_ERROR_CHARS],
            "type": TYPES.get(self.status, ours),
            "param": self.param or None,
            "code": self.code,
        }
        return msgspec.json.encode({"error": detail})

    @property
    def headers(self) -> dict[str, str]:
        """What tells a client whether and when to try again."""
        told = {"x-should-retry": "true" if self.retry else "false"}
        if self.status == 401:
            told["www-authenticate"] = "Bearer"
        if self.retry and self.retry_after_ms is not None:
            told["retry-after-ms"] = str(self.retry_after_ms)
            told["retry-after"] = str(math.ceil(self.retry_after_ms / 1000))
        return told


def of_device(error: wire.ProtocolError) -> HttpError:
    """What a device refused, or how a prompt ended that has no answer.

    A deadline that has passed is not tried again: its client would wait longer than it asked for.
    """
    return HttpError(
        error.status,
        error.code,
        error.what,
        param=error.param,
        retry=error.retryable and error.code != "deadline_exceeded",
        retry_after_ms=error.retry_after_ms,
    )


def of_code(code: str, message: str, param: str = "") -> HttpError:
    """A refusal of the gateway with a code of the protocol."""
    return of_device(wire.ProtocolError(code, message, param))


def no_key() -> HttpError:
    """The API key is missing or not known."""
    return HttpError(
        401,
        "invalid_api_key",
        "the API key is missing or not known: send `Authorization: Bearer KEY` with a key that "
        "`edgekit gateway key add NAME` made",
    )


def unreachable(message: str, *, retry: bool = True) -> HttpError:
    """No device, or no broker, answers."""
    return HttpError(503, "device_unreachable", message, retry=retry)
