"""`broker run`: the embedded broker in the foreground. `broker acl`: the files of a real one."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from edgekit.broker.embedded import embedded_broker
from edgekit.broker.mosquitto import BrokerSetup, RuleTopics, gateways, operators, requesters
from edgekit.broker.write import PLUGIN, files_folder, find_plugin, write
from edgekit.cli import project, render
from edgekit.cli.options import MOST_PORT, JsonOption, ProjectOption

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Run a broker for trials, or write the files of a Mosquitto for a fleet.

    \b
    Example:  edgekit broker run
    """


@app.command()
def run(
    port: Annotated[int, typer.Option(min=1, max=MOST_PORT, help="Port to listen on.")] = 1883,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Run an MQTT 5 broker until Ctrl-C. For trials: it asks for no password.

    \b
    Example:  edgekit broker run --port 1883
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # also where SIGINT is ignored
    with embedded_broker(host, port):
        render.say(f"broker listening on {host}:{port}; Ctrl-C stops it")
        signal.pause()


@app.command()
def acl(
    folder: Annotated[Path, typer.Argument(help="Where mosquitto/ and passwords/ are written.")],
    requester: Annotated[
        list[str] | None,
        typer.Option(help="Requester that may prompt, repeatable; default: this project's."),
    ] = None,
    operator: Annotated[
        list[str] | None,
        typer.Option(help="Account that says what devices that pull shall run, repeatable."),
    ] = None,
    gateway: Annotated[
        list[str] | None,
        typer.Option(help="Account of an `edgekit gateway`: it asks for all these requesters."),
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
    port: Annotated[
        int, typer.Option(min=1, max=MOST_PORT, help="For clients with a certificate.")
    ] = 8883,
    password_port: Annotated[
        int,
        typer.Option(min=0, max=MOST_PORT, help="For clients with a password; 0: there is none."),
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
    """Write the files with which a Mosquitto serves this fleet: TLS, accounts and their rights.

    Each device and requester gets a password in a file of its own below passwords/. The command
    never prints it, and keeps it when it writes the files again.

    \b
    Example:  edgekit broker acl broker --requester alice --gateway openai
              edgekit broker acl broker --dynamic-security --crl-file /etc/mosquitto/ca.crl
    """
    here = project.find(project_folder)
    fleet = here.fleet()
    names = requesters(requester or [here.requester], fleet.devices)
    ordering = operators(operator or [], (*fleet.devices, *names))
    setup = BrokerSetup(
        devices={name: tuple(device.pools) for name, device in fleet.devices.items()},
        requesters=names,
        operators=ordering,
        gateways=gateways(gateway or [], (*fleet.devices, *names, *ordering)),
        groups={
            name: tuple(config.groups)
            for name in fleet.devices
            if (config := fleet.pull_of(name)).registry
        },
        rules={
            name: RuleTopics.of(name, device.rules)
            for name, device in fleet.devices.items()
            if device.rules
        },
        shown=tuple(name for name, device in fleet.devices.items() if device.home_assistant),
        folder=installed_in or str(files_folder(folder).resolve()),
        data=data,
        cert_file=cert_file,
        key_file=key_file,
        ca_file=ca_file,
        crl_file=crl_file,
        host=host,
        port=port,
        password_port=password_port,
        plugin=(plugin or find_plugin()) if dynamic_security else "",
        bind_client_ids=bind_client_ids,
    )
    written = write(folder, setup, force=force)
    if as_json:
        render.print_json(written)
        return
    for path in written.files:
        render.say(f"wrote     {path}")
    for name, path in written.passwords.items():
        kinds = {"device": setup.devices, "operator": setup.operators, "gateway": setup.gateways}
        kind = next((kind for kind, names in kinds.items() if name in names), "requester")
        render.say(f"password  {path}  ({kind})")
