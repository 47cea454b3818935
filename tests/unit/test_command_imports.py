"""What a command imports: a push starts one process for each device, and CI thousands of them.

Times depend on the machine, names of modules do not. Each list has what took part of a command's
start once, and is not needed for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import edgekit
from edgekit.trust.signed import Offered
from tests.attacked import FIRST, Device, make_device

SLOW = {
    *("tuf", "securesystemslib", "cryptography", "urllib3", "logging", "dataclasses"),
    *("tarfile", "zstandard", "shutil", "subprocess", "asyncio", "ssl", "http.client", "paho"),
    *(
        "edgekit.core.protocol.wire",
        "edgekit.core.chat.request",
        "edgekit.agent.release.trial.machine",
    ),
}
OF_A_CONTROLLER = {
    *("rich", "yaml", "paramiko", "tuf", "securesystemslib", "cryptography", "http.client", "ssl"),
    *("jinja2", "numpy", "onnx", "paho", "edgekit.core.chat.body", "edgekit.fleet.rollout.book"),
    "prompt_toolkit",
}


def imported(words: list[str], stdin: bytes = b"", cwd: Path | None = None) -> set[str]:
    """The modules that a command imports."""
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-X", "importtime", *words],
        input=stdin,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path[1:])},
        capture_output=True,
        cwd=cwd,
        timeout=60,
        check=False,
    )
    lines = done.stderr.decode().splitlines()
    found = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "edgekit" in found, done.stderr[-500:]
    return found


def agent(device: Device, *words: str, stdin: bytes = b"") -> set[str]:
    verb, *rest = words
    root = str(device.root.path)
    return imported(["-m", "edgekit.agent", verb, *rest, "--root", root], stdin)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return make_device(tmp_path / "root")


@pytest.mark.parametrize("verb", ["lease", "state", "gc", "stop"])
def test_a_verb_of_a_device_imports_what_it_uses(device: Device, verb: str) -> None:
    assert agent(device, verb) & SLOW == set()


def test_an_offer_imports_tuf_once(device: Device) -> None:
    """The second offer of the same metadata asks for nothing that python-tuf knows better."""
    device.maker.bump()
    offered = msgspec.json.encode(Offered(FIRST.manifest.decode(), device.maker.made()))
    words = ("stage", FIRST.digest, "--offer")
    first = agent(device, *words, stdin=offered)
    assert {"tuf", "securesystemslib"} <= first, "new metadata is verified"
    again = agent(device, *words, stdin=offered)
    assert again & SLOW == set()


def test_a_verb_goes_on_importing_from_its_own_release(tmp_path: Path) -> None:
    """`current` leads to another agent once it has moved, which may lack what the verb needs."""
    ours, other, current = (tmp_path / name for name in ("ours", "other", "current"))
    shutil.copytree(Path(edgekit.__file__).parent, ours / "edgekit")
    other.mkdir()
    current.symlink_to(ours)
    script = (
        "import os, sys\n"
        "from edgekit.agent.__main__ import stay_in_this_release\n"
        "stay_in_this_release()\n"
        f"os.unlink({str(current)!r})\n"
        f"os.symlink({str(other)!r}, {str(current)!r})\n"
        "import edgekit.agent.release.supervisor.become, edgekit.registry\n"
        "print(edgekit.registry.__file__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", script],
        env={"PYTHONPATH": os.pathsep.join([str(current), *sys.path[1:]])},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == (str(ours / "edgekit/registry/__init__.py"), "")


@pytest.mark.parametrize(
    ("verb", "needed"),
    [
        ("state", set()),
        ("stop", set()),
        ("init", {"tuf", "securesystemslib", "cryptography"}),  # it makes keys
        ("devices", {"paho", "ssl", "http.client"}),
        ("top", {"paho", "ssl", "http.client"}),
        ("chat", {"paho", "ssl", "http.client"}),
    ],
)
def test_a_short_command_of_a_controller_imports_what_it_uses(verb: str, needed: set[str]) -> None:
    found = imported(["-m", "edgekit", verb, "--help"])
    assert needed <= found
    assert found & OF_A_CONTROLLER == needed


def test_the_version_needs_no_verb_and_what_looks_at_a_bundle_makes_no_bill_of_materials() -> None:
    assert imported(["-m", "edgekit", "--version"]) & OF_A_CONTROLLER == set()
    assert "cyclonedx" not in imported(["-m", "edgekit", "inspect", "--help"])


def test_a_push_imports_no_registry_and_no_broker() -> None:
    found = imported(["-m", "edgekit", "push", "--help"])
    known = {"tuf", "securesystemslib", "cryptography", "edgekit.fleet.rollout.book"}
    assert found & OF_A_CONTROLLER == known


def test_what_is_asked_of_a_device_imports_no_ssh_and_draws_nothing(tmp_path: Path) -> None:
    imported(["-m", "edgekit", "init", "."], cwd=tmp_path)
    assert (tmp_path / "fleet.toml").exists()
    found = imported(["-m", "edgekit", "state", "demo"], cwd=tmp_path)
    assert "edgekit.fleet.link.local" in found, "it asked"
    assert found & OF_A_CONTROLLER == set()
