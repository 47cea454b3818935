"""Which agent runs the verbs of a push, and in which form a release is offered to it."""

from __future__ import annotations

import msgspec
import pytest

from edgekit.cli.render import named
from edgekit.core.digest import Digest
from edgekit.core.manifest import (
    AGENT_TYPE,
    BUNDLE_TYPE,
    CONFIG_TYPE,
    MANIFEST_TYPE,
    UPDATER,
    Descriptor,
    Manifest,
    encode,
)
from edgekit.fleet import inventory
from edgekit.fleet.commands import Argv, CommandResult
from edgekit.fleet.drive import DeviceDriver
from edgekit.fleet.facts import DeviceFacts
from edgekit.fleet.plan import needs_updater
from edgekit.trust.pinned import PinnedManifest, pin
from edgekit.trust.signed import Metadata, Offered

DIGEST = Digest.of(b"x")
METADATA = Metadata(["root"], "timestamp", "snapshot", "targets")


def bundle(updater: str | None) -> PinnedManifest:
    notes = {} if updater is None else {UPDATER: updater}
    agent = Descriptor(AGENT_TYPE, DIGEST, 1, notes)
    config = Descriptor(CONFIG_TYPE, DIGEST, 1)
    data = encode(Manifest(2, MANIFEST_TYPE, BUNDLE_TYPE, config, [agent]))
    return pin(data, Digest.of(data))


def facts(current: PinnedManifest | None, damage: str = "") -> DeviceFacts:
    return DeviceFacts(
        *("/r", "x86_64", "3.11", "/bin/python3", "2.36", 1, True),
        current=current.digest if current else None,
        bootstrap="bootstrap-1",
        manifest=(current.data.decode() if current else "") + damage,
    )


@pytest.mark.parametrize(
    ("device", "pushed", "bootstrap"),
    [
        (None, None, True),
        (None, "1", True),
        ("no agent", "1", True),
        ("no agent", None, True),
        ("1", "1", False),
        ("1", None, False),
        ("1", "2", True),
        ("2", "1", False),
        ("x", "1", True),
    ],
)
def test_an_agent_that_stages_in_an_older_way_gets_the_new_one_first(
    device: str | None, pushed: str | None, bootstrap: bool
) -> None:
    current = None if device == "no agent" else bundle(device)
    found = needs_updater(facts(current), bundle(pushed).manifest)
    assert found == (bootstrap if (device, pushed) != (None, None) else False)


def test_an_agent_whose_manifest_is_damaged_gets_the_new_one_first() -> None:
    assert needs_updater(facts(bundle("1"), damage=" "), bundle("1").manifest)


class Recorder:
    """A device that notes what it is told."""

    def __init__(self, found: DeviceFacts) -> None:
        self._facts = found
        self.told: list[tuple[Argv, bytes]] = []

    def run(self, argv: Argv, stdin: bytes = b"", seconds: float = 0.0) -> CommandResult:
        if argv[1] == "-":
            return CommandResult(0, msgspec.json.encode(self._facts, enc_hook=str), b"")
        self.told.append((argv, stdin))
        return CommandResult(0, b'{"missing": [], "warnings": ["half of its life is over"]}', b"")

    def append(self, *arguments: object) -> None: ...

    def bring(self, *arguments: object, **more: object) -> str:
        return ""

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("device", "pushed", "signed"),
    [("1", "1", True), ("1", None, True), (None, "1", False), ("none", "1", True),
     ("none", None, False)],
)  # fmt: skip
def test_an_agent_of_before_gets_the_manifest_alone(
    device: str | None, pushed: str | None, signed: bool
) -> None:
    recorder = Recorder(facts(None if device == "none" else bundle(device)))
    driver = DeviceDriver("pi", inventory.Device("ssh:pi"), recorder, "/r")
    pinned = bundle(pushed)
    assert driver.offer(pinned, METADATA).warnings == ["half of its life is over"]
    ((argv, stdin),) = recorder.told
    assert argv[-2:] == (str(pinned.digest), "--offer")
    if signed:
        offered = msgspec.json.decode(stdin, type=Offered)
        assert (offered.manifest.encode(), offered.metadata) == (pinned.data, METADATA)
    else:
        assert stdin == pinned.data


def test_a_device_s_next_step_gets_the_names_that_it_does_not_know() -> None:
    said = (
        "`edgekit rollback` goes to the previous release; `edgekit sign NAME:VERSION --rollback` "
        "permits a downgrade"
    )
    assert named(said, "pi", "phi:1") == (
        "`edgekit rollback pi` goes to the previous release; `edgekit sign phi:1 --rollback` "
        "permits a downgrade"
    )
