"""The supervisor's process: it performs the effects of `trial` and keeps the agent running.

It belongs to one release, in one state. When the disk says another (an activation has moved the
links, or has put this release on trial again), it drains its agent and becomes the supervisor of
`current`: the same process, with the same lock, in the same systemd unit. It looks at SIGHUP, which
an activation sends, every few seconds, before it starts an agent again and before it changes the
disk. Only a supervisor that ends tells systemd so: an agent cannot know why it is drained.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections import deque
from functools import partial
from typing import NoReturn, TextIO

from edgekit.agent.release import lease
from edgekit.agent.release.desired.schedule import Follow
from edgekit.agent.release.log import log_tail, rotate, say
from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases
from edgekit.agent.release.supervisor.become import become, cannot_start, die_with_parent
from edgekit.agent.release.supervisor.process import (
    LOCK_VARIABLE,
    POLL_SECONDS,
    STOP_MARGIN_SECONDS,
    command,
    drain_seconds,
    lock,
)
from edgekit.agent.release.trial import disk
from edgekit.agent.release.trial.demands import STEADY_SECONDS, retry_seconds
from edgekit.agent.release.trial.events import (
    AgentCrashed,
    AgentEnded,
    AgentReady,
    AgentStarted,
    BecomeSuccessor,
    CountTry,
    Effect,
    EndAgent,
    EndSupervisor,
    Event,
    HoldStops,
    KeepRunning,
    RecordUnproven,
    RecordVerdict,
    RetryDue,
    StartAgent,
    StopAsked,
    StopsHeld,
    SupervisorFailed,
    TimePassed,
    TryUnrecorded,
)
from edgekit.agent.release.trial.evidence import Reports, demands_of, read_json, slots_of
from edgekit.agent.release.trial.machine import Trial
from edgekit.agent.release.trial.silence import SILENCE_VARIABLE, Silence
from edgekit.agent.release.upkeep.schedule import Upkeep
from edgekit.agent.serve.loop.notify import Notifier
from edgekit.agent.serve.loop.polling import HAND_OVER
from edgekit.agent.serve.loop.samplestore import forget
from edgekit.core.config import parse_known_agent_config
from edgekit.core.reading import UNREADABLE
from edgekit.errors import EdgekitError, TakenOverError

BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
CHECK_SECONDS = 5.0  # of the log's size and of `current`
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SIGNALS = (*STOP_SIGNALS, signal.SIGHUP)


class Watch:
    """The supervisor: it runs one agent, restarts it with back-off and judges its trial."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._trial = Trial()
        self._stopping = False
        self._superseded = False  # `current` is not what this process supervises any more
        self._asked = False  # SIGHUP: look whether that is so
        self._looked = time.monotonic()  # without being asked: who moved it may have been killed
        self._child: subprocess.Popen[bytes] | None = None
        self._events: deque[Event] = deque()  # caused by effects
        self._lock: TextIO | None = None
        self._wakes = -1
        self._unrecorded = ""  # why the try of this trial is not on record
        self._own = disk.found(root)  # read again under the lock
        self._manager = Notifier(dict(os.environ))
        self._reports = Reports(root.trial_file)
        self._ready_told = False
        self._retry_at: float | None = None
        self._silence = Silence(root)
        self._upkeep = Upkeep(partial(self._start, "upkeep"), time.monotonic())
        self._soaks = False
        update = partial(self._start, "update")
        ended = partial(lease.drop_own, root)  # an updater that was killed leaves its lease
        self._follow = Follow(update, root.desired_file, time.monotonic(), ended=ended)

    def run(self) -> NoReturn:
        """Supervise `current` until SIGTERM, or until a failed trial leaves nothing to run.

        Raises:
            EdgekitError: another supervisor runs, or a new `agent.toml` cannot be read.
            SystemExit: the supervision has ended.
        """
        self._catch_signals()  # before the lock: `reload` asks its holder what it catches
        self._lock = lock(self._root)
        self._root.start_file.unlink(missing_ok=True)
        with self._root.switching():
            self._own = disk.found(self._root)
        self._events.append(self._own)
        while True:
            event = self._events.popleft() if self._events else self._look()
            self._judge(event)

    def _judge(self, event: Event) -> bool:
        """Perform what the trial asks for after an event; return whether it asks for something."""
        effects = self._trial.handle(event, time.monotonic())
        for effect in effects:
            self._perform(effect)
        if (left := self._trial.soak_left(time.monotonic())) is not None and self._own.release:
            self._silence.soaks(self._own.release, left)
            if not self._soaks:
                self._soaks = True
                self._follow.again()
            self._follow.tick(time.monotonic())
        return bool(effects)

    def _catch_signals(self) -> None:
        self._wakes, written = os.pipe()  # a byte for each signal ends a wait
        for end in (self._wakes, written):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # ignored, it would wake nothing
        for number in STOP_SIGNALS:
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _look(self) -> Event:
        """Return what happened since the last look.

        A stop is checked last and takes precedence: it ends the agent, and that is no failure.
        """
        time.sleep(POLL_SECONDS)
        if self._asked or time.monotonic() - self._looked > CHECK_SECONDS:
            self._check_current()
        ended = self._child is not None and self._child.poll() is not None
        if ended:
            self._silence.begins()
            self._root.forget_compiled()
        if self._stopping:
            return StopAsked()
        if (report := self._reports.next()) is not None:
            return report
        if not self._ready_told and self._root.ready_file.exists():
            self._ready_told = True
            self._silence.ends()
            return AgentReady(slots_of(read_json(self._root.ready_file)))
        return AgentEnded(log_tail(self._root)) if ended else TimePassed()

    def _perform(self, effect: Effect) -> None:
        match effect:
            case StartAgent():
                unrecorded, self._unrecorded = self._unrecorded, ""
                self._events.append(
                    TryUnrecorded(unrecorded) if unrecorded else self._start_trial()
                )
            case EndAgent():
                self._end_child()
                self._events.append(AgentEnded(log_tail(self._root)))
            case HoldStops():
                signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
                self._events.append(StopAsked() if self._stopping else StopsHeld())
            case BecomeSuccessor():
                self._become_successor()
            case KeepRunning():
                self._root.trial_file.unlink(missing_ok=True)  # the agent stops writing it
                goes_on = self._keep_running()
                self._upkeep.end()
                self._follow.end()
                if not goes_on:
                    self._end_child()
                    self._end(0)
            case EndSupervisor(code):
                self._end(code)
            case _:
                self._change_disk(effect)

    def _start_trial(self) -> Event:
        try:
            config = parse_known_agent_config(self._root.agent_config.read_bytes())
            demands = demands_of(self._root, config)
        except (OSError, EdgekitError, *UNREADABLE) as error:
            return AgentEnded(f"what it has to show cannot be read: {error}")
        self._spawn("--trial")
        return AgentStarted(config.trial_seconds, demands)

    def _change_disk(self, effect: Effect) -> None:
        """Change the disk, unless an activation did so since: then this trial is over."""
        with self._root.switching():
            differs = self._differs()
            if not differs:
                self._perform_on_disk(effect)
                self._own = disk.found(self._root)
        if differs and self._check_current():
            self._end_child()
            self._end(0)

    def _perform_on_disk(self, effect: Effect) -> None:
        if isinstance(effect, RecordVerdict) and effect.reason:
            say(f"release {effect.release.short} failed: {effect.reason}")
        if isinstance(effect, RecordUnproven):
            say(f"release {effect.release.short} is unproven: {effect.reason}")
        if why := disk.perform_on_full(self._root, effect):
            say(f"this is not on record: {why}")
            if isinstance(effect, CountTry):
                self._unrecorded = why

    def _differs(self) -> bool:
        """Whether `current` is another release than this process supervises, or in another trial.

        A disk that cannot be read says nothing.
        """
        try:
            found = disk.found(self._root)
        except (OSError, EdgekitError) as error:
            say(f"the state of the releases cannot be read: {error}")
            return False
        own = self._own
        return (found.release, found.state, found.tries) != (own.release, own.state, own.tries)

    def _check_current(self) -> bool:
        """Ask for the end of this supervision if `current` is not its own any more.

        A release whose supervisor cannot even start fails its trial here, before an agent is
        drained for it. On a disk that takes no writes any more, nothing could be started again:
        what runs goes on.
        """
        self._asked, self._looked = False, time.monotonic()
        try:
            return self._succeeds()
        except OSError as error:
            say(f"what runs goes on, the disk takes no change: {error}")
            return False

    def _succeeds(self) -> bool:
        with self._root.switching():
            differs = self._differs()
            if differs and (why := cannot_start(self._root)):
                reason = f"the agent's supervisor did not start: {why}"
                failed = SupervisorFailed(disk.found(self._root), reason)
                for effect in Trial().handle(failed, time.monotonic()):
                    self._perform_on_disk(effect)
                differs = self._differs()
        if differs and not self._stopping:
            self._superseded = self._stopping = True
            self._terminate_child()
        return differs

    def _end(self, code: int) -> NoReturn:
        """End this supervision: with the process, or by becoming the supervisor of `current`."""
        if self._superseded:
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        if self._superseded:  # no stop has come until now
            self._become_successor()
        forget(self._root.path)  # also where its agent was killed
        raise SystemExit(code)

    def _become_successor(self) -> NoReturn:
        """Become the successor and pass the lock on without releasing it."""
        assert self._lock is not None
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # it would kill a starting Python
        os.set_inheritable(self._lock.fileno(), True)
        more = {LOCK_VARIABLE: str(self._lock.fileno()), SILENCE_VARIABLE: self._silence.since()}
        become(self._root, more)

    def _keep_running(self) -> bool:
        """Keep the agent running; return whether the trial has gone on to something else."""
        failures = 0
        self._follow.again()  # the verdict has come, if there was a trial
        waits = Releases(self._root.path).unproven()
        if waits is not None:
            self._retry_at = time.monotonic() + retry_seconds(waits.tries)
        while not self._stopping and not self._check_current():
            started = time.monotonic()
            child = self._child or self._spawn()
            code = self._wait(child)
            if code is None:
                return True
            self._child = None
            if self._stopping:
                self._silence.begins()
                return False
            if code == TakenOverError.exit_code:
                say("another client has this device's name at the broker; the agent stays down")
                return False
            if time.monotonic() - started > STEADY_SECONDS:
                failures = 0
            delay = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
            failures += 1
            if failures == 1:
                self._root.forget_compiled()
            if self._judge(AgentCrashed(failures, log_tail(self._root))):
                return True
            say(f"the agent ended with {code}; it starts again in {delay:g} s")
            rotate(self._root.log_file)
            until = time.monotonic() + delay
            while not self._stopping and not self._asked and time.monotonic() < until:
                time.sleep(POLL_SECONDS)
        return False

    def _wait(self, child: subprocess.Popen[bytes]) -> int | None:
        """Wait for the agent's end; look at the log, `current` and a due retry now and then.

        Returns:
            Its exit code; None if the trial has gone on to something else.
        """
        while child.poll() is None:
            woken, _, _ = select.select([self._wakes], [], [], CHECK_SECONDS)
            if woken:
                os.read(self._wakes, 4096)
            else:
                rotate(self._root.log_file)
                self._upkeep.tick(time.monotonic())
                self._follow.tick(time.monotonic())
            self._silence.ends()
            if self._asked or not woken:
                self._check_current()
            if self._retries():
                return None
        return int(child.returncode)

    def _retries(self) -> bool:
        """Begin the trial of an unproven release again if it is due."""
        if self._retry_at is None or self._stopping or time.monotonic() < self._retry_at:
            return False
        waits = Releases(self._root.path).unproven()
        self._retry_at = None if waits is None else time.monotonic() + retry_seconds(waits.tries)
        if waits is None:
            return False
        say(f"release {waits.digest.short} is tried again")
        try:
            return self._judge(RetryDue(waits.digest))
        except (OSError, EdgekitError) as error:
            say(f"its trial cannot begin: {error}")
            self._trial = Trial()
            self._trial.handle(disk.found(self._root), time.monotonic())
            return False

    def _spawn(self, *options: str) -> subprocess.Popen[bytes]:
        self._root.ready_file.unlink(missing_ok=True)
        self._root.trial_file.unlink(missing_ok=True)
        self._ready_told = False
        self._child = self._start("serve", *options)
        if self._stopping:  # the signal came before the agent existed
            self._child.terminate()
        return self._child

    def _start(self, verb: str, *options: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*command(self._root, verb), *options],
            stdin=subprocess.DEVNULL,
            preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509  this process has one thread
        )

    def _stop(self, *_: object) -> None:
        self._stopping, self._superseded = True, False
        self._manager.stopping()
        self._terminate_child()

    def _reload(self, *_: object) -> None:
        self._asked = True

    def _terminate_child(self) -> None:
        """Drain the agent; unless the device stops, a successor gets the prompts that wait."""
        if self._child is not None and self._child.poll() is None:
            stop = self._stopping and not self._superseded
            self._child.send_signal(signal.SIGTERM if stop else HAND_OVER)

    def _end_child(self) -> None:
        if self._child is None:
            return
        self._terminate_child()
        try:
            self._child.wait(drain_seconds(self._root) + STOP_MARGIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._silence.begins()
