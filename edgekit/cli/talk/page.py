"""`page`: the fleet and a chat in a browser, for one person on this machine."""

from __future__ import annotations

import datetime
import logging
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import project, render
from edgekit.cli.options import MOST_PORT, ProjectOption
from edgekit.cli.talk.facts import reader_of
from edgekit.cli.talk.gateway import BrokerOption, without_packages
from edgekit.gateway import keys
from edgekit.gateway.hub import GatewaySettings

HOST = "127.0.0.1"
DRAIN_SECONDS = 2.0


def page(
    port: Annotated[
        int, typer.Option(min=0, max=MOST_PORT, help="To listen on; 0: a free one.")
    ] = 0,
    broker: BrokerOption = None,
    project_folder: ProjectOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object once it listens.")
    ] = False,
) -> None:
    """Serve the fleet's page to a browser on this machine until Ctrl-C, and print its address.

    The address has an API key that counts as long as this command runs: whoever has it asks devices
    as you. For several people, or from other machines, run `edgekit gateway`, which serves the same
    page and takes the keys of `edgekit gateway key add`.

    \b
    Example:  edgekit page
              edgekit page --port 8090
    """
    try:
        from edgekit.gateway import server  # noqa: PLC0415  an extra, which few need
    except ModuleNotFoundError as error:
        raise without_packages(error) from error
    here = project.find_or_bare(project_folder, broker=broker)
    where = project.parse_broker(broker, here.broker) if broker else here.broker
    render.warn(where.warning)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    listener = server.listen(HOST, port)
    with tempfile.TemporaryDirectory(prefix="edgekit-page-") as folder:  # for its owner alone
        file = Path(folder) / "keys.json"
        key = keys.add(file, here.requester, datetime.datetime.now(tz=datetime.UTC).date())
        url = f"http://{HOST}:{listener.getsockname()[1]}/#key={key}"

        def ready() -> None:
            if as_json:
                render.print_json({"url": url, "requester": here.requester})
            else:
                render.say(f"page  {url}\n      (open it in a browser; Ctrl-C ends it)")

        settings = GatewaySettings(keys=file, broker=where, drain_seconds=DRAIN_SECONDS)
        server.serve(settings, listener, ready, reader=reader_of(here))
