"""What `edgekit fleet check` finds on one device: its hardware, its clock, and what runs there."""

from __future__ import annotations

import msgspec

from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError
from edgekit.fleet.drive import DeviceDriver
from edgekit.fleet.enroll.values import starts_words
from edgekit.fleet.hardware import hardware_class, isa_flags
from edgekit.fleet.plan import check_machine


class RunningRelease(msgspec.Struct, frozen=True):
    """The release that `current` names.

    Attributes:
        name, version, state: as its agent says; empty if it cannot.
        answering: whether it answers prompts; None if its agent cannot say.
        stopped: an operator had its agent stopped.
        why: why it runs, in one sentence; empty if its agent does not say.
        unproven: the trial of it, or of its settings, could not reach the broker.
        silent_seconds: for how long nobody answered during the last trial; None: not measured.
    """

    digest: Digest
    name: str = ""
    version: str = ""
    state: str = ""
    answering: bool | None = None
    stopped: bool = False
    why: str = ""
    unproven: bool = False
    silent_seconds: float | None = None

    @property
    def reference(self) -> str:
        """NAME:VERSION, or the start of the digest where that is not known."""
        return f"{self.name}:{self.version}" if self.name else self.digest.short


class CheckedDevice(msgspec.Struct, frozen=True):
    """One device that was reached; sizes in bytes, times in seconds.

    Attributes:
        hardware_class: what a rollout calls hardware of the same kind.
        isa: the CPU flags that matter for a model's speed.
        free_bytes, disk_bytes: of ROOT's file system; None and 0 are not known.
        clock_offset_seconds: by how much its clock is ahead of ours; None: it does not say.
        clock_error_seconds: half of the round trip: the offset can be wrong by so much.
        temperature: degrees Celsius; None: it has no sensor.
        starts: what starts its agent.
        account_only: its account reaches a door and no shell.
        release: what runs; None: nothing.
        trouble: what is wrong there, as sentences; empty: nothing.
    """

    device: str
    address: str
    root: str
    platform: str
    system: str
    hardware_class: str
    isa: list[str]
    ram_bytes: int
    free_bytes: int | None
    disk_bytes: int
    glibc: str
    python: str
    clock_offset_seconds: float | None
    clock_error_seconds: float | None
    temperature: float | None
    release: RunningRelease | None
    supervisor: str
    starts: str
    enrolled: bool
    account_only: bool
    trouble: list[str]


MOST_CLOCK_SECONDS = 60.0  # signed metadata is judged by the clock, and so are a prompt's deadlines


def look(driver: DeviceDriver, address: str) -> CheckedDevice:
    """Ask one device everything that `fleet check` shows; nothing there is changed.

    Raises:
        UnreachableError: the connection was lost meanwhile.
    """
    facts, trouble = driver.facts, []
    release, said = running(driver)
    trouble += said
    clock = driver.clock()
    if clock is not None and abs(clock[0]) > MOST_CLOCK_SECONDS + clock[1]:
        trouble.append(f"its clock is {clock[0]:+.0f} s off ours")
    try:
        check_machine(facts)
    except EdgekitError as error:
        trouble.append(error.what)
    if facts.problem:
        trouble.append(f"{facts.root}: {facts.problem}")
    if facts.noexec:
        trouble.append(f"{facts.noexec} is mounted noexec")
    if release is not None and release.answering is False:
        trouble.append("an operator stopped it" if release.stopped else "it does not answer")
    return CheckedDevice(
        device=driver.name,
        address=address,
        root=facts.root,
        platform=facts.platform,
        system=facts.system,
        hardware_class=hardware_class(facts),
        isa=isa_flags(facts),
        ram_bytes=facts.ram_bytes,
        free_bytes=facts.free_bytes,
        disk_bytes=facts.disk_bytes,
        glibc=facts.glibc,
        python=facts.python,
        clock_offset_seconds=None if clock is None else round(clock[0], 3),
        clock_error_seconds=None if clock is None else round(clock[1], 3),
        temperature=facts.temperature,
        release=release,
        supervisor=facts.supervisor or "detached",
        starts=starts_words(facts.supervisor or "detached"),
        enrolled=facts.enrolled,
        account_only=facts.door,
        trouble=trouble,
    )


def running(driver: DeviceDriver) -> tuple[RunningRelease | None, list[str]]:
    """What a device runs, as its own agent says, and why that cannot be said if it cannot.

    An agent of before a fact does not say it.

    Raises:
        UnreachableError: the connection was lost.
    """
    current = driver.facts.current
    if current is None:
        return None, []
    try:
        told = driver.call("state")
    except EdgekitError as error:
        if error.retryable:
            raise
        return RunningRelease(current), [f"{error.what}: {error.why}"]
    rows: list[dict[str, str]] = told["releases"]
    own = next((each for each in rows if each["digest"] == current), {})
    return RunningRelease(
        digest=current,
        name=own.get("name", ""),
        version=own.get("version", ""),
        state=own.get("state", ""),
        answering=told.get("answering"),
        stopped=told.get("stopped_since") is not None,
        why=told.get("why") or "",
        unproven=(told.get("unproven") or {}).get("digest") == current,
        silent_seconds=(told.get("trial") or {}).get("silent_seconds"),
    ), []
