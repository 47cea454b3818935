"""The device that the endurance test kills, and the count of what was seen."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.agent.release.root import Root
from tests.faults.dying_agent import NEVER, STEPS

HOOK = Path(__file__).parents[1] / "faults" / "dying_agent.py"
END_SECONDS = 60.0


@dataclass
class Tally:
    """What was seen."""

    prompts: int = 0
    accepted: set[str] = field(default_factory=set)
    finals: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    kills: Counter[str] = field(default_factory=Counter)  # at random
    steps: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    said: dict[str, set[bytes]] = field(default_factory=dict)  # every outcome on the wire, by id
    stored: int = 0
    seconds: float = 0.0

    @property
    def killed(self) -> int:
        """How often something got SIGKILL."""
        return sum(self.kills.values()) + sum(self.steps.values())

    def lines(self) -> list[str]:
        """For people."""
        kills = ", ".join(f"{n} of the {name}" for name, n in sorted(self.kills.items()))
        return [
            f"{self.prompts} prompts in {self.seconds:.0f} s, {len(self.accepted)} were accepted",
            f"{self.finals} finals, {sum(self.errors.values())} errors {dict(self.errors)}",
            f"{self.retries} retries by clients",
            f"{self.killed} kills with SIGKILL; at random {kills}; at a step:",
            *(f"  {self.steps[step]:>3}  {step}" for step in STEPS),
            f"{self.stored} outcomes asked for again, all as they were said first",
            *(f"PROBLEM: {text}" for text in self.problems),
        ]


class Device:
    """The agent of a ROOT, started again at once whenever it ends, to die at a step each time.

    Args:
        root: ROOT.
        choose: chooses the steps.
        within: it dies at the latest when it comes to its step for this time.
    """

    def __init__(self, root: Root, choose: random.Random, within: int) -> None:
        self._root, self._choose, self._within = root, choose, within
        self._record = root.path / "log" / "chaos.steps"
        self._record.touch()
        self._log = (root.path / "log" / "chaos.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        self._calm = False
        self._ending = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep_running, daemon=True)

    def start(self) -> None:
        """Keep one running."""
        self._thread.start()

    def steps(self) -> Counter[str]:
        """At which steps it was killed so far."""
        return Counter(self._record.read_text().splitlines())

    def kill(self, what: str) -> bool:
        """SIGKILL to the agent or its worker; False when there is none."""
        with self._lock:
            process = self._process
            if process is None or process.poll() is not None:
                return False
            pid = process.pid
            if what == "worker":
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                if not children:
                    return False
                pid = int(children[0])
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return True

    def calm(self) -> None:
        """From the next start on it does not die by itself; the one that runs is ended."""
        self._calm = True
        self.kill("agent")

    def end(self) -> None:
        """SIGTERM, and no more."""
        self._ending = True
        with self._lock:
            if self._process is not None:
                self._process.terminate()
        self._thread.join(END_SECONDS)
        self._log.close()

    def _keep_running(self) -> None:
        release = self._root.current.resolve()
        while not self._ending:
            steps = self.steps()
            fewest = min(steps[step] for step in STEPS)
            step = self._choose.choice([step for step in STEPS if steps[step] == fewest])
            count = self._choose.randint(1, self._within)
            plan = (NEVER if self._calm else step, str(count), str(self._record))
            with self._lock:
                self._process = subprocess.Popen(
                    [
                        *(sys.executable, "-S", "-P", str(HOOK), *plan),
                        *("serve", "--root", str(self._root.path)),
                    ],
                    env=self._root.environment(release),
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                )
            self._process.wait()
