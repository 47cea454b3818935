"""The updater of a device that pulls: one look at the desired state, and what comes of it.

The supervisor starts it (`desired.schedule`). The agent has written what the broker says to
`run/desired.json`, and publishes what the updater writes to `run/update.json`. The updater speaks
with the registry alone, and with nobody while there is nothing to do.
"""

from __future__ import annotations

import platform
import time
from contextlib import suppress

import msgspec

from edgekit.agent.release import holder
from edgekit.agent.release.activate import activate
from edgekit.agent.release.desired.decide import (
    Bring,
    Desired,
    ReleaseStanding,
    decide,
    parse_desired,
)
from edgekit.agent.release.desired.fetch import bring
from edgekit.agent.release.root import Root
from edgekit.agent.release.runs import keeps
from edgekit.agent.release.state import Releases
from edgekit.agent.release.supervisor.process import Supervisor
from edgekit.agent.release.upkeep.quiet import Throttle
from edgekit.core.config import PullConfig, parse_known_agent_config
from edgekit.core.digest import Digest
from edgekit.core.manifest import oci_platform
from edgekit.core.protocol.payloads import MAX_DESIRED_BYTES, UpdatePayload, UpdateState
from edgekit.core.reading import UNREADABLE
from edgekit.core.registry import parse_registry
from edgekit.core.release import ReleaseState
from edgekit.core.room import NoRoomError
from edgekit.errors import EdgekitError, UsageError, VerificationError
from edgekit.registry.client import RegistryAccess, RegistryClient
from edgekit.store import publish

PROGRESS_SECONDS = 30.0  # between two writes of how far a transfer is
MAX_REASON = 500


def look(root: Root, supervisor: Supervisor) -> dict[str, object]:
    """Do what the desired state asks for, as far as it is permitted, and report it.

    Returns:
        The report; an empty one without a desired state.

    Raises:
        EdgekitError: it did not work and may work later; the report says so, too.
    """
    desired = _read(root)
    if desired is None:
        return {}
    config = parse_known_agent_config(root.agent_config.read_bytes()).pull
    if not config.registry:  # it does not pull any more
        root.desired_file.unlink(missing_ok=True)
        return {}
    report = _Report(root, desired)
    todo = decide(desired, standing_of(root, desired.release, report.ended))
    if not isinstance(todo, Bring):
        if todo.state == "good" and report.ended is None:  # a new order for what runs
            keeps(root, desired.release)
        report.write(todo.state, todo.reason, soak_seconds=todo.soak_seconds)
        return report.told
    try:
        _bring(root, config, desired, report)
        report.write("staged")
        if todo.switch:
            report.write("switching")
            with root.updating():
                holder.check(root)
                activate(root, desired.release, supervisor)
    except EdgekitError as error:
        _failed(root, desired, report, error)
        raise
    except OSError as error:
        full = EdgekitError("this device's disk does not take it", str(error))
        _failed(root, desired, report, full)
        raise full from error
    if todo.switch:
        found = decide(desired, standing_of(root, desired.release))
        if not isinstance(found, Bring):
            report.write(found.state, found.reason, soak_seconds=found.soak_seconds)
    return report.told


def _bring(root: Root, config: PullConfig, desired: Desired, report: _Report) -> None:
    address = parse_registry(config.registry, plain_http=config.plain_http)
    access = RegistryAccess(address, config.username, config.password_file, config.ca_file)
    client = RegistryClient(access)
    try:
        pace = Throttle(int(config.mbit_per_second * 1e6 / 8))
        bring(root, client, desired.release, pace, report.progress)
    finally:
        client.close()


def _failed(root: Root, desired: Desired, report: _Report, error: EdgekitError) -> None:
    """Report why a look ended badly, in the word of the supervisor where it has given one."""
    found = decide(desired, standing_of(root, desired.release))
    if not isinstance(found, Bring):
        report.write(found.state, found.reason or error.what, soak_seconds=found.soak_seconds)
        return
    final = isinstance(error, VerificationError | UsageError | NoRoomError)
    reason = f"{error.what}: {error.why}" if error.why else error.what
    report.write("refused" if final else "waiting", reason, error.next_step)


def standing_of(root: Root, release: Digest, ended: UpdateState | None = None) -> ReleaseStanding:
    """How a release stands on this device; `ended` as there."""
    releases = Releases(root.path)
    row, waits, trial = releases.get(release), releases.unproven(), releases.trial()
    current = root.linked(root.current)
    if row is None:
        return ReleaseStanding(current, ended=ended)
    mine = waits is not None and waits.digest == release and waits.waiting
    soaks = trial is not None and trial.digest == release and trial.soaked is not None
    return ReleaseStanding(
        current,
        row.known_state or ReleaseState.STAGED,
        row.reason,
        abs(time.time() - row.since),  # a clock may have been years ahead, and is set right
        waits.reason if mine and waits is not None else "",
        trial.soak_left(time.time()) if soaks and trial is not None else 0.0,
        ended,
    )


def _read(root: Root) -> Desired | None:
    try:
        with root.desired_file.open("rb") as file:
            return parse_desired(file.read(MAX_DESIRED_BYTES + 1))
    except OSError:
        return None


class _Report:
    """What this device made of a desired state: `run/update.json`."""

    def __init__(self, root: Root, desired: Desired) -> None:
        self._root, self._desired = root, desired
        current = root.linked(root.current)
        before = _last(root)
        knew = before is not None and before.release == str(desired.release)
        same = knew and before is not None and before.order == desired.order
        self.ended = before.state if same and before is not None else None
        # what it ran before counts on for what runs now: it may have left that by other means since
        runs = current == desired.release
        self._before = before.before if knew and runs and before is not None else str(current or "")
        self._written = 0.0
        self.told: dict[str, object] = {}

    def write(
        self,
        state: UpdateState,
        reason: str = "",
        next_step: str = "",
        *,
        soak_seconds: float = 0.0,
        fetched: int = 0,
        total: int = 0,
    ) -> None:
        """Write it; a full disk keeps the old one."""
        current = self._root.linked(self._root.current)
        payload = UpdatePayload(
            order=self._desired.order,
            release=str(self._desired.release),
            state=state,
            current=str(current or ""),
            before=self._before,
            reason=reason[:MAX_REASON],
            next=next_step[:MAX_REASON],
            fetched=fetched,
            total=total,
            soak_seconds=soak_seconds,
            platform=oci_platform(platform.machine()),
        )
        self.told = msgspec.to_builtins(payload)
        self._written = time.monotonic()
        with suppress(OSError):
            publish(self._root.update_file, msgspec.json.encode(payload))

    def progress(self, fetched: int, total: int) -> None:
        """Note how far a transfer is, now and then."""
        if time.monotonic() - self._written >= PROGRESS_SECONDS or not self.told:
            self.write("fetching", fetched=fetched, total=total)


def _last(root: Root) -> UpdatePayload | None:
    try:
        return msgspec.json.decode(root.update_file.read_bytes(), type=UpdatePayload)
    except (OSError, *UNREADABLE):
        return None
