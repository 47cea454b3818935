"""`broker run`: the embedded broker in the foreground. `broker acl`: the files of a real one."""

from __future__ import annotations

import secrets
import signal
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import project, render
from edgekit.cli.options import JsonOption, ProjectOption
from edgekit.client.brokerfiles import SALT_BYTES, Account, BrokerSetup, files
from edgekit.client.devbroker import embedded_broker
from edgekit.core.config import check_name
from edgekit.errors import UsageError
from edgekit.store import publish

PASSWORD_BYTES = 24  # of randomness
PLUGIN = "mosquitto_dynamic_security.so"  # below /usr/lib in Debian's package mosquitto

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """A broker in a wheel, for trials, and the files of a Mosquitto for a fleet."""


@app.command()
def run(
    port: Annotated[int, typer.Option(help="Port on loopback.")] = 1883,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Run an MQTT 5 broker until Ctrl-C. For trials: it asks nobody for a password.

    \b
    Example:  edgekit broker run --port 1883
    """
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    with embedded_broker(host, port):
        render.say(f"broker listening on {host}:{port}; Ctrl-C stops it")
        signal.pause()


@app.command()
def acl(
    folder: Annotated[Path, typer.Argument(help="Where mosquitto/ and passwords/ are written.")],
    requester: Annotated[
        list[str] | None,
        typer.Option(help="Who may prompt, repeatable; default: this project's requester."),
    ] = None,
    dynamic_security: Annotated[
        bool,
        typer.Option("--dynamic-security", help="Roles for Mosquitto's plugin, not an ACL file."),
    ] = False,
    plugin: Annotated[str, typer.Option(help=f"Path of {PLUGIN}; default: this machine's.")] = "",
    installed_in: Annotated[
        str, typer.Option(help="Where mosquitto/ will lie; default: where it is written.")
    ] = "",
    data: Annotated[
        str, typer.Option(help="Where Mosquitto keeps its database.")
    ] = "/var/lib/mosquitto",
    cert_file: Annotated[
        str, typer.Option(help="The broker's certificate.")
    ] = "/etc/mosquitto/certs/broker.crt",
    key_file: Annotated[str, typer.Option(help="Its key.")] = "/etc/mosquitto/certs/broker.key",
    ca_file: Annotated[
        str, typer.Option(help="The CA of devices and requesters.")
    ] = "/etc/mosquitto/ca_certificates/ca.crt",
    crl_file: Annotated[str, typer.Option(help="Its list of revoked certificates.")] = "",
    host: Annotated[str, typer.Option(help="Address to listen on; default: all.")] = "",
    port: Annotated[int, typer.Option(help="For clients with a certificate.")] = 8883,
    password_port: Annotated[
        int, typer.Option(help="For clients with a password; 0: there is none.")
    ] = 8884,
    bind_client_ids: Annotated[
        bool,
        typer.Option(help="Client identifiers are the user names: one connection for each."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the files of mosquitto/; passwords stay.")
    ] = False,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write what a Mosquitto needs to serve this fleet: TLS, accounts, and who may do what.

    Each device and requester gets a password in a file of its own below passwords/, which is
    printed nowhere and stays the same when the files are written again.

    \b
    Example:  edgekit broker acl broker --requester alice --requester gateway
              edgekit broker acl broker --dynamic-security --crl-file /etc/mosquitto/ca.crl
    """
    here = project.find(project_folder)
    fleet = here.fleet()
    names = [check_name("requester", name) for name in requester or [here.requester]]
    if both := sorted(set(names) & set(fleet.devices)):
        raise UsageError(
            f"{', '.join(both)} cannot be a device and a requester",
            "a device may not prompt, and a requester may not say that it is a device",
            "give the requester another name",
        )
    broker = folder / "mosquitto"
    setup = BrokerSetup(
        devices={name: tuple(device.pools) for name, device in fleet.devices.items()},
        requesters=tuple(dict.fromkeys(names)),
        folder=installed_in or str(broker.resolve()),
        data=data,
        cert_file=cert_file,
        key_file=key_file,
        ca_file=ca_file,
        crl_file=crl_file,
        host=host,
        port=port,
        password_port=password_port,
        plugin=(plugin or _plugin()) if dynamic_security else "",
        bind_client_ids=bind_client_ids,
    )
    passwords = {name: folder / "passwords" / name for name in (*setup.devices, *setup.requesters)}
    secret = {
        name: _kept(path) or secrets.token_urlsafe(PASSWORD_BYTES)
        for name, path in passwords.items()
    }
    made = files(
        setup,
        [Account(name, text, secrets.token_bytes(SALT_BYTES)) for name, text in secret.items()],
    )
    there = [str(broker / name) for name in made if (broker / name).exists()]
    if there and not force:
        raise UsageError(
            f"{folder} has these files already", ", ".join(there), "--force replaces them"
        )
    broker.mkdir(parents=True, exist_ok=True)
    (folder / "passwords").mkdir(mode=0o700, exist_ok=True)
    for name, path in passwords.items():
        if not path.exists():
            publish(path, f"{secret[name]}\n".encode(), 0o600)
    for name, (content, mode) in made.items():
        publish(broker / name, content, mode)
    if as_json:
        written = {"files": [broker / name for name in made], "passwords": passwords}
        render.print_json(written)
        return
    for name in made:
        render.say(f"wrote     {broker / name}")
    for name, path in passwords.items():
        render.say(f"password  {path}  ({'device' if name in setup.devices else 'requester'})")


def _kept(path: Path) -> str:
    """The password that was made before, or empty."""
    try:
        text = path.read_text("utf-8").strip()
    except FileNotFoundError:
        return ""
    if not text:
        raise UsageError(f"{path} is empty", next_step="remove it, and a new password is made")
    return text


def _plugin() -> str:
    for path in sorted(Path("/usr/lib").glob(f"*/{PLUGIN}")):
        return str(path)
    raise UsageError(
        f"{PLUGIN} is not on this machine",
        "Debian's package mosquitto has it below /usr/lib",
        "name its path on the broker's machine with --plugin",
    )
