"""A device stages from a folder, such as a USB stick, with no network at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.permission import check_activation, describe_trust
from edgekit.core.digest import Digest
from tests.attacked import FIRST, GOOD, NEXT, Device, make_device, snapshot
from tests.metadata_maker import Maker, write_export


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return make_device(tmp_path / "root")


# --- no network


def test_a_stick_is_staged_in_a_namespace_without_any_network(
    device: Device, tmp_path: Path
) -> None:
    device.maker.sign(NEXT.manifest, GOOD + 1)
    device.maker.bump()
    stick = tmp_path / "stick"
    write_export(stick, device.maker.made(), NEXT.blobs)
    namespace = ["unshare", "--net"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    alone = "import socket; print(*(name for _, name in socket.if_nameindex()))"
    seen = subprocess.run(
        [*namespace, sys.executable, "-c", alone], capture_output=True, text=True, check=True
    )
    assert seen.stdout.split() == ["lo"], "nothing but a loopback, and that one is down"
    command = [*namespace, sys.executable, "-m", "edgekit.agent", "stage", NEXT.digest]
    command += ["--from", str(stick), "--root", str(device.root.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    answer = json.loads(done.stdout)
    assert done.returncode == 0, answer
    assert answer["copied"] == sum(len(data) for data in (NEXT.blobs[2], NEXT.blobs[3]))
    assert device.root.release(NEXT.digest).exists()
    assert not device.root.lease_file.exists()
    check_activation(device.root, NEXT.digest)
    before = snapshot(device.root.path)
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert json.loads(again.stdout) == answer | {"copied": 0}
    assert snapshot(device.root.path) == before


def test_a_stick_is_enough_for_a_device_that_trusts_nothing_yet(tmp_path: Path) -> None:
    maker = Maker()
    for step in range(3):
        maker.rotate("targets", f"targets {step}")
    maker.sign(FIRST.manifest, 1)
    write_export(tmp_path / "stick", maker.made(), FIRST.blobs)
    device = Device(Root(tmp_path / "root"), maker)
    code, answer = device.verb("stage", FIRST.digest, "--from", str(tmp_path / "stick"))
    assert code == 0, answer
    assert describe_trust(device.root)["root"] == 4


def test_a_tar_is_no_folder(device: Device, tmp_path: Path) -> None:
    (tmp_path / "export.tar").write_bytes(b"")
    for name in ("export.tar", "nothing"):
        code, answer = device.verb("stage", NEXT.digest, "--from", str(tmp_path / name))
        assert (code, "is no folder" in answer["what"]) == (2, True)


def test_a_stick_that_was_pulled_out_can_be_put_in_again(device: Device, tmp_path: Path) -> None:
    device.maker.sign(NEXT.manifest, GOOD + 1)
    device.maker.bump()
    stick = tmp_path / "stick"
    write_export(stick, device.maker.made(), NEXT.blobs)
    half = tmp_path / "half"
    shutil.copytree(stick, half)
    next(p for p in (half / "blobs" / "sha256").iterdir() if p.name == _weights()).unlink()
    code, answer = device.verb("stage", NEXT.digest, "--from", str(half))
    assert (code, "is missing" in answer["what"]) == (4, True)
    code, answer = device.verb("stage", NEXT.digest, "--from", str(stick))
    assert code == 0, answer


def _weights() -> str:
    return Digest.of(NEXT.blobs[2]).hex
