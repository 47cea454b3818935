"""What a thief says at a device's door: commands, paths of a transfer, and frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgekit.agent.release.door import serve as door
from edgekit.fleet.link.session import HEAD, MAGIC

ROOT = "/var/lib/edgekit"


def verb(*words: str, root: str = ROOT, trees: str = "") -> list[str]:
    trees = trees or f"{root}/current/agent:{root}/current/runtime"
    python = ["env", "-i", f"PYTHONPATH={trees}", "/usr/bin/python3", "-S", "-P"]
    return [*python, "-m", "edgekit.agent", words[0], "--root", root, *words[1:]]


D = f"sha256:{'0' * 64}"
ARGVS: dict[str, Any] = {
    "a shell": ["sh", "-c", "touch /tmp/x"],
    "python": ["python3", "-c", "print(1)"],
    "first contact": ["/usr/bin/python3", "-c", "import os", ROOT, "abc", "12"],
    "a probe of another root": ["python3", "-", "/etc"],
    "a probe with more": ["python3", "-", "", "x"],
    "another root": verb("state", root="/tmp/mine"),
    "a root with dots": verb("state", root=f"{ROOT}/../edgekit"),
    "a root twice": [*verb("state"), "--root", "/tmp"],
    "trees of its own": verb("state", trees="/tmp/mine"),
    "no trees": ["env", "-i", "python3", "-S", "-P", "-m", "edgekit.agent", "state"],
    "two trees": [*verb("state")[:3], "PYTHONPATH=/tmp/mine", *verb("state")[3:]],
    "boot": verb("boot"),
    "supervise": verb("supervise"),
    "serve": verb("serve"),
    "worker": verb("worker", "--descriptor", "0"),
    "door": verb("door"),
    "stage from a folder": verb("stage", D, "--from", "/tmp"),
    "a dry run of a stage": verb("stage", D, "--dry-run"),
    "stage a path": verb("stage", "../../etc/passwd"),
    "stage a short digest": verb("stage", "sha256:00"),
    "adopt without a number": verb("stage", D, "--adopt", "-1"),
    "activate a file": verb("activate", D, "--config", "/etc/shadow"),
    "a digest with a newline": verb("activate", f"{D}\n"),
    "words in a word": verb("activate", f"{D} --config -"),
    "another device's digest to pin": verb("gc", "--pin", "../../etc"),
    "pin and more": verb("gc", "--pin", D, "--previous"),
    "an option of nothing": verb("gc", "--root", "/tmp"),
    "a rate below nothing": verb("scrub", "--rate", "-1"),
    "golden": verb("golden", "--model", "/tmp", "--context", "1"),
    "measure": verb("measure", "--model", "/tmp", "--threads", "1", "--spinning", "0"),
    "upkeep": verb("upkeep"),
    "a lease without an end": verb("lease", "--take", "0a1b2c3d"),
    "a lease of a path": verb("lease", "--give", "../../etc"),
    "a lease for ever": verb(
        *("lease", "--take", "0a1b2c3d", "--holder", "a", "--about", "b", "--seconds", "9999999")
    ),
    "state with more": verb("state", "--help"),
    "a module more": [*verb("state"), "-S", "-P", "-m", "edgekit.agent", "serve"],
    "env with another option": ["env", "-S", *verb("state")[2:]],
    "nothing": [],
    "no list": "state",
    "numbers": [1, 2, 3],
    "an object": {"a": 1},
    "half a verb": ["env", "-i", "python3", "-S", "-P", "-m", "edgekit.agent"],
}


PATHS: dict[str, Callable[[str], Any]] = {
    "a file of the device": lambda root: f"{root}/etc/agent.toml",
    "a whole blob": lambda root: f"{root}/blobs/sha256/{'0' * 64}",
    "dots": lambda root: f"{root}/blobs/sha256/../../etc/{'0' * 64}.part",
    "a short name": lambda root: f"{root}/blobs/sha256/00.part",
    "capitals": lambda root: f"{root}/blobs/sha256/{'A' * 64}.part",
    "two slashes": lambda root: f"{root}/blobs/sha256//{'0' * 64}.part",
    "a newline": lambda root: f"{root}/blobs/sha256/{'0' * 64}.part\n",
    "a NUL": lambda root: f"{root}/blobs/sha256/{'0' * 63}\0.part",
    "another root": lambda root: f"/tmp/blobs/sha256/{'0' * 64}.part",
    "relative": lambda root: f"blobs/sha256/{'0' * 64}.part",
    "the bootstrap's": lambda root: f"{root}/.bootstrap-000000000000.part",
    "no text": lambda root: 7,
}


FRAMES = {
    "noise": b"GET / HTTP/1.1\r\n\r\n" * 10,
    "a huge request": HEAD.pack(MAGIC, b"R", 1 << 31),
    "a huge write": HEAD.pack(MAGIC, b"W", door.REQUEST_BYTES + 1),
    "an unknown kind": HEAD.pack(MAGIC, b"Z", 0),
    "data first": HEAD.pack(MAGIC, b"D", 4) + b"data",
    "no JSON": HEAD.pack(MAGIC, b"R", 4) + b"{{{{",
    "a list": HEAD.pack(MAGIC, b"R", 2) + b"[]",
    "deep JSON": HEAD.pack(MAGIC, b"R", 60_000) + b"[" * 60_000,
    "a request in a request": HEAD.pack(MAGIC, b"R", 2) + b"{}" + HEAD.pack(MAGIC, b"R", 2) + b"{}",
}
