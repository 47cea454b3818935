"""The routes of the gateway: OpenAI's API, Ollama's, and what watches over them."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from edgekit.core import pictures
from edgekit.core.protocol import exposition, wire
from edgekit.errors import EdgekitError
from edgekit.gateway import body, catalog, counted
from edgekit.gateway.answer import HttpAnswer, Shape
from edgekit.gateway.body import ApiRequest
from edgekit.gateway.chunks import Chunks
from edgekit.gateway.hub import Hub
from edgekit.gateway.ollama import lines
from edgekit.gateway.ollama import request as ollama
from edgekit.gateway.page.facts import ProjectReader
from edgekit.gateway.page.routes import page_routes
from edgekit.gateway.refusals import HttpError, no_key, of_code

log = logging.getLogger(__name__)

MAX_BODY_BYTES = pictures.MOST_BODY_BYTES
BODY_SECONDS = 30.0  # for the whole body to arrive
OWNER = "edgekit"
FORM = "application/x-www-form-urlencoded"  # `curl -d`, as Ollama's own examples have it
OLLAMA = "/api/"  # the paths of Ollama's API, whose errors have a shape of their own


def application(hub: Hub, reader: ProjectReader | None = None) -> Starlette:
    """The ASGI application of a gateway whose hub somebody else starts and stops.

    Args:
        hub: of the gateway.
        reader: of the project whose rollouts and groups the page shows.
    """
    routes = _Routes(hub)
    made = Starlette(
        routes=[
            Route("/v1/models", routes.models, methods=["GET"]),
            Route("/v1/models/{model:path}", routes.model, methods=["GET"]),
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/v1/completions", routes.text, methods=["POST"]),
            Route("/v1/embeddings", routes.embeddings, methods=["POST"]),
            Route("/api/chat", routes.ollama_chat, methods=["POST"]),
            Route("/api/tags", routes.tags, methods=["GET"]),
            Route("/health", routes.health, methods=["GET"]),
            Route("/metrics", routes.metrics, methods=["GET"]),
            *page_routes(hub, routes.requester, reader),
        ],
        exception_handlers={
            HttpError: routes.refused,
            EdgekitError: routes.broken,
            HTTPException: routes.unknown,
            ClientDisconnect: routes.left,
            Exception: routes.failed,
        },
    )
    made.add_middleware(_OriginForm)
    made.router.redirect_slashes = False  # it would name the Host that a client has sent
    return made


class _OriginForm:
    """Takes a target that is a whole URI, as clients of a proxy send it (RFC 9112 §3.2.2).

    Its path is what is asked for, and its authority counts in place of Host, whatever either says:
    a gateway has one site. A URI that names a user, or no host, is no target of ours.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (found := _ABSOLUTE.fullmatch(_target(scope))):
            raw = found["path"] or b"/"
            headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
            scope = dict(scope)
            scope["raw_path"], scope["path"] = raw, unquote(raw.decode("ascii", "replace"))
            scope["headers"] = [(b"host", found["host"]), *headers]
        await self._app(scope, receive, send)


_ABSOLUTE = re.compile(rb"(?i:https?)://(?P<host>[^/@]+)(?P<path>/.*)?", re.DOTALL)


def _target(scope: Scope) -> bytes:
    """The target of a request without its query, as it was sent."""
    target = scope.get("raw_path")
    return target if isinstance(target, bytes) else scope["path"].encode("utf-8", "replace")


class _Routes:
    """The endpoints of one hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def chat(self, request: Request) -> HttpAnswer:
        return await self._answer(request, body.read, _chunks)

    async def text(self, request: Request) -> HttpAnswer:
        return await self._answer(request, partial(body.read, text=True), _chunks)

    async def ollama_chat(self, request: Request) -> HttpAnswer:
        return await self._answer(request, ollama.read, _lines)

    async def _answer(
        self,
        request: Request,
        read: Callable[[bytes], ApiRequest],
        shape: Callable[[ApiRequest, str], Shape],
    ) -> HttpAnswer:
        requester = self.requester(request)
        headers = request.headers
        kind = wire.media_type(headers.get("content-type", ""))
        if kind not in ("", wire.JSON, *((FORM,) if _is_ollama(request) else ())):
            raise of_code("unsupported_media_type", f"send {wire.JSON}")
        coded = headers.get("content-encoding", "")
        if coded.lower() not in ("", "identity"):
            text = f"a body in the Content-Encoding {coded} is not served: send it as it is"
            raise of_code("unsupported_media_type", text)
        given = headers.get("idempotency-key", "")
        idempotency = body.read_id(given) if given else ""
        asked_for = headers.get("edgekit-deadline", "")
        deadline = self._hub.settings.deadline
        if asked_for:
            deadline = body.read_deadline(asked_for, wire.MAX_EXPIRY_SECONDS)
        asked = read(await _read(request))
        prompt_id = idempotency or str(uuid.uuid4())
        return HttpAnswer(
            self._hub,
            requester,
            asked,
            shape(asked, prompt_id),
            prompt_id=prompt_id,
            idempotency=idempotency,
            deadline=deadline,
        )

    async def models(self, request: Request) -> Response:
        self.requester(request)
        known = catalog.models(self._hub.known)
        return self._json({"object": "list", "data": [_model(name) for name in known]})

    async def model(self, request: Request) -> Response:
        self.requester(request)
        name = request.path_params["model"]
        if name not in catalog.models(self._hub.known):
            raise of_code("model_not_found", f"no device serves {name!r} now", "model")
        return self._json(_model(name))

    async def tags(self, request: Request) -> Response:
        self.requester(request)
        return self._json(lines.tags(catalog.models(self._hub.known)))

    async def embeddings(self, request: Request) -> Response:
        self.requester(request)
        raise of_code(
            "invalid_request",
            "embeddings are not served: the devices of this fleet run chat models, which have "
            "no embedding of a text",
        )

    async def health(self, _request: Request) -> Response:
        hub = self._hub
        state = "draining" if hub.draining else "ok" if hub.connected else "no broker"
        takes = sum(each.takes for each in hub.known.values())
        return JSONResponse({"status": state, "devices": takes}, 200 if state == "ok" else 503)

    async def metrics(self, _request: Request) -> Response:
        text = exposition.prometheus(counted.families(self._hub))
        return Response(text, media_type=exposition.CONTENT_TYPE)

    async def refused(self, request: Request, error: Exception) -> Response:
        """All handlers are coroutines: a thread's answer could come after the last of a stop."""
        assert isinstance(error, HttpError)
        self._hub.requests[error.status] += 1
        told = lines.refusal(error) if _is_ollama(request) else error.body
        return Response(told, error.status, {**error.headers, "content-type": wire.JSON})

    async def broken(self, request: Request, error: Exception) -> Response:
        """What the gateway itself lacks, such as a readable file of keys."""
        log.error("%s", error)
        assert isinstance(error, EdgekitError)
        return await self.refused(request, HttpError(503, "internal", error.what))

    async def unknown(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = f"{request.method} {request.url.path}"[:200]
        code = "method_not_allowed" if error.status_code == 405 else "not_found"
        message = f"{what} is not served" if error.status_code != 400 else "the request is wrong"
        answer = await self.refused(request, HttpError(error.status_code, code, message))
        answer.headers.update(error.headers or {})
        return answer

    async def left(self, _request: Request, _error: Exception) -> Response:
        """The client went away before it had sent its body: nobody reads this."""
        return Response(status_code=400)

    async def failed(self, request: Request, _error: Exception) -> Response:
        """A defect; the log has it."""
        return await self.refused(
            request, HttpError(500, "internal", "the gateway failed; see its log")
        )

    def requester(self, request: Request) -> str:
        """Who presents a key; raises HttpError."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        try:
            requester = (
                self._hub.keys.requester_of(key.strip()) if scheme.lower() == "bearer" else ""
            )
        except EdgekitError as error:  # it is being edited; who asks need not know where it is
            log.error("%s", error)
            text = "the gateway cannot read its API keys now; its log says why"
            raise HttpError(503, "internal", text, retry=True) from error
        if not requester:
            raise no_key()
        return requester

    def _json(self, told: Any) -> Response:
        self._hub.requests[200] += 1
        return JSONResponse(told)


def _is_ollama(request: Request) -> bool:
    return request.url.path.startswith(OLLAMA)


def _chunks(asked: ApiRequest, prompt_id: str) -> Shape:
    return Chunks(prompt_id, int(time.time()), usage=asked.usage, text=asked.text)


def _lines(asked: ApiRequest, _prompt_id: str) -> Shape:
    return lines.Lines(asked.model, time.time())


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER}


async def _read(request: Request) -> bytes:
    """The body, which must be there in time and not too large; raises HttpError."""
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said[:12]) > MAX_BODY_BYTES:
        raise _too_large()
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                data += piece
                if len(data) > MAX_BODY_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise HttpError(
            408, "request_timeout", f"the body did not arrive within {BODY_SECONDS:g} s"
        ) from None
    return bytes(data)


def _too_large() -> HttpError:
    return of_code("payload_too_large", f"a body has at most {MAX_BODY_BYTES} bytes")
