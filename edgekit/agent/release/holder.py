"""Who holds this device: a lease with a name and an end, across the sessions of one rollout.

`ROOT/run/holder.json` names a project by its id, the operator and the rollout. It holds for some
seconds of a clock that no one sets: CLOCK_BOOTTIME with the boot id. After a reboot it holds once
more so long at most. The verbs of a push need no id: `take` writes down the session that asked
(`lease`), and they are refused to every other session while it holds. One project has one id,
because its own book of rollouts decides between its rollouts.

Whoever takes a device over is written down, too. The session and the rollout that had it before are
refused from then on, also when the new lease has ended: what they meant to do is out of date.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from edgekit.agent.release import lease
from edgekit.agent.release.root import Root
from edgekit.core import layout
from edgekit.core.lease import (
    MOST_LEASE_SECONDS,
    SOAK_SECONDS,
    LeaseAnswer,
    LeaseState,
    LeaseWish,
)
from edgekit.errors import EdgekitError
from edgekit.store import publish

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
AT_WORK_SECONDS = 100.0  # a session outlives its controller by so much, unless a verb runs
KEPT = 8  # take-overs that are remembered
UNNAMED = "a push without a name"


class Uptime(msgspec.Struct, frozen=True):
    """The clock of leases: which boot, and its seconds, also while the device slept."""

    boot: str
    seconds: float


class _Broken(msgspec.Struct, frozen=True):
    """A lease that another operator took over."""

    id: str
    about: str
    session: str
    by: str

    def bars(self, wish: LeaseWish) -> bool:
        """Whether it was broken for what this wish is about."""
        return (self.id, self.about) == (wish.id, wish.about)


class _File(msgspec.Struct, frozen=True):
    """holder.json. A lease that was given back has no id; what was taken over stays."""

    id: str = ""
    holder: str = ""
    about: str = ""
    session: str = ""
    boot: str = ""
    began: float = 0.0  # of the boot's seconds
    ends: float = 0.0
    seconds: float = 0.0  # how long it was taken for
    broken: list[_Broken] = []


def uptime() -> Uptime:
    """The present."""
    try:
        boot = BOOT_ID.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        boot = ""
    return Uptime(boot, time.clock_gettime(time.CLOCK_BOOTTIME))


def take(root: Root, wish: LeaseWish) -> LeaseAnswer:
    """Take the device for the session that started this verb, or again for the same project.

    Returns:
        What holds now, nothing on a full disk. It is not taken if another one holds the device, or
        took it over from what this wish is about.
    """
    now, session = uptime(), lease.session()
    with _locked(root):
        file = _read(root)
        held = _state(file, now)
        mine = file.id == wish.id
        if not wish.take_over:
            barred = [each.by for each in file.broken if each.bars(wish)]
            if barred:
                return LeaseAnswer(False, held, barred[-1])
            if held is not None and not mine:
                return LeaseAnswer(False, held)
            if not mine and (other := _unnamed(root)) is not None:
                return LeaseAnswer(False, other)
        broken = [
            msgspec.structs.replace(each, session="") if each.session == session else each
            for each in file.broken
            if not each.bars(wish)
        ]
        if held is not None and not mine:
            broken.append(_Broken(held.id, held.about, file.session, wish.holder))
        again = held is not None and (file.id, file.about, file.boot) == (
            wish.id,
            wish.about,
            now.boot,
        )
        began = file.began if again else now.seconds
        taken = _File(
            id=wish.id,
            holder=wish.holder,
            about=wish.about,
            session=session,
            boot=now.boot,
            began=began,
            ends=now.seconds + wish.seconds,
            seconds=wish.seconds,
            broken=broken[-KEPT:],
        )
        try:
            _write(root, taken)
        except OSError:  # a full disk: nobody else has the device, and a push makes room first
            if held is not None and not mine:
                raise
            return LeaseAnswer(True)
        if mine or wish.take_over:
            lease.drop_other(root)  # of an earlier session of the same project, or the broken one's
    return LeaseAnswer(True, _state(taken, now))


def give(root: Root, own: str) -> LeaseAnswer:
    """Give the lease back if the project `own` has it; say what holds now."""
    with _locked(root):
        file = _read(root)
        if file.id == own:
            file = _given(root, file)
    return LeaseAnswer(False, _state(file, uptime()))


def settle(root: Root, soak_seconds: float | None = None) -> None:
    """End the lease of this session with its activation; after the soak if there is one.

    On a disk that takes no write it ends when it would have ended.
    """
    if not _is_of(_read(root), lease.session()):
        return
    now = uptime()
    with suppress(OSError), _locked(root):
        file = _read(root)
        if not _is_of(file, lease.session()):
            return
        if soak_seconds is None:
            _given(root, file)
        else:
            seconds = min(soak_seconds + SOAK_SECONDS, MOST_LEASE_SECONDS)
            ends = now.seconds + seconds
            again = msgspec.structs.replace(file, boot=now.boot, ends=ends, seconds=seconds)
            _write(root, again)


def _is_of(file: _File, session: str) -> bool:
    return bool(file.id) and file.session == session


def held(root: Root) -> LeaseState | None:
    """The lease that is held, whoever has it."""
    return _state(_read(root), uptime())


def check(root: Root) -> None:
    """Refuse a verb of a push to a session that does not hold the device.

    Raises:
        EdgekitError: another one holds it, or took it over from this session.
    """
    file, session = _read(root), lease.session()
    found = _state(file, uptime())
    if found is not None and file.session != session:
        raise EdgekitError(
            f"{found} holds this device",
            f"since {found.age_seconds:.0f} s, and for {found.left_seconds:.0f} s more at most",
            f"wait for it (`edgekit push --lock-wait {found.left_seconds:.0f}`), or take the "
            "device over with `--take-over`",
        )
    for each in file.broken:
        if each.session == session:
            raise EdgekitError(
                f"{each.by} took this device over",
                "what this session meant to do is out of date",
                "look at `edgekit state`, then push again",
            )


def _given(root: Root, file: _File) -> _File:
    """Write down that nobody has the lease; the caller holds `_locked`."""
    given = _File(broken=file.broken)
    try:
        _write(root, given)
    except OSError:  # a full disk
        root.holder_file.unlink()
    return given


def _state(file: _File, now: Uptime) -> LeaseState | None:
    """What the file says of the present; None: nobody holds the device."""
    if file.boot == now.boot and file.began <= now.seconds:
        left, age = file.ends - now.seconds, now.seconds - file.began
    else:  # the device was started anew since: its seconds begin again
        left, age = file.seconds - now.seconds, now.seconds
    if left < AT_WORK_SECONDS and file.id and file.boot == now.boot and _is_at_work(file.session):
        left = AT_WORK_SECONDS
    if not file.id or left <= 0:
        return None
    return LeaseState(file.id, file.holder, file.about, round(age, 1), round(left, 1))


def _is_at_work(session: str) -> bool:
    return lease.lives(session) and lease.has_heartbeat(session)


def _unnamed(root: Root) -> LeaseState | None:
    """The push of a controller that takes no lease with a name."""
    if not lease.is_held(root):
        return None
    return LeaseState("", UNNAMED, "push", 0.0, lease.QUIET_SECONDS)


def _read(root: Root) -> _File:
    """The file; as if it were not there when it cannot be read: a damaged lease is nobody's."""
    try:
        return msgspec.json.decode(root.holder_file.read_bytes(), type=_File)
    except (FileNotFoundError, msgspec.MsgspecError):
        return _File()


def _write(root: Root, file: _File) -> None:
    publish(root.holder_file, msgspec.json.encode(file), 0o600)


@contextmanager
def _locked(root: Root) -> Iterator[None]:
    """Hold the lock of the file for a moment; the update lock may be held for minutes."""
    with (root.path / layout.HOLDER_LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
