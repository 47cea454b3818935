"""`edgekit fleet check` over a real sshd, beside devices that hang, refuse, or are not there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgekit.agent.release.door import probe
from tests import tools
from tests.commands import edgekit
from tests.harness.door import Place, device_with_door

pytestmark = pytest.mark.timeout(120)


@dataclass
class World:
    """A project whose devices are as devices are."""

    folder: Path
    place: Place

    def edgekit(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            edgekit(*words),
            cwd=self.folder,
            env=os.environ,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def checked(self, *words: str) -> tuple[int, dict[str, Any]]:
        done = self.edgekit("fleet", "check", *words, "--json")
        told = json.loads(done.stdout)["devices"]
        return done.returncode, {each["device"]: each for each in told}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("project")
    (folder / "edgekit.toml").touch()
    with (
        device_with_door(tmp_path_factory.mktemp("door"), tmp_path_factory.mktemp("login")) as box,
        socket.socket() as silent,
    ):
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # a connection is made by the kernel, and nobody says a word
        server, config = box.login.server, box.login.config
        other = folder / "other"
        keygen = [tools.find("ssh-keygen"), "-qt", "ed25519", "-N", "", "-f", str(other)]
        subprocess.run(keygen, check=True)
        kind, key, *_ = other.with_suffix(".pub").read_text().split()
        (folder / "changed").write_text(f"[127.0.0.1]:{server.port} {kind} {key}\n")
        config.write_text(
            config.read_text()
            + f"Host changed\n  HostName 127.0.0.1\n  Port {server.port}\n"
            + f"  UserKnownHostsFile {folder / 'changed'}\n"
            + "".join(
                f"Host {name}\n  HostName 127.0.0.1\n  Port {port}\n"
                for name, port in (("off", tools.free_port()), ("hangs", silent.getsockname()[1]))
            )
        )
        (folder / "fleet.toml").write_text(
            "".join(
                f'[devices.{name}]\naddress = "{address}"\n'
                for name, address in (
                    *(("box", "ssh:device"), ("here", "local:here"), ("off", "ssh:off")),
                    *(("hangs", "ssh:hangs"), ("changed", "ssh:changed")),
                )
            )
        )
        (folder / "here").mkdir()
        yield World(folder, box)


def test_a_device_says_its_hardware_its_clock_and_what_runs(world: World) -> None:
    before = world.place.untouched()
    code, told = world.checked("box")
    pi = told["box"]
    assert code == 0, pi
    assert (
        pi["platform"] == f"linux/{ {'x86_64': 'amd64', 'aarch64': 'arm64'}[os.uname().machine] }"
    )
    assert pi["hardware_class"].startswith(pi["platform"])
    assert pi["root"] == str(world.place.box.root.path)
    assert pi["ram_bytes"] == probe.memory(pi["root"])
    assert 0 < pi["free_bytes"] <= pi["disk_bytes"]
    assert pi["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert pi["glibc"].startswith("2.")
    assert pi["system"]
    assert abs(pi["clock_offset_seconds"]) <= pi["clock_error_seconds"] < 10
    release = pi["release"]
    assert release["digest"] == str(world.place.good)
    assert (release["state"], release["answering"]) == ("good", True)
    assert (pi["supervisor"], pi["enrolled"], pi["account_only"]) == ("detached", False, True)
    assert pi["trouble"] == []
    assert world.place.untouched() == before


def test_every_device_is_told_with_its_own_reason_and_none_waits_for_another(world: World) -> None:
    began = time.monotonic()
    done = world.edgekit("fleet", "check", "--timeout", "8")
    took = time.monotonic() - began
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    shown = {line.split()[0]: line for line in done.stdout.splitlines() if line.split()}
    assert "good, answers" in shown["box"]
    assert "nothing" in shown["here"]
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "hangs: the device did not answer within 8 s" in done.stderr
    assert "off: off cannot be reached" in done.stderr
    assert "has changed" in done.stderr
    assert f"ssh-keygen -R '[127.0.0.1]:{world.place.login.server.port}'" in done.stderr
    assert "2 of 5 devices are well" in done.stderr
    assert took < 40  # one after the other they would need the deadline of each


def test_one_connection_at_a_time_finds_the_same(world: World) -> None:
    code, told = world.checked("--parallel", "1", "--timeout", "8")
    assert code == 3
    assert list(told) == ["box", "here", "off", "hangs", "changed"]
    assert [each["reached"] for each in told.values()] == [True, True, False, False, False]
    assert {each.get("error", {}).get("error") for each in told.values()} == {
        *(None, "UnreachableError", "VerificationError"),
    }


def test_two_hosts_of_ssh_that_are_one_device_are_named(world: World) -> None:
    config, fleet = world.place.login.config, world.folder / "fleet.toml"
    kept, told = config.read_text(), fleet.read_text()
    try:
        config.write_text(kept.replace("Host device\n", "Host device twin\n", 1))
        fleet.write_text(told + '[devices.twin]\naddress = "ssh:twin"\n')
        code, found = world.checked("box", "twin", "here")
        assert code == 3
        for name in ("box", "twin"):
            assert "box and twin are one device" in found[name]["error"]["what"]
        assert found["here"]["reached"]
    finally:
        config.write_text(kept)
        fleet.write_text(told)


def test_no_device_that_is_well_is_exit_code_1(world: World) -> None:
    code, told = world.checked("off", "changed")
    assert code == 1
    assert told["off"]["error"]["next"]


def test_a_device_whose_agent_was_stopped_is_not_well(world: World) -> None:
    assert world.edgekit("stop", "box").returncode == 0
    try:
        code, told = world.checked("box", "here")
        assert code == 3
        assert told["box"]["release"]["stopped"] is True
        assert told["box"]["trouble"] == ["an operator stopped it"]
    finally:
        assert world.edgekit("start", "box").returncode == 0


def test_wide_shows_everything_in_one_line(world: World) -> None:
    done = world.edgekit("fleet", "check", "box", "--wide")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("box"))
    assert "ssh:device" in line
    assert str(world.place.box.root.path) in line
