"""Clocks at 1970 and 2099, a year offline, expiry, and what a device remembers of time."""

from __future__ import annotations

import pytest

from edgekit.trust.metadata import (
    accept,
)
from tests.believing import DAY, NOW, first, keep, maker, next_of, refused

# --- clocks


def test_a_clock_at_1970_is_no_way_to_expired_metadata() -> None:
    made = maker()
    kept = first(made)
    accept(kept, None, made.made(), 0.0)
    later = made.copy()
    later.now = NOW + 300 * DAY
    later.bump()
    kept = keep(accept(kept, None, later.made(), 0.0))
    assert kept.signed_at == int(later.now)
    refused(kept, made.made(), "not the version", clock=0.0)
    expired = made.copy()
    expired.versions = dict.fromkeys(made.versions, 9)  # signed 300 days ago, for 200
    expired.life["targets"] = 200 / 730
    refused(kept, expired.made(), "targets.json has expired", clock=0.0)


def test_a_device_without_a_clock_believes_the_time_of_the_timestamp_for_the_other_files() -> None:
    made = maker(life={"targets": 0.001})
    made.signed_at = int(NOW + 100 * DAY)
    refused(None, made.made(), "targets.json has expired", clock=0.0)


def test_a_clock_at_2099_refuses_and_names_the_clock() -> None:
    made = maker()
    error = refused(first(made), next_of(made), "has expired", "2099", clock=4_070_908_800.0)
    assert error.next_step.startswith("is it 2099 there? If not, set the device's clock")
    assert "was signed on 20" in error.why
    refused(first(made), next_of(made), "has expired", clock=1e18)
    assert accept(first(made), None, made.made(), -5.0)


def test_a_year_offline_and_then_a_push() -> None:
    made = maker()
    kept = first(made)
    later = NOW + 366 * DAY
    error = refused(kept, made.made(), "timestamp.json has expired", clock=later)
    assert "`edgekit push`" in error.next_step
    made.now = later  # a push signs snapshot and timestamp anew; root and targets stay
    made.life |= {"root": (5 * 365 - 366) / (5 * 365), "targets": (730 - 366) / 730}
    made.bump("snapshot", "timestamp")
    trusted = accept(kept, None, made.made(), later)
    assert trusted.signed_at == int(later)
    (warning,) = trusted.warnings
    assert warning.startswith("targets.json is past half of its life")
    assert "edgekit sign" in warning


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_each_file_that_has_expired_is_named(role: str) -> None:
    made = maker(life={role: 0.001})
    error = refused(None, made.made(), f"{role}.json has expired", clock=NOW + 30 * DAY)
    assert {"root": "key rotate", "targets": "sign"}.get(role, "push") in error.next_step


def test_the_remembered_time_never_rises_from_the_clock_and_never_falls() -> None:
    made = maker()
    kept = first(made)
    assert keep(accept(kept, None, made.made(), NOW + 100 * DAY)).signed_at == int(NOW)
    made.now -= 50 * DAY  # a controller whose clock is behind
    made.bump()
    assert accept(kept, None, made.made(), 0.0).signed_at == int(NOW)


@pytest.mark.parametrize("said", [-1, True, "now", None, 10**18, [], {}])
def test_a_signing_time_that_cannot_be_is_refused(said: object) -> None:
    made = maker()
    made.signed_at = said if said is not None else [None]
    refused(None, made.made(), "impossible signing time")


def test_metadata_without_a_signing_time_is_taken_and_raises_nothing() -> None:
    made = maker(signed_at=...)
    assert accept(None, None, made.made(), NOW).signed_at == 0
