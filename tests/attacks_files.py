"""Attacks by files: layers, links in the place of ROOT's folders, and sticks that lie."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

from edgekit.core.digest import Digest
from tests.attacked import (
    ATTACKS,
    FIRST,
    GOOD,
    NEXT,
    TREE,
    Attack,
    Device,
    attack,
    bundle,
    snapshot,
)
from tests.metadata_maker import write_export

# --- layers


def _tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def _sparse() -> bytes:
    """A file of 1 TB in two blocks (GNU sparse format 1.0)."""
    info = _member("GNUSparseFile.0/hole")
    info.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "hole",
        "GNU.sparse.realsize": str(1 << 40),
    }  # fmt: skip
    return _tar((info, b"1\n0\n1\n".ljust(512, b"\0") + b"x"))


TREES = {
    "path out of a tree": _tar((_member("../../../etc/cron.d/x"), b"x")),
    "absolute path": _tar((_member("/etc/cron.d/x"), b"x")),
    "path that goes up inside": _tar((_member("a/../../../b"), b"x")),
    "link out of a tree": _tar(
        (_member("out", tarfile.SYMTYPE, "/etc"), b""), (_member("out/x"), b"x")
    ),
    "link inside": _tar((_member("a"), b"x"), (_member("b", tarfile.SYMTYPE, "a"), b"")),
    "hard link": _tar((_member("shadow", tarfile.LNKTYPE, "/etc/shadow"), b"")),
    "device": _tar((_member("sda", tarfile.BLKTYPE), b"")),
    "pipe": _tar((_member("pipe", tarfile.FIFOTYPE), b"")),
    "sparse file": _sparse(),
    "one path twice": _tar((_member("a"), b"x"), (_member("a"), b"y")),
    "file as a folder": _tar((_member("a"), b"x"), (_member("a/b"), b"y")),
    "folder as a file": _tar((_member("a/b"), b"x"), (_member("a"), b"y")),
    "empty path": _tar((_member("."), b"x")),
    "path that is too long": _tar((_member("a" * 4000), b"x")),
    "no tar": b"x" * 5000,
    "cut tar": _tar((_member("a"), b"x" * 9000))[:3000],
}


def _layer(tree: bytes, layer: bytes = b"", unpacked: int = -1) -> Attack:
    def run(device: Device, _: Path) -> tuple[int, dict[str, Any]]:
        bad = bundle("bad", tree, layer, unpacked)
        device.push(bad, GOOD + 1)
        return device.verb("stage", bad.digest)

    return run


def _zeros(megabytes: int, window_log: int = 20) -> bytes:
    settings = zstandard.ZstdCompressionParameters.from_level(3, window_log=window_log)
    press = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    head = _member("zeros")
    head.size = megabytes << 20
    parts = [press.compress(head.tobuf())]
    parts += [press.compress(bytes(1 << 20)) for _ in range(megabytes)]
    return b"".join((*parts, press.flush()))


for _name, _tree in TREES.items():
    ATTACKS[_name] = _layer(_tree)
ATTACKS["zip bomb"] = _layer(TREE, _zeros(64), 10_240)
ATTACKS["window of a gigabyte"] = _layer(TREE, _zeros(1, window_log=27), 2 << 20)
ATTACKS["layer that is no zstd"] = _layer(TREE, b"not zstd" * 100)


# --- links in the place of ROOT's folders and files


def _linked(name: str) -> Attack:
    def run(device: Device, folder: Path) -> tuple[int, dict[str, Any]]:
        path = device.root.path / name
        there = folder / "elsewhere"
        path.rename(there)
        path.symlink_to(there)
        before = snapshot(folder)
        device.mark()
        device.maker.sign(NEXT.manifest, GOOD + 1)
        device.maker.bump()
        answer = device.offer(NEXT, device.maker.made())
        assert snapshot(folder) == before
        return answer

    return run


for _name in (
    *("etc", "etc/trust", "etc/trust/trusted.json", "etc/trust/first.root.json", "blobs"),
    *("blobs/sha256", "releases", "trees", "run", "state.db", f"releases/{FIRST.digest.hex}"),
):
    ATTACKS[f"symbolic link at {_name.replace(FIRST.digest.hex, 'RELEASE')}"] = _linked(_name)


@attack("blob that is a symbolic link")
def _linked_blob(device: Device, folder: Path) -> tuple[int, dict[str, Any]]:
    """It would stay a link in the release, and its content could change later."""
    device.push(NEXT, GOOD + 1)
    path = device.root.store.path(Digest.of(NEXT.blobs[2]))
    there = folder / "weights"
    path.rename(there)
    path.symlink_to(there)
    answer = device.verb("stage", NEXT.digest)
    device.mark()  # the link is dropped: the next push sends the blob
    assert not path.is_symlink()
    assert not device.root.release(NEXT.digest).exists()
    return answer


# --- folders and sticks


def _source(spoil: Callable[[Path], None]) -> Attack:
    def run(device: Device, folder: Path) -> tuple[int, dict[str, Any]]:
        device.maker.sign(NEXT.manifest, GOOD + 1)
        device.maker.bump()
        write_export(folder / "stick", device.maker.made(), NEXT.blobs)
        spoil(folder / "stick")
        return device.verb("stage", NEXT.digest, "--from", str(folder / "stick"))

    return run


def _blob(stick: Path, index: int = 2) -> Path:
    return stick / "blobs" / "sha256" / Digest.of(NEXT.blobs[index]).hex


def _replaced(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def _link(path: Path) -> None:
    there = path.with_name("real")
    path.rename(there)
    path.symlink_to(there)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


SOURCES: dict[str, Callable[[Path], None]] = {
    "truncated source": lambda stick: os.truncate(_blob(stick), 9),
    "source with more bytes": lambda s: _replaced(_blob(s), NEXT.blobs[2] + b"!"),
    "lying source": lambda s: _replaced(_blob(s), bytes(len(NEXT.blobs[2]))),
    "lying source of a layer": lambda s: _replaced(_blob(s, 3), bytes(len(NEXT.blobs[3]))),
    "lying manifest": lambda s: _replaced(_blob(s, 0), FIRST.manifest),
    "endless manifest": lambda s: os.truncate(_blob(s, 0), 9 << 30),
    "link in a source": lambda s: _link(_blob(s)),
    "pipe in a source": lambda s: _pipe(_blob(s)),
    "blob missing from a source": lambda s: _blob(s).unlink(),
    "endless timestamp in a source": lambda s: os.truncate(s / "metadata/timestamp.json", 9 << 30),
    "timestamp missing from a source": lambda s: (s / "metadata/timestamp.json").unlink(),
    "metadata missing from a source": lambda s: shutil.rmtree(s / "metadata"),
    "link as the timestamp of a source": lambda s: _link(s / "metadata/timestamp.json"),
    "pipe as the timestamp of a source": lambda s: _pipe(s / "metadata/timestamp.json"),
    "no JSON in a source": lambda s: _replaced(s / "metadata/timestamp.json", b"\xff\0"),
}
for _name, _spoil in SOURCES.items():
    ATTACKS[_name] = _source(_spoil)


@attack("older release on a stick")
def _old_stick(device: Device, folder: Path) -> tuple[int, dict[str, Any]]:
    device.maker.sign(NEXT.manifest, GOOD - 1)
    device.maker.bump()
    write_export(folder / "stick", device.maker.made(), NEXT.blobs)
    return device.verb("stage", NEXT.digest, "--from", str(folder / "stick"))


@attack("unlisted release on a stick")
def _unlisted_stick(device: Device, folder: Path) -> tuple[int, dict[str, Any]]:
    device.maker.bump()
    write_export(folder / "stick", device.maker.made(), NEXT.blobs)
    return device.verb("stage", NEXT.digest, "--from", str(folder / "stick"))


@attack("zip bomb on a stick")
def _bomb_stick(device: Device, folder: Path) -> tuple[int, dict[str, Any]]:
    bad = bundle("bad", TREE, _zeros(64), 10_240)
    device.maker.sign(bad.manifest, GOOD + 1)
    device.maker.bump()
    write_export(folder / "stick", device.maker.made(), bad.blobs)
    return device.verb("stage", bad.digest, "--from", str(folder / "stick"))
