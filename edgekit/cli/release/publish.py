"""`publish`: a bundle to a registry. `desired`: what a group of devices that pull shall run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from edgekit.bundle.publish import PublishedBundle, publish_metadata
from edgekit.bundle.publish import publish as send
from edgekit.cli import project, render
from edgekit.cli.options import JsonOption, ProjectOption
from edgekit.cli.release.sign import BundleArgument
from edgekit.cli.release.trust import present, reference_of, trust_of
from edgekit.core.protocol import topics
from edgekit.core.protocol.payloads import DesiredPayload
from edgekit.core.registry import RegistryAddress, parse_registry
from edgekit.errors import UsageError
from edgekit.fleet.inventory import Fleet
from edgekit.fleet.pulling.desk import PullDesk
from edgekit.registry.client import RegistryAccess, RegistryClient
from edgekit.signing.releases import vouch
from edgekit.trust.pinned import PinnedManifest
from edgekit.trust.signed import Metadata

RegistryOption = Annotated[
    str, typer.Option("--to", help="[https://]HOST[:PORT]/REPOSITORY; default: as devices name it.")
]


def publish(
    bundle: BundleArgument = None,
    to: RegistryOption = "",
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a bundle and what signs it to a registry, from which devices pull it.

    What the registry has already is not sent. The login is that of [registry] in edgekit.toml.

    \b
    Example:  edgekit publish smollm2:2
              edgekit publish smollm2:2 --to registry.example/fleet/models
    """
    here = project.find(project_folder)
    pinned = here.store.resolve(bundle)
    reference = reference_of(here.store, pinned)
    vouched = vouch(trust_of(here.folder), pinned.digest, reference, present())
    for warning in vouched.warnings:
        render.warn(warning)
    done = upload(here, here.fleet(), pinned, vouched.metadata, to)
    if as_json:
        render.print_json(done)
        return
    sent = f"{done.blobs_sent} blobs, {render.size(done.bytes_sent)}" if done.blobs_sent else ""
    there = f"{done.blobs_there} blobs were there" if done.blobs_there else ""
    said = "; ".join(filter(None, (sent, there)))
    render.say(f"published {reference} to {done.registry}:{done.tag}  ({said})")


def upload(
    here: project.Project,
    fleet: Fleet,
    pinned: PinnedManifest,
    metadata: Metadata,
    to: str = "",
) -> PublishedBundle:
    """Publish a bundle, with progress; raises what `bundle.publish.publish` raises."""
    with _publisher(here, fleet, to) as client, render.transferring("publish") as bar:
        return send(client, here.store, pinned, metadata, bar)


def upload_metadata(here: project.Project, fleet: Fleet, metadata: Metadata) -> None:
    """Publish what signs the project's releases; raises what `bundle.publish.publish` raises."""
    with _publisher(here, fleet, "") as client:
        publish_metadata(client, metadata)


@contextmanager
def _publisher(here: project.Project, fleet: Fleet, to: str) -> Iterator[RegistryClient]:
    own = here.config.registry
    address = _address(here, fleet, to)
    access = RegistryAccess(address, own.username, own.password_file, own.ca_file)
    client = RegistryClient(access, pushes=True)
    try:
        yield client
    finally:
        client.close()


def _address(here: project.Project, fleet: Fleet, to: str) -> RegistryAddress:
    """Where this machine publishes; raises UsageError if nobody says it."""
    own = here.config.registry
    told = to or own.address or str(fleet.pull.get("registry", ""))
    plain = own.plain_http or bool(fleet.pull.get("plain_http", False))
    if not told:
        raise UsageError(
            "there is no registry to publish to",
            "neither --to, nor [registry] of edgekit.toml, nor [pull] of fleet.toml names one",
            "add it to fleet.toml: [pull] registry = 'registry.example/fleet/models'",
        )
    try:
        return parse_registry(told, plain_http=plain)
    except ValueError as error:
        raise UsageError(
            "the registry's address cannot be used",
            str(error),
            "correct --to, or what fleet.toml or edgekit.toml names",
        ) from None


@contextmanager
def at_desk(here: project.Project) -> Iterator[PullDesk]:
    """An operator's connection to the broker, for the length of a block."""
    desk = PullDesk(here.operator_broker)
    desk.connect()
    try:
        yield desk
    finally:
        desk.close()


def desired(
    group: Annotated[str, typer.Argument(help="A group of fleet.toml.")],
    bundle: BundleArgument = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="Take the group's desired state away.")
    ] = False,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a group of devices that pull shall run, but for devices that were told themselves.

    It is for devices that come later, such as one that is unpacked next month: they pull the
    release as soon as they are connected. There are no waves: a rollout is `edgekit push`.

    \b
    Example:  edgekit desired kiosks smollm2:2
              edgekit desired kiosks --clear
    """
    here = project.find(project_folder)
    fleet = here.fleet()
    if group not in fleet.groups:
        raise UsageError(
            f"fleet.toml has no group {group!r}",
            f"it has {', '.join(fleet.groups) or 'none'}",
            "correct the name, or add the group to the file",
        )
    if clear == (bundle is not None):
        raise UsageError("name a bundle, or --clear", next_step=f"edgekit desired {group} NAME:V")
    told = None
    if not clear:
        pinned = here.store.resolve(bundle)
        reference = reference_of(here.store, pinned)
        vouched = vouch(trust_of(here.folder), pinned.digest, reference, present())
        upload(here, fleet, pinned, vouched.metadata)
        told = (pinned.digest, reference)
    with at_desk(here) as desk:
        payload = None
        if told is not None:
            payload = DesiredPayload(str(told[0]), told[1], 0, desk.next_order(group), True)
        desk.say(topics.group_desired_topic(group), payload)
    if as_json:
        render.print_json({"group": group, "desired": payload})
        return
    render.say(f"{group} shall run {told[1]}" if told else f"{group} has no desired state any more")
