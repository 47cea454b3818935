"""The steps of a push on one device: stage, activate, ask for the verdict, go back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from edgekit.core.config import AgentConfig
from edgekit.core.digest import Digest
from edgekit.core.lease import LeaseWish
from edgekit.core.manifest import Descriptor, parse_config
from edgekit.core.quality import QualityReport
from edgekit.core.release import ReleaseState
from edgekit.errors import EdgekitError, VerificationError
from edgekit.fleet.drive import (
    ACTIVATE_SECONDS,
    ROUNDS,
    DeviceDriver,
    Event,
    NoAgentError,
    OwnStoreError,
    Report,
    check_own,
)
from edgekit.fleet.places import refuse_named
from edgekit.fleet.plan import (
    Offer,
    TrialVerdict,
    check_first_room,
    check_fit,
    check_settings,
    config_bytes,
    is_as_told,
    needs_updater,
)
from edgekit.store import BlobStore
from edgekit.trust.pinned import PinnedManifest
from edgekit.trust.signed import Metadata

STAGE_SECONDS = 1800.0  # hashing and unpacking from a slow SD card
WHY_LETTERS = 300  # of a device's reason why it compares nothing


@dataclass(frozen=True)
class ReleaseSource:
    """A release, what signs it (None sends nothing), and the store that holds its blobs.

    `make_bootstrap` makes name and tar of a first contact, given a runtime layer.
    """

    pinned: PinnedManifest
    metadata: Metadata | None
    store: BlobStore
    make_bootstrap: Callable[[Descriptor], tuple[str, bytes]]


@dataclass
class Sent:
    """What a staging sent, for how many seconds, and why on a slower way than a pull."""

    blobs: int = 0
    bytes: int = 0
    seconds: float = 0.0
    slower: str = ""


class Staged(msgspec.Struct, frozen=True):
    """A release is on a device, verified; `before` is what the device runs.

    `runs` is what it says of the release if it runs it already, with the same configuration.
    """

    before: Digest | None
    sent: Sent
    warnings: list[str]
    runs: TrialVerdict | None = None


def stage_on(
    driver: DeviceDriver,
    source: ReleaseSource,
    config: AgentConfig,
    report: Report,
    lease: LeaseWish | None = None,
) -> Staged:
    """Bring a release to a device and have it verify every byte; the old one goes on answering.

    Args:
        driver: the device's driver.
        source: the release.
        config: the device's `agent.toml`, which the release must know.
        report: called with progress.
        lease: who holds the device from now on; None: nobody by name.

    Raises:
        LeaseHeldError: another one holds the device, or took it over.
        EdgekitError: or one of its kinds; says what the device lacks or refuses.
    """
    pinned, store = source.pinned, source.store
    bundle = parse_config(store.read(pinned.manifest.config.digest))
    runtime = check_fit(driver.facts, pinned.manifest, bundle)
    check_settings(config, driver.facts, pinned.manifest)
    before = driver.facts.current

    def first_contact() -> None:
        for layer in (pinned.manifest.agent, runtime):
            check_own(store, layer.digest)  # its code will run on the device
        report(Event("first contact"))
        name, tar = source.make_bootstrap(runtime)
        check_first_room(driver.facts, pinned.manifest, runtime, len(tar))
        driver.bootstrap(name, tar, report)

    # An agent that stages in an older way gets the new one first: it then runs every verb. A device
    # behind a door takes no agent of ours: its own stages the new one.
    older = needs_updater(driver.facts, pinned.manifest) and not driver.facts.door
    if older or not driver.has_agent():
        first_contact()
    report(Event("compare"))
    same = is_as_told(config, driver.facts, pinned.digest)
    try:
        told = driver.facts.config.encode() if same else b""
        offer = driver.offer(pinned, source.metadata, lease, told)
    except NoAgentError:
        if driver.facts.door:  # it takes no agent of ours
            raise
        first_contact()
        offer = driver.offer(pinned, source.metadata, lease)
    if offer.runs is not None:
        return Staged(before, Sent(), offer.warnings, offer.runs)
    return Staged(before, _fill(driver, source, offer, report), offer.warnings)


def _fill(driver: DeviceDriver, source: ReleaseSource, offer: Offer, report: Report) -> Sent:
    """Transfer and stage until the device has verified every blob, at most `ROUNDS` times."""
    sent = Sent()
    for left in reversed(range(ROUNDS)):
        began = time.monotonic()
        try:
            sent.bytes += driver.send(offer, source.store, report)
            sent.blobs += len(offer.missing)
            sent.seconds += time.monotonic() - began
            sent.slower = driver.slower
            report(Event("stage"))
            driver.call("stage", source.pinned.digest, seconds=STAGE_SECONDS)
            break
        except OwnStoreError:
            raise
        except VerificationError:
            if not left:
                raise
            offer = driver.offer(source.pinned, source.metadata)
    return sent


def activate_on(driver: DeviceDriver, release: Digest, config: AgentConfig) -> TrialVerdict:
    """Switch a device to a staged release; return when it answers.

    Raises:
        EdgekitError: the trial failed or is unproven; the device runs what it ran before.
    """
    told = config_bytes(config, driver.facts, release)
    seconds = ACTIVATE_SECONDS + config.trial_seconds
    answer = driver.call("activate", release, "--config", "-", stdin=told, seconds=seconds)
    return msgspec.convert(answer, TrialVerdict)


def standing_of(driver: DeviceDriver, release: Digest) -> tuple[ReleaseState | None, str, float]:
    """How a release stands on a device that was asked to activate it.

    Returns:
        Its state; None when the device does not have it, or keeps a state that we do not know. A
        reason: why it is bad, or why it is unproven (its state is then `trial`). And how many
        seconds of its soak are left, or 0 when the device does not say it.
    """
    told: dict[str, Any] = driver.call("state")
    row = next((each for each in told["releases"] if each["digest"] == release), None)
    if row is None or row["state"] not in list(ReleaseState):
        return None, "", 0.0
    state = ReleaseState(row["state"])
    unproven, trial = told.get("unproven") or {}, told.get("trial") or {}
    if state == ReleaseState.TRIAL and unproven.get("digest") == release:
        return state, unproven["reason"], 0.0
    if state == ReleaseState.GOOD and told["current"] != release:  # another one came after it
        return ReleaseState.STAGED, "", 0.0
    mine = trial.get("release") == release
    return state, row["reason"], float((trial.get("soak_seconds") or 0.0) if mine else 0.0)


def quality_of(driver: DeviceDriver, release: Digest) -> QualityReport | None:
    """How a device compares a release with the one before it; None: it does not know it yet.

    A device that never will says so in `why`.
    """
    told: dict[str, Any] = driver.call("state")
    if told["current"] != release:
        return QualityReport(str(release), why="not comparable: the device runs another release")
    if "quality" not in told:
        return QualityReport(str(release), why="not comparable: its agent compares no releases")
    found = told["quality"]
    if found is None:
        return None
    try:
        report = msgspec.convert(found, QualityReport)
    except msgspec.ValidationError as error:
        return QualityReport(str(release), why=f"not comparable: its score is none: {error}")
    return msgspec.structs.replace(report, why=report.why[:WHY_LETTERS])


def go_back_on(driver: DeviceDriver, release: Digest, before: Digest | None) -> None:
    """Take a device from `release` back to what it ran before; nothing if it runs another one.

    Where the release is unproven the old one runs, and the device would try it again by itself: it
    is told to keep the old one.

    Raises:
        EdgekitError: it would go back to another release, or it cannot.
    """
    told = driver.call("state")
    if driver.facts.current != release:
        if _is_unproven(told, release):
            _keep(driver, driver.facts.current, release)
        return
    previous = told["previous"]
    if before is None or previous != before:
        now = f"it would go back to {Digest(previous).short}" if previous else "it has no other"
        raise EdgekitError(
            f"{driver.name} cannot go back to what it ran before this rollout",
            now if before else "it ran nothing before",
            f"push another release to it, or `edgekit rollback {driver.name}`",
        )
    refuse_named(driver.name, driver.facts)
    # a configuration on trial, or one that waits, is what a rollback gives up first
    runs = driver.call("rollback", seconds=2 * ACTIVATE_SECONDS).get("release")
    if runs == release:
        runs = driver.call("rollback", seconds=2 * ACTIVATE_SECONDS).get("release")
    if runs != before:
        raise EdgekitError(
            f"{driver.name} did not go back to what it ran before this rollout",
            f"it runs {runs}",
            f"`edgekit state {driver.name}` shows what runs there",
        )


def _is_unproven(told: dict[str, Any], release: Digest) -> bool:
    return (told.get("unproven") or {}).get("digest") == release


def _keep(driver: DeviceDriver, current: Digest | None, release: Digest) -> None:
    """Have a device keep what it runs: it gives up the unproven release.

    Raises:
        EdgekitError: its agent is of before this, and goes on trying.
    """
    if current is not None:
        config = driver.facts.config.encode()
        driver.call(
            "activate", current, "--config", "-", stdin=config, seconds=2 * ACTIVATE_SECONDS
        )
    if _is_unproven(driver.call("state"), release):
        raise EdgekitError(
            f"{driver.name} runs what it ran before, and goes on trying {release.short}",
            "its agent is older than this question",
            f"push another release to it: `edgekit push {driver.name} --bundle NAME:VERSION`",
        )
