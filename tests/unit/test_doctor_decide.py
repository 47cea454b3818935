"""What `edgekit doctor` makes of what its probes saw."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgekit.builder.tools.engine import Engine
from edgekit.cli.doctor import broker, decide, probes
from edgekit.cli.doctor.decide import SeenEngine, SeenSsh, SeenTrust
from edgekit.cli.doctor.diagnosis import Diagnosis
from edgekit.cli.doctor.doctor import run
from edgekit.cli.doctor.holder import holder
from edgekit.core.config import BrokerConfig
from edgekit.errors import EdgekitError
from edgekit.fleet.inventory import Device, Fleet

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
ROOTLESS = Engine("podman", "5.0", rootless=True)
NONE = EdgekitError("there is no container engine on this machine", "none", "install podman")


@pytest.mark.parametrize(
    ("seen", "verdict", "step"),
    [
        (SeenEngine(Engine("podman", "4.3"), None, False, False, "ada", None), "ok", ""),
        (SeenEngine(ROOTLESS, None, True, True, "ada", None), "ok", ""),
        (SeenEngine(ROOTLESS, None, False, True, "ada", None), "wrong", "usermod --add-subuids"),
        (SeenEngine(ROOTLESS, None, True, False, "ada", None), "wrong", "apt install uidmap"),
        (
            SeenEngine(None, EdgekitError("x", 'podman: exec: "newuidmap"'), True, True, "a", None),
            "wrong",
            "apt install uidmap",
        ),
        (
            SeenEngine(
                None, EdgekitError("x", "docker: permission denied"), True, True, "ada", None
            ),
            "warning",
            "usermod -aG docker ada",
        ),
        (SeenEngine(None, NONE, True, True, "ada", None), "warning", "install podman"),
        (
            SeenEngine(None, NONE, True, True, "ada", EdgekitError("no 3.11", "", "uv python")),
            "warning",
            "uv python",
        ),
    ],
)
def test_an_engine(seen: SeenEngine, verdict: str, step: str) -> None:
    found = decide.engine(seen)
    assert (found.verdict, step in found.next) == (verdict, True)


def test_metadata_that_is_expired_names_what_signs_it_anew() -> None:
    life = {"root": 300, "targets": 200, "snapshot": 100, "timestamp": 100}
    expires = {name: NOW + timedelta(days=days) for name, days in life.items()}
    everything = SeenTrust(expires, frozenset({"root", "targets", "online"}))

    def after(days: int, seen: SeenTrust) -> list[tuple[str, str]]:
        at = NOW + timedelta(days=days)
        return [(each.verdict, each.next) for each in decide.metadata(seen, at)]

    assert after(0, everything) == [("ok", "")]
    assert after(150, everything) == [("ok", "")], "the next push signs it"
    assert after(250, everything) == [("wrong", "edgekit sign")]
    away = SeenTrust(expires, frozenset())
    push = "push from the machine that has the key online"
    assert after(150, away) == [("wrong", push)] * 2
    assert ("wrong", "edgekit sign --key FILE") in after(250, away)
    assert ("wrong", "edgekit key rotate root --key FILE") in after(350, away)


def test_ssh_is_asked_for_only_where_a_device_needs_it() -> None:
    def verdict(*seen: object) -> str:
        return decide.ssh(SeenSsh(*seen))[0].verdict  # type: ignore[arg-type]  # by position

    assert verdict(False, None, (), 0) == "note"
    assert verdict(False, 3, ("id_ed25519",), 1) == "wrong"
    assert verdict(True, None, (), 1) == "wrong"
    assert verdict(True, 0, (), 1) == "wrong"
    assert verdict(True, 2, (), 1) == "ok"
    assert verdict(True, None, ("id_ed25519",), 1) == "ok"


def test_disk_port_clock_extras_and_python() -> None:
    assert [decide.disk("/x", size).verdict for size in (10**8, 2 * 10**9, 10**10)] == [
        *("wrong", "warning", "ok"),
    ]
    assert [decide.port(8080, who).verdict for who in (None, "", "nginx")] == ["ok", "note", "note"]
    early = NOW - timedelta(days=900)
    told = [decide.clock(each, NOW, early).verdict for each in (True, None, False)]
    assert told == ["ok", "ok", "warning"]
    assert decide.clock(True, early, NOW).verdict == "wrong"
    there = {"gateway": False, "pictures": True}
    assert [each.verdict for each in decide.extras(there, False)] == ["note", "ok"]
    assert [each.verdict for each in decide.extras(there, True)] == ["wrong", "ok"]
    assert decide.python((3, 11, 2), 32, "linux", "armv7l").verdict == "wrong"
    assert decide.python((3, 11, 2), 64, "linux", "aarch64").verdict == "ok"


class Silent:
    """A connection whose broker confirms nothing."""

    def publish(self, _: object) -> Future[int]:
        return Future()


def test_a_broker_that_confirms_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "PUBACK_SECONDS", 0.05)
    code = broker._allowed(Silent(), "ada")  # type: ignore[arg-type]  # publishes alone
    (found,) = broker._rights(BrokerConfig("host"), "ada", (), code, None)
    assert (found.verdict, "no PUBACK" in found.why) == ("wrong", True)


def test_devices_that_pull_are_not_said_to_be_well() -> None:
    pulling = {"pi-1": Device("pull:"), "pi-2": Device("pull:")}
    (found,) = probes.devices(Fleet(pulling, {}, Path()))
    assert (found.verdict, "2 of fleet.toml's devices pull" in found.what) == ("note", True)


def test_a_check_that_hangs_or_fails_hides_no_other() -> None:
    def hangs() -> list[Diagnosis]:
        threading.Event().wait()
        return []

    def fails() -> list[Diagnosis]:
        raise ValueError("a defect")

    def refuses() -> list[Diagnosis]:
        raise EdgekitError("no", "because", "do this")

    began = time.monotonic()
    found = run(
        {
            "hangs": hangs,
            "fails": fails,
            "refuses": refuses,
            "ends": lambda: [Diagnosis("ends", "ok", "well")],
        },
        seconds=0.3,
    )
    assert time.monotonic() - began < 3
    assert [(each.check, each.verdict) for each in found] == [
        *(("hangs", "wrong"), ("fails", "wrong"), ("refuses", "wrong"), ("ends", "ok")),
    ]
    assert "ValueError: a defect" in found[1].why
    assert (found[2].why, found[2].next) == ("because", "do this")


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs with `--user 12345`."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert probes._user() == "12345"
    assert "itself failed" not in "".join(each.what for each in probes.engine())


def test_a_program_whose_name_was_cut_within_a_letter_is_named() -> None:
    """The kernel keeps 15 bytes of a name."""
    code = (
        "import ctypes, socket, sys\n"
        "ctypes.CDLL(None).prctl(15, 'a端末端末端'.encode())\n"
        "taken = socket.create_server(('127.0.0.1', 0))\n"
        "print(taken.getsockname()[1], flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        found = holder(int(other.stdout.readline()))
        other.communicate()
    assert found == f"a端末端末\ufffd (process {other.pid})"
