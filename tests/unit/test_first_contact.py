"""Before and at a first contact: what a root can be, what fits, and a transfer that breaks off."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edgekit.bundle.tar import plain_tar
from edgekit.core.digest import Digest
from edgekit.core.manifest import (
    AGENT_TYPE,
    BUNDLE_TYPE,
    CONFIG_TYPE,
    MANIFEST_TYPE,
    PLATFORM,
    PYTHON,
    RUNTIME_TYPE,
    UNPACKED,
    Descriptor,
    Manifest,
)
from edgekit.errors import EdgekitError, UnreachableError, VerificationError
from edgekit.fleet import facts as told
from edgekit.fleet.drive import DeviceDriver
from edgekit.fleet.facts import DeviceFacts, parse_facts
from edgekit.fleet.inventory import Device
from edgekit.fleet.link.local import LocalRemote
from edgekit.fleet.plan import check_first_room, check_root

TAR = plain_tar([("edgekit/__init__.py", b"here"), ("edgekit/weights.py", os.urandom(1 << 20))])
NAME = hashlib.sha256(TAR).hexdigest()[:12]


class Link(LocalRemote):
    """A folder behind a link that breaks after some bytes, or damages them."""

    def __init__(self) -> None:
        self.room: int | None = None
        self.damage = 0
        self.sent: list[int] = []

    def append(
        self, source: Path, target: str, offset: int, progress: Callable[[int], None]
    ) -> None:
        data = source.read_bytes()[offset:]
        self.sent.append(len(data) if self.room is None else self.room)
        if self.damage:
            self.damage -= 1
            data = bytes(len(data))
        with Path(target).open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(data[: self.room])
        progress(self.sent[-1])
        if self.room is not None:
            raise UnreachableError("the transfer broke off")


def driver(link: Link, root: Path) -> DeviceDriver:
    return DeviceDriver("box", Device("local:box", python=sys.executable), link, str(root))


def test_a_first_contact_that_broke_off_goes_on_where_it_was(tmp_path: Path) -> None:
    link = Link()
    link.room = 700_000
    with pytest.raises(UnreachableError):
        driver(link, tmp_path / "root").bootstrap(NAME, TAR, lambda _: None)
    assert not (tmp_path / "root" / "bootstrap").exists()
    link.room = None
    events: list[tuple[int, int]] = []
    device = driver(link, tmp_path / "root")
    device.bootstrap(NAME, TAR, lambda event: events.append((event.sent, event.total)))
    left = len(TAR) - 700_000
    assert link.sent == [700_000, left]
    assert events[-1] == (left, left)
    assert device.facts.bootstrap == f"bootstrap-{NAME}"
    names = {path.name for path in (tmp_path / "root").iterdir()}
    assert names == {"bootstrap", f"bootstrap-{NAME}"}, "nothing is left of the transfer"


def test_a_first_contact_that_arrives_damaged_is_sent_again_once(tmp_path: Path) -> None:
    link = Link()
    link.damage = 1
    driver(link, tmp_path / "root").bootstrap(NAME, TAR, lambda _: None)
    assert link.sent == [len(TAR)] * 2
    link.damage = 9
    link.sent.clear()
    with pytest.raises(VerificationError, match="first contact failed"):
        driver(link, tmp_path / "other").bootstrap(NAME, TAR, lambda _: None)
    assert link.sent == [len(TAR)] * 2
    assert not list((tmp_path / "other").iterdir())


def test_a_device_that_has_the_bootstrap_gets_no_byte_again(tmp_path: Path) -> None:
    link = Link()
    root = tmp_path / "root"
    root.mkdir()
    (root / f".bootstrap-{NAME}.part").write_bytes(TAR)  # the answer was lost, not the bytes
    driver(link, root).bootstrap(NAME, TAR, lambda _: None)
    assert link.sent == []


# --- before a byte moves


def probed(root: str, home: Path) -> DeviceFacts:
    """What the probe says in an account with this home."""
    done = subprocess.run(
        [sys.executable, str(told.PROBE), root],
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        cwd=home,
        capture_output=True,
        check=True,
    )
    return parse_facts(done.stdout)


@pytest.mark.parametrize(
    ("root", "place"),
    [
        ("", ".local/share/edgekit"),
        ("~/x", "x"),
        ("relative/./folder/", "relative/folder"),
        ("~/$HOME", "$HOME"),
        ("a b'c\"d `id` *", "a b'c\"d `id` *"),
        ("größe 模型", "größe 模型"),
        ("here~", "here~"),
        ("link/inside", "link/inside"),
    ],
)
def test_a_root_is_taken_as_it_is_spelled(tmp_path: Path, root: str, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    found = probed(root, tmp_path)
    assert found.root == str(tmp_path / place)
    check_root(found)


@pytest.mark.parametrize(
    ("root", "why"),
    [
        ("file", "file is no folder"),
        ("file/below", "file is no folder"),
        ("nothing", "is a link to nothing"),
        ("~nobody-here/x", "~nobody-here is the home of no account there"),
        ("a:b", "a colon in it separates"),
    ],
)
def test_a_root_that_can_be_no_folder_is_refused(tmp_path: Path, root: str, why: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nothing").symlink_to("nowhere")
    with pytest.raises(EdgekitError, match="cannot be edgekit's folder") as raised:
        check_root(probed(root, tmp_path))
    assert why in raised.value.why
    assert "root=" in raised.value.next_step


def test_a_home_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    home = os.fsencode(tmp_path) + b"/gr\xfc\xdfe"
    Path(os.fsdecode(home)).mkdir()
    with pytest.raises(EdgekitError, match="cannot be edgekit's folder") as raised:
        check_root(probed("", Path(os.fsdecode(home))))
    assert "not UTF-8" in raised.value.why


def test_a_file_system_without_exec_is_refused_by_name(tmp_path: Path) -> None:
    """The runtime's libraries lie in ROOT, and the device could not load them."""
    namespace = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    script = 'mount -t tmpfs -o noexec none "$0" && exec "$@"'
    done = subprocess.run(
        [
            *(*namespace, "sh", "-c", script, str(tmp_path)),
            *(sys.executable, str(told.PROBE), str(tmp_path / "some" / "root")),
        ],
        capture_output=True,
        check=True,
    )
    with pytest.raises(EdgekitError, match="is mounted noexec") as raised:
        check_root(parse_facts(done.stdout))
    assert str(tmp_path) in raised.value.why
    assert parse_facts(done.stdout).noexec == str(tmp_path.resolve())


def test_a_disk_too_small_for_a_first_contact_is_told_before_a_byte(tmp_path: Path) -> None:
    def layer(kind: str, size: int, **annotations: str) -> Descriptor:
        return Descriptor(kind, Digest.of(kind.encode()), size, annotations)

    agent = layer(AGENT_TYPE, 10, **{UNPACKED: "100"})
    here = {PLATFORM: "linux/amd64", PYTHON: "3.11"}
    runtime = layer(RUNTIME_TYPE, 1000, **here, **{UNPACKED: "10000"})
    config = layer(CONFIG_TYPE, 1)
    manifest = Manifest(2, MANIFEST_TYPE, BUNDLE_TYPE, config, [agent, runtime])
    found = json.loads(msgspec.json.encode(probed("", tmp_path), enc_hook=str))
    scratch = (16 << 20) + (8 << 20) + 10_100 // 64
    needed = 1 + 10 + 100 + 1000 + 10000 + 2 * 5 + scratch + (64 << 20)

    def facts(**changed: object) -> DeviceFacts:
        return parse_facts(json.dumps(found | changed).encode())

    check_first_room(facts(free_bytes=needed, disk_bytes=1), manifest, runtime, 5)
    with pytest.raises(EdgekitError, match="the disk of the device is too small") as raised:
        check_first_room(facts(free_bytes=needed - 1, disk_bytes=1), manifest, runtime, 5)
    assert f"{needed:,} bytes are needed" in raised.value.why
    assert "1 are lacking" in raised.value.why
    with pytest.raises(EdgekitError, match="the disk of the device is too small"):
        check_first_room(facts(free_bytes=needed, disk_bytes=1 << 40), manifest, runtime, 5)
    check_first_room(facts(free_bytes=0, bootstrap="bootstrap-1"), manifest, runtime, 5)
