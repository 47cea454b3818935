"""What a CONNACK grants, and what several brief losses mean; pure."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.protocol import reasons
from edgekit.mqtt.losses import BRIEF_SECONDS, SEVERAL, BriefLosses
from edgekit.mqtt.packet import maximum_packet_size_at
from edgekit.mqtt.terms import BrokerTerms, explain_code, explain_lack, is_explained, read_terms

POOL = "$share/ek.a/edgekit/v1/req/pool/a/+"


def test_a_connack_without_properties_grants_everything() -> None:
    terms = read_terms(SimpleNamespace())
    assert terms == BrokerTerms()
    assert terms.lack(retains=True, filters=["a/+", POOL]) == 0
    assert terms.served([("a/+", 1), (POOL, 1)]) == [("a/+", 1), (POOL, 1)]


def test_what_is_lacking_is_lacking_only_to_those_who_need_it() -> None:
    assert BrokerTerms(retained=False).lack(retains=False, filters=["a/+"]) == 0
    assert BrokerTerms(wildcards=False).lack(retains=True, filters=["a/b"]) == 0
    assert BrokerTerms(shared=False).served([("a", 1), (POOL, 1)]) == [("a", 1)]


@pytest.mark.parametrize(
    ("theirs", "pings_after"), [(None, 30), (0, 30), (10, 10), (30, 30), (600, 30)]
)
def test_pings_come_at_least_as_often_as_either_side_asks(
    theirs: int | None, pings_after: int
) -> None:
    assert BrokerTerms(keepalive_seconds=theirs).keepalive(30) == pings_after


def test_every_code_that_edgekit_knows_has_words() -> None:
    """Those that a broker refuses with; what is no refusal of ours has none."""
    codes = {v for k, v in vars(reasons).items() if k.isupper() and isinstance(v, int)}
    unexplained = {code for code in codes if not is_explained(code)}
    assert unexplained == {
        reasons.NO_MATCHING_SUBSCRIBERS,
        reasons.FAILURE,
        reasons.SESSION_TAKEN_OVER,
    }
    for code in codes - unexplained:
        error = explain_code("pi:1", code, "Its name")
        assert "pi:1" in error.what
        assert f"Its name (0x{code:02X})" in error.why
        assert error.next_step
    for code in (0x9A, 0x9B, 0xA2):
        assert explain_lack("pi:1", code).what == explain_code("pi:1", code, "").what


def test_a_code_without_words_leads_to_the_page() -> None:
    assert "broker.md" in explain_code("pi:1", 0x83, "Implementation specific error").next_step


def test_losses_hint_once_until_a_connection_lasts() -> None:
    losses = BriefLosses()
    for _ in range(2):
        assert [losses.lost(1.0, told_why=False) for _ in range(SEVERAL + 2)] == [
            *[False] * (SEVERAL - 1),
            True,
            False,
            False,
        ]
        assert losses.several
        losses.lost(BRIEF_SECONDS, told_why=False)
        assert not losses.several


def test_a_broker_that_says_why_hints_at_nothing() -> None:
    losses = BriefLosses()
    assert not any(losses.lost(1.0, told_why=True) for _ in range(3 * SEVERAL))


# --- Maximum Packet Size in a CONNACK ---------------------------------------------------------
def test_it_is_found_among_all_the_others() -> None:
    before = bytes.fromhex(
        "11 00000001 12 0001 61 13 0001 15 0000 16 0001 00 1a 0000 1c 0000 1f 0000"
    )
    before += bytes.fromhex("21 0001 22 0001 24 01 25 01 26 0001 27 0001 27 28 01 29 01 2a 01")
    properties = before + bytes.fromhex("27 00000500")
    body = bytes([0, 0, len(properties)]) + properties
    assert maximum_packet_size_at(body) == len(body) - 4
    assert maximum_packet_size_at(bytes([0, 0, len(before)]) + before) is None
    assert maximum_packet_size_at(bytes([0, 0, 0])) is None


@given(st.binary(max_size=60))
def test_whatever_comes_it_is_a_place_or_none_or_a_value_error(body: bytes) -> None:
    try:
        at = maximum_packet_size_at(body)
    except ValueError:
        return
    assert at is None or 3 < at <= len(body) - 4
