"""`gateway`: OpenAI over HTTP for the fleet, and its API keys."""

from __future__ import annotations

import datetime
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import project, render
from edgekit.cli.options import MOST_PORT, JsonOption, ProjectOption, check_seconds
from edgekit.cli.talk.facts import reader_of
from edgekit.core.protocol import wire
from edgekit.core.registry import is_loopback
from edgekit.errors import UsageError
from edgekit.gateway import keys
from edgekit.gateway.hub import GatewaySettings

app = typer.Typer(invoke_without_command=True, no_args_is_help=False)
key_app = typer.Typer(
    no_args_is_help=True,
    help="The API keys of the gateway: each one asks as a requester."
    "\n\n\b\nExample:  edgekit gateway key add alice",
)
app.add_typer(key_app, name="key")

KEYS_FILE = "gateway-keys.json"
INSTALL = "install the gateway's packages: pip install 'edgekit[gateway]'"

KeysOption = Annotated[
    Path | None,
    typer.Option("--keys", help="The file of API keys; default: of the project."),
]
BrokerOption = Annotated[
    str | None, typer.Option("--broker", help="HOST[:PORT]; default: of edgekit.toml.")
]


def without_packages(error: ModuleNotFoundError) -> UsageError:
    """The extra is not installed."""
    return UsageError("the gateway cannot start", str(error), INSTALL)


def _keys(folder: Path | None, given: Path | None) -> Path:
    if given is not None:
        return given
    return project.find(folder).folder / ".edgekit" / KEYS_FILE


@app.callback()
def gateway(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=MOST_PORT, help="0: a free one.")] = 8080,
    broker: BrokerOption = None,
    passwords: Annotated[
        Path | None,
        typer.Option(
            help="Folder with a password for each requester, as `edgekit broker acl` writes it: "
            "each then has an account of its own at the broker."
        ),
    ] = None,
    cert_file: Annotated[Path | None, typer.Option(help="Certificate, for TLS.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="Its private key.")] = None,
    deadline: Annotated[
        int, typer.Option(help="Of a prompt that names none, in seconds, 1 to 3600.")
    ] = 300,
    streams: Annotated[
        int, typer.Option(min=1, help="Answers at once; half for one requester.")
    ] = 256,
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds that those have to end when it stops.")
    ] = 30.0,
    keys_file: KeysOption = None,
    project_folder: ProjectOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object once it listens.")
    ] = False,
) -> None:
    """Serve the fleet by OpenAI's HTTP API until Ctrl-C; SIGTERM lets answers end first.

    A prompt's model is a model's name, pool:NAME or device:NAME. Each API key asks as the requester
    that it was made for.

    \b
    Example:  edgekit gateway key add alice
              edgekit gateway
              curl http://127.0.0.1:8080/v1/chat/completions -H "Authorization: Bearer ek-…" \\
                -H "Content-Type: application/json" \\
                -d '{"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}]}'
    """
    if context.invoked_subcommand is not None:
        return
    if not 1 <= deadline <= wire.MAX_EXPIRY_SECONDS:
        raise UsageError(
            f"--deadline {deadline} is no deadline",
            f"a deadline is 1 to {wire.MAX_EXPIRY_SECONDS} seconds away",
            "write it like --deadline 300",
        )
    check_seconds("--drain", drain)
    if passwords is not None and not passwords.is_dir():
        raise UsageError(
            f"--passwords: {passwords} is no folder",
            next_step="name the folder passwords/ that `edgekit broker acl` wrote",
        )
    if (cert_file is None) != (key_file is None):
        raise UsageError(
            "--cert-file and --key-file are given together or not at all",
            next_step="give both, or leave both out for plain HTTP",
        )
    try:
        from edgekit.gateway import server  # noqa: PLC0415  an extra, which few need
    except ModuleNotFoundError as error:
        raise without_packages(error) from error
    here = project.find_or_bare(project_folder, broker=broker)
    where = project.parse_broker(broker, here.broker) if broker else here.broker
    render.warn(where.warning)
    if cert_file is None and not is_loopback(host):
        render.warn("API keys and prompts go in the clear: give --cert-file and --key-file")
    settings = GatewaySettings(
        keys=keys_file or here.folder / ".edgekit" / KEYS_FILE,
        broker=where,
        passwords=passwords,
        deadline=deadline,
        streams=streams,
        drain_seconds=drain,
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    listener = server.listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    scheme = "https" if cert_file else "http"
    url = f"{scheme}://{shown}:{listener.getsockname()[1]}"

    def ready() -> None:
        if as_json:
            render.print_json({"url": url})
        else:
            render.say(f"listening  {url}/v1  (Ctrl-C stops it)\npage       {url}/")

    server.serve(
        settings,
        listener,
        ready,
        cert_file=cert_file,
        key_file=key_file,
        reader=reader_of(here),
    )


@key_app.command()
def add(
    requester: Annotated[str, typer.Argument(metavar="NAME", help="The requester it asks as.")],
    keys_file: KeysOption = None,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key for a requester. It is printed once, and stored nowhere.

    \b
    Example:  edgekit gateway key add alice
    """
    path = _keys(project_folder, keys_file)
    if sys.stdout is None:
        raise UsageError(
            "standard output is closed",
            "a key is printed once, and stored nowhere",
            "run it again where its output can be read",
        )
    key = keys.add(path, requester, datetime.datetime.now(tz=datetime.UTC).date())
    try:
        if as_json:
            render.print_json({"requester": requester, "key": key, "file": str(path)})
        else:
            render.say(key)
    except OSError:  # nobody has seen it
        keys.revoke(path, keys.id_of(key))
        raise


@key_app.command("list")
def list_(
    keys_file: KeysOption = None, project_folder: ProjectOption = None, as_json: JsonOption = False
) -> None:
    """Show which keys there are: the id, the requester and the day of each, never the key.

    \b
    Example:  edgekit gateway key list
    """
    found = keys.load(_keys(project_folder, keys_file))
    if as_json:
        told = [{"id": key.id, "requester": key.requester, "added": key.added} for key in found]
        render.print_json({"keys": told})
        return
    for key in found:
        render.say(f"{key.id}  {key.requester}  {key.added}")


@key_app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="A key's id, or a requester: all of its keys.")],
    keys_file: KeysOption = None,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take keys away: from its next request on, a gateway that runs refuses them.

    \b
    Example:  edgekit gateway key revoke alice
    """
    gone = keys.revoke(_keys(project_folder, keys_file), name)
    if as_json:
        render.print_json({"revoked": [key.id for key in gone]})
        return
    for key in gone:
        render.say(f"revoked  {key.id}  {key.requester}")
