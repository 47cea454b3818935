"""A device on a small disk that fills up at one moment of an activation; prints what came of it.

python full_device.py FOLDER MOMENT KIND    (FOLDER is a small file system)

MOMENT: when the disk is full. KIND: `once` fills it and leaves it; `greedy` takes every byte that
becomes free from then on, as a program that logs without end does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgekit.agent.release.state import Releases
from edgekit.agent.release.supervisor.detached import Detached
from tests.harness.box import Box, alive, config_bytes, eventually, make_root

MOMENTS = {
    "before": "good second",
    "before, without a reserve": "good second",
    "while it switches": "good second",
    "in the trial of one that dies": "dies",
    "in the trial of one that never answers": "mute",
    "in the trial, then the supervisor is killed": "mute",
}


class Ballast:
    """Fills the disk to its last byte."""

    def __init__(self, folder: Path, greedy: bool) -> None:
        self._path = folder / "ballast"
        self._greedy = greedy
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def fill(self) -> None:
        self._take()
        if self._greedy:
            self._thread.start()

    def _take(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"b" * size)

    def _run(self) -> None:
        while not self._over.is_set():
            self._take()
            time.sleep(0.002)

    def remove(self) -> None:
        self._over.set()
        if self._greedy:
            self._thread.join()
        self._path.unlink()


def agents(box: Box) -> list[int]:
    """The processes of the verb `serve` of this ROOT that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"serve" in words and str(box.root.path).encode() in words:
                found.append(int(path.parent.name))
    return [pid for pid in found if alive(pid)]


def main() -> None:
    folder, moment, greedy = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "greedy"
    box = Box(make_root(folder / "root"))
    old, new = box.stage("good first"), box.stage(MOMENTS[moment])
    seen: dict[str, Any] = {}
    first = box.activate(old)
    assert first[0] == 0, first
    box.answers(old)
    ballast = Ballast(folder, greedy)
    if moment == "before, without a reserve":
        box.root.reserve_file.unlink()
    if moment.startswith("before"):
        ballast.fill()
    config = config_bytes(trial_seconds=2.0)
    before = agents(box)
    process = box.start("activate", new, config=config)
    if moment == "while it switches":
        eventually(lambda: box.release(new).state == "trial", what="the trial is on record")
        ballast.fill()
    elif not moment.startswith("before"):
        eventually(lambda: box.release(new).tries == 1, what="the trial runs")
        ballast.fill()
    if moment.endswith("is killed"):
        os.kill(box.supervisor, signal.SIGKILL)
        process.kill()  # the push is cut, too: the device is alone
        eventually(lambda: Detached(box.root).pid() is None, what="its supervisor is gone")
        Detached(box.root).start()
    out, errors = process.communicate(timeout=60)
    seen["answer"] = json.loads(out) if out else {}
    seen["errors"] = errors.decode()[-500:]
    eventually(lambda: len(agents(box)) == 1, what="one agent runs")
    time.sleep(1.0)
    seen["agents"] = len(agents(box))
    seen["same agent"] = agents(box) == before
    seen["current"] = {old: "old", new: "new", None: "nothing"}[box.current]
    seen["state"] = box.release(new).state
    seen["reason"] = box.release(new).reason
    seen["old config"] = box.root.agent_config.read_bytes() == config_bytes()
    ballast.remove()
    eventually(box.root.ready_file.exists, what="it says that it answers")
    if MOMENTS[moment].startswith("good"):  # with room again a push converges
        seen["retried"] = box.activate(new, config_bytes())[0]
    current = box.current
    assert current is not None
    box.answers(current)
    seen["rows"] = {row.digest: row.state for row in Releases(box.root.path).all()}
    Detached(box.root).stop()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
