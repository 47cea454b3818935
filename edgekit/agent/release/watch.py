"""The supervisor's process: it performs the effects of `trial` and keeps the agent running."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import NoReturn, TextIO

from edgekit.agent.release import disk
from edgekit.agent.release.detached import (
    LOCK_VARIABLE,
    POLL_SECONDS,
    STOP_MARGIN_SECONDS,
    command,
    drain_seconds,
    lock,
)
from edgekit.agent.release.events import (
    AgentEnded,
    AgentReady,
    AgentStarted,
    BecomeSuccessor,
    Effect,
    EndAgent,
    EndSupervisor,
    Event,
    HoldStops,
    KeepRunning,
    RecordVerdict,
    StartAgent,
    StopAsked,
    StopsHeld,
    TimePassed,
)
from edgekit.agent.release.log import log_tail, rotate, say
from edgekit.agent.release.root import Root
from edgekit.agent.release.schedule import Upkeep
from edgekit.agent.release.trial import Trial
from edgekit.core.config import parse_known_agent_config
from edgekit.errors import EdgekitError, TakenOverError

BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
STEADY_SECONDS = 60.0  # an agent that lived this long starts again without delay
LOG_CHECK_SECONDS = 60.0
# Set by systemd for the process that it watches; not WATCHDOG_PID, because the agent reports.
MANAGER_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
PR_SET_PDEATHSIG = 1  # prctl(2)


def become(root: Root, more: Mapping[str, str] | None = None) -> NoReturn:
    """Become the supervisor of `current`, in the environment of its own trees.

    Raises:
        EdgekitError: no release is active.
    """
    if root.linked(root.current) is None:
        raise EdgekitError("no release is active on this device", next_step="push one to it")
    environment = root.environment(root.current.resolve())
    environment |= {name: os.environ[name] for name in MANAGER_VARIABLES if name in os.environ}
    environment |= more or {}
    os.execve(sys.executable, command(root, "supervise"), environment)  # noqa: S606  no shell is wanted


class Watch:
    """The supervisor: it runs one agent, restarts it with back-off and judges its trial."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._trial = Trial()
        self._stopping = False
        self._child: subprocess.Popen[bytes] | None = None
        self._events: deque[Event] = deque()  # caused by effects
        self._lock: TextIO | None = None

    def run(self) -> NoReturn:
        """Supervise `current` until SIGTERM, or until a failed trial leaves nothing to run.

        Raises:
            EdgekitError: another supervisor runs, or a new `agent.toml` cannot be read.
            SystemExit: the supervision has ended.
        """
        self._lock = lock(self._root)
        for number in STOP_SIGNALS:
            signal.signal(number, self._stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        self._events.append(disk.found(self._root))
        while True:
            event = self._events.popleft() if self._events else self._look()
            for effect in self._trial.handle(event, time.monotonic()):
                self._perform(effect)

    def _look(self) -> Event:
        """Return what happened since the last look.

        A stop is checked last and takes precedence: it ends the agent, and that is no failure.
        """
        time.sleep(POLL_SECONDS)
        ready = self._root.ready_file.exists()
        ended = self._child is not None and self._child.poll() is not None
        if self._stopping:
            return StopAsked()
        if ready:
            return AgentReady()
        return AgentEnded(log_tail(self._root)) if ended else TimePassed()

    def _perform(self, effect: Effect) -> None:
        match effect:
            case StartAgent():
                config = parse_known_agent_config(self._root.agent_config.read_bytes())
                self._spawn()
                self._events.append(AgentStarted(config.trial_seconds))
            case EndAgent():
                self._end_child()
                self._events.append(AgentEnded(log_tail(self._root)))
            case HoldStops():
                signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
                self._events.append(StopAsked() if self._stopping else StopsHeld())
            case BecomeSuccessor():
                self._become_successor()
            case KeepRunning():
                self._keep_running()
                self._end_child()
                raise SystemExit(0)
            case EndSupervisor(code):
                raise SystemExit(code)
            case _:
                if isinstance(effect, RecordVerdict) and effect.reason:
                    say(f"release {effect.release.short} failed its trial: {effect.reason}")
                disk.perform(self._root, effect)

    def _become_successor(self) -> NoReturn:
        """Become the successor and pass the lock on without releasing it."""
        assert self._lock is not None
        os.set_inheritable(self._lock.fileno(), True)
        become(self._root, {LOCK_VARIABLE: str(self._lock.fileno())})

    def _keep_running(self) -> None:
        upkeep = Upkeep(partial(self._start, "upkeep"), time.monotonic())

        def look_after(*_: object) -> None:
            rotate(self._root.log_file)
            upkeep.tick(time.monotonic())

        signal.signal(signal.SIGALRM, look_after)
        signal.setitimer(signal.ITIMER_REAL, LOG_CHECK_SECONDS, LOG_CHECK_SECONDS)
        try:
            self._restart_agent()
        finally:
            upkeep.end()

    def _restart_agent(self) -> None:
        failures = 0
        while not self._stopping:
            started = time.monotonic()
            child = self._child or self._spawn()
            code = child.wait()
            self._child = None
            if self._stopping:
                return
            if code == TakenOverError.exit_code:
                say("another client has this device's name at the broker; the agent stays down")
                return
            if time.monotonic() - started > STEADY_SECONDS:
                failures = 0
            delay = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
            failures += 1
            say(f"the agent ended with {code}; it starts again in {delay:g} s")
            rotate(self._root.log_file)
            until = time.monotonic() + delay
            while not self._stopping and time.monotonic() < until:
                time.sleep(POLL_SECONDS)

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._root.ready_file.unlink(missing_ok=True)
        self._child = self._start("serve")
        if self._stopping:  # the signal came before the agent existed
            self._child.terminate()
        return self._child

    def _start(self, verb: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command(self._root, verb),
            stdin=subprocess.DEVNULL,
            preexec_fn=partial(_die_with_parent, os.getpid()),  # noqa: PLW1509  this process has one thread
        )

    def _stop(self, *_: object) -> None:
        self._stopping = True
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def _end_child(self) -> None:
        if self._child is None:
            return
        if self._child.poll() is None:
            self._child.terminate()
        try:
            self._child.wait(drain_seconds(self._root) + STOP_MARGIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def _die_with_parent(parent: int) -> None:
    """Make the kernel kill the agent with its supervisor: the next one starts its own agent."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the supervisor was killed before the prctl
        os.kill(os.getpid(), signal.SIGKILL)
