"""The agent of a device, killed at one named step of a prompt's life. Run by its path:

    python -S -P dying_agent.py STEP COUNT RECORD serve --root ROOT

in the environment of a release. STEP is one of `STEPS`; when it comes to it for the COUNTth time,
that is appended to the file RECORD and the agent, or its worker, gets SIGKILL. Nothing in the agent
knows of this: its functions are wrapped from here.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = (
    "agent: prompt received",
    "agent: before its commit",
    "agent: after its commit",
    "agent: after its PUBACK",
    "agent: after accepted",
    "agent: after its start",
    "agent: after a delta",
    "agent: before the outcome's commit",
    "agent: after the outcome's commit",
    "agent: after the final",
    "agent: at the final's PUBACK",
    "agent: after that was noted",
    "worker: after its start",
    "worker: after a delta",
    "worker: at the outcome's commit",
)
NEVER = "never"


class Death:
    """Waits for its step."""

    def __init__(self, step: str, count: int, record: Path) -> None:
        self._step = step
        self._left = count
        self._record = record
        self._service: Any = None

    def reached(self, *names: str) -> None:
        """The agent comes to these steps."""
        if self._step not in names:
            return
        self._left -= 1
        if self._left:
            return
        with self._record.open("a") as file:
            file.write(f"{self._step}\n")
        if self._step.startswith("worker"):
            self._service._worker.kill()
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def arm(self) -> None:
        """Wrap the functions of the agent that the steps are named after."""
        from edgekit.agent.serve.loop.journal import Journal
        from edgekit.agent.serve.loop.process import ModelProcess
        from edgekit.agent.serve.loop.service import Service
        from edgekit.mqtt.polled import PolledClient

        wrap(Service, "run", before=self._runs)
        wrap(Service, "_received", before=self._received)
        wrap(Journal, "commit", before=self._before_commit, after=self._after_commit)
        wrap(PolledClient, "ack", after=self._acked)
        wrap(Service, "_publish", after=self._publishes)
        wrap(Service, "_published", before=self._puback)
        wrap(ModelProcess, "tell", after=self._told)

    def _runs(self, service: Any) -> None:
        self._service = service

    def _received(self, _: Any, message: Any) -> None:
        if "/req/" in message.topic:
            self.reached("agent: prompt received")

    def _before_commit(self, _: Any, rows: Any, __: Any) -> None:
        if any(row.outcome is None for row in rows):
            self.reached("agent: before its commit")
        if any(row.outcome is not None and not row.sent for row in rows):
            self.reached("agent: before the outcome's commit", "worker: at the outcome's commit")

    def _after_commit(self, _: Any, rows: Any, __: Any) -> None:
        if any(row.outcome is None for row in rows):
            self.reached("agent: after its commit")
        if any(row.outcome is not None and not row.sent for row in rows):
            self.reached("agent: after the outcome's commit")
        if any(row.sent for row in rows):
            self.reached("agent: after that was noted")

    def _acked(self, _: Any, token: Any) -> None:
        if token[2]:  # the QoS
            self.reached("agent: after its PUBACK")

    def _publishes(self, _: Any, effect: Any) -> None:
        names = {
            "accepted": ["agent: after accepted"],
            "delta": ["agent: after a delta", "worker: after a delta"],
            "final": ["agent: after the final"],
        }
        self.reached(*names.get(effect.kind, []))

    def _puback(self, _: Any, effect: Any, __: Any) -> None:
        if effect.kind == "final":
            self.reached("agent: at the final's PUBACK")

    def _told(self, _: Any, message: Any) -> None:
        if type(message).__name__ == "Start":
            self.reached("agent: after its start", "worker: after its start")


def _nothing(*_: Any) -> None: ...


def wrap(
    owner: type,
    name: str,
    *,
    before: Callable[..., None] = _nothing,
    after: Callable[..., None] = _nothing,
) -> None:
    """Have a method call others with its own arguments."""
    original = getattr(owner, name)

    def wrapped(self: Any, *arguments: Any) -> Any:
        before(self, *arguments)
        result = original(self, *arguments)
        after(self, *arguments)
        return result

    setattr(owner, name, wrapped)


def main() -> None:
    """Arm, then be the agent."""
    step, count, record = sys.argv[1:4]
    del sys.argv[1:4]
    if step != NEVER:
        Death(step, int(count), Path(record)).arm()
    from edgekit.agent.__main__ import main as agent

    agent()


if __name__ == "__main__":
    main()
