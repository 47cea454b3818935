"""The routes of the page: its files, and the fleet as it is now and as it changes."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgekit.core.protocol import wire
from edgekit.errors import EdgekitError
from edgekit.gateway.hub import Hub
from edgekit.gateway.page.events import HEADERS, FleetEvents, Watching
from edgekit.gateway.page.facts import Facts, ProjectReader
from edgekit.gateway.page.files import INDEX, load


def page_routes(
    hub: Hub, requester_of: Callable[[Request], str], reader: ProjectReader | None
) -> list[Route]:
    """The routes, for an application of this hub.

    Args:
        hub: which hears the devices.
        requester_of: who presents a key; raises HttpError.
        reader: of the project, where there is one.
    """
    made = _PageRoutes(Watching(hub, Facts(reader)), requester_of)
    return [
        Route("/", made.file, methods=["GET"]),
        Route("/page/{name}", made.file, methods=["GET"]),
        Route("/fleet", made.fleet, methods=["GET"]),
        Route("/fleet/events", made.events, methods=["GET"]),
    ]


class _PageRoutes:
    def __init__(self, watching: Watching, requester_of: Callable[[Request], str]) -> None:
        self._watching, self._requester_of = watching, requester_of
        self._files = load()

    async def file(self, request: Request) -> Response:
        """A file of the page; without a key, for there is nothing of the fleet in it."""
        found = self._files.get(request.path_params.get("name", INDEX))
        if found is None:
            raise HTTPException(404)
        known = request.headers.get("if-none-match") == found.etag
        self._watching.hub.requests[304 if known else 200] += 1
        if known:
            return Response(status_code=304, headers=found.headers)
        return Response(found.data, headers=found.headers)

    async def fleet(self, request: Request) -> Response:
        self._requester_of(request)
        self._watching.hub.requests[200] += 1
        headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
        data = msgspec.json.encode(await self._watching.whole())
        return Response(data, headers=headers, media_type=wire.JSON)

    async def events(self, request: Request) -> FleetEvents | Response:
        requester = self._requester_of(request)
        if request.method == "HEAD":  # its body would never come to an end
            return Response(headers=HEADERS)
        key = request.headers["authorization"].partition(" ")[2].strip()
        keys = self._watching.hub.keys

        def permitted() -> bool:
            try:
                return keys.requester_of(key) == requester
            except EdgekitError:  # the file of keys cannot be read: a new request is told so
                return False

        return FleetEvents(self._watching, requester, permitted)
