"""Asks a device what a push would do to it, by the checks of the push; changes nothing there."""

from __future__ import annotations

import time
from collections.abc import Callable

from edgekit.core.config import AgentConfig
from edgekit.core.manifest import parse_config
from edgekit.errors import EdgekitError
from edgekit.fleet.check import running
from edgekit.fleet.drive import DeviceDriver, NoAgentError, OwnStoreError, check_own
from edgekit.fleet.plan import (
    DryOffer,
    check_first_room,
    check_fit,
    check_settings,
    estimate,
    needs_updater,
)
from edgekit.fleet.planning.forecast import Answered, DeviceForecast, check_signed, forecast
from edgekit.fleet.push import ReleaseSource


def foresee(
    driver: DeviceDriver,
    address: str,
    source: ReleaseSource,
    config: AgentConfig,
    rate_of: Callable[[str], float | None],
) -> DeviceForecast:
    """Forecast a push to one device.

    Args:
        driver: the device's.
        address: of the device in fleet.toml.
        source: what is pushed.
        config: the `agent.toml` that the device gets.
        rate_of: bytes per second of the last push to a device, if they are known.

    Raises:
        UnreachableError: the connection was lost.
    """
    pinned = source.pinned
    bundle = parse_config(source.store.read(pinned.manifest.config.digest))
    runs, _ = running(driver)
    answered: Answered | EdgekitError
    try:
        offer, estimated, first_contact = _ask(driver, source, config)
        answered = Answered(offer, estimated, first_contact, rate_of(driver.name))
    except EdgekitError as error:
        if error.retryable:
            raise
        answered = error
    return forecast(
        driver.name, address, driver.facts, bundle, runs, answered, config, pinned.digest
    )


def _ask(
    driver: DeviceDriver, source: ReleaseSource, config: AgentConfig
) -> tuple[DryOffer, bool, int]:
    """What the device lacks, whether that is an estimate, and the bytes of a first contact.

    It refuses what `push.stage_on` refuses, in its order.
    """
    facts, pinned = driver.facts, source.pinned
    bundle = parse_config(source.store.read(pinned.manifest.config.digest))
    runtime = check_fit(facts, pinned.manifest, bundle)
    check_settings(config, facts, pinned.manifest)
    older = needs_updater(facts, pinned.manifest) and not facts.door
    offer, contact = None, older or not driver.has_agent()
    if not contact:
        try:
            offer = driver.dry_offer(pinned, source.metadata)
        except NoAgentError:
            if facts.door:
                raise
            contact = True
    estimated, first_contact = offer is None, 0
    if offer is None:
        if contact:
            for layer in (pinned.manifest.agent, runtime):
                check_own(source.store, layer.digest)
            first_contact = len(source.make_bootstrap(runtime)[1])
            check_first_room(facts, pinned.manifest, runtime, first_contact)
        warnings = check_signed(facts, pinned, source.metadata, time.time())
        found = estimate(facts, pinned.manifest, runtime, first_contact)
        if facts.free_bytes is not None and found.room.lacking:
            # no refusal: the device may hold blobs that its release does not list, or collect some
            lacking = f"{found.room.lacking:,} bytes are lacking by the estimate"
            warnings.append(f"the disk may be too small: {lacking}")
        offer = DryOffer(found.missing, warnings, room=found.room)
    for blob in offer.missing:
        if not source.store.has(blob.digest, blob.size):
            raise OwnStoreError(
                f"blob {blob.digest.short} is missing from this project's own store",
                next_step="pack the model again",
            )
    return offer, estimated, first_contact
