"""A saved plan: read as it was written, or refused by name; and what has changed since."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError, UsageError, VerificationError
from edgekit.fleet.check import RunningRelease
from edgekit.fleet.planning.forecast import DeviceForecast, PushOutcome
from edgekit.fleet.planning.planfile import (
    MOST_SAID,
    PlannedDevice,
    PushPlan,
    changes,
    differences,
    encode_plan,
    parse_plan,
    refuse_changed,
)
from edgekit.fleet.rollout.waves import Terms
from edgekit.trust.signed import SignedRelease

OLD, NEW, BLOB = Digest.of(b"old"), Digest.of(b"new"), Digest.of(b"blob")
CONFIG, ROOT = Digest.of(b"config"), Digest.of(b"root")
SIGNED = SignedRelease(name="m", version="2", counter=7, hardware=["linux/arm64"])
KIND = "linux/arm64 dotprod 4GB"


DOES = PushOutcome.SWITCHED


def plan() -> PushPlan:
    device = PlannedDevice("ssh:pi", "", CONFIG, current=OLD, sends=[BLOB], bytes=12, outcome=DOES)
    return PushPlan(
        made_at=1.5,
        made_by="ada@host",
        release=NEW,
        reference="m:2",
        signed=SIGNED,
        root=ROOT,
        waves=[["pi"], ["gone", "two"]],
        kinds={"pi": KIND, "two": KIND, "gone": ""},
        terms=Terms(parallel=3, confirm=True),
        devices={
            "pi": device,
            "two": device,
            "gone": PlannedDevice("ssh:gone", "", CONFIG, away=True),
        },
    )


def test_a_plan_is_read_as_it_was_written() -> None:
    data = encode_plan(plan())
    assert parse_plan(data, "p.json") == plan()
    assert encode_plan(parse_plan(data, "p.json")) == data
    rollout = plan().rollout
    assert (rollout.release, rollout.waves, rollout.terms) == (NEW, plan().waves, plan().terms)


def set_to(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Set what lies at `path[:-1]` to its last word."""

    def change(told: dict[str, Any]) -> None:
        *walk, key, value = path
        for each in walk:
            told = told[each]
        told[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (set_to("release", str(OLD)), VerificationError, "is not as"),
        (set_to("waves", [["pi", "two", "gone"]]), VerificationError, "is not as"),
        (set_to("terms", "parallel", 99), VerificationError, "is not as"),
        (set_to("devices", "pi", "address", "ssh:other"), VerificationError, "is not as"),
        (set_to("devices", "pi", "current", None), VerificationError, "is not as"),
        (set_to("signed", "counter", 8), VerificationError, "is not as"),
        (set_to("digest", None), VerificationError, "is not as"),
        (set_to("digest", "sha256:00"), VerificationError, "is not as"),
        (set_to("version", 2), UsageError, "version 2"),
        (set_to("version", "1"), UsageError, "version '1'"),
        (set_to("surprise", 1), UsageError, "surprise"),
        (set_to("devices", "pi", "surprise", 1), UsageError, "surprise"),
        (set_to("terms", "surprise", 1), UsageError, r"terms\.surprise"),
        (set_to("signed", "surprise", 1), UsageError, r"signed\.surprise"),
        (set_to("release", "sha256:zz"), UsageError, "no valid plan"),
        (set_to("waves", "all"), UsageError, "no valid plan"),
        (set_to("terms", "parallel", 0), UsageError, "no valid plan"),
    ],
)
def test_a_plan_that_was_edited_is_refused_by_name(
    change: Callable[[dict[str, Any]], None], kind: type[EdgekitError], said: str
) -> None:
    told = json.loads(encode_plan(plan()))
    change(told)
    with pytest.raises(kind, match=said) as raised:
        parse_plan(json.dumps(told).encode(), "p.json")
    assert "p.json" in str(raised.value)
    assert "--plan --save" in raised.value.next_step


@pytest.mark.parametrize(
    "change",
    [
        {"waves": [["pi"], ["pi", "two", "gone"]]},
        {"waves": [["pi", "two", "gone"], []]},
        {"waves": [["pi", "two"]]},
        {"waves": []},
        {"kinds": {}},
        {"windows": {"pi": "whenever"}},
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    data = encode_plan(msgspec.structs.replace(plan(), **change))
    with pytest.raises(UsageError, match=r"p\.json is no valid plan"):
        parse_plan(data, "p.json")


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"version": 1}'])
def test_what_is_no_plan_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match="is no plan"):
        parse_plan(data, "p.json")


@pytest.mark.parametrize("cut", [2, 100, 500])
def test_half_a_plan_is_refused(cut: int) -> None:
    with pytest.raises(UsageError, match="is no plan"):
        parse_plan(encode_plan(plan())[:-cut], "p.json")


DEVICES = {name: (f"ssh:{name}", "", CONFIG) for name in ("pi", "gone")}
DEVICES["two"] = DEVICES["pi"]


def test_a_window_that_fleet_toml_got_since_is_not_passed_over() -> None:
    """The plan switches by its own windows: the new one would be broken without a word."""
    pi = msgspec.structs.replace(plan().devices["pi"], window="")
    made = msgspec.structs.replace(plan(), devices=plan().devices | {"pi": pi})
    as_it_was = dict.fromkeys(DEVICES, "")
    assert parse_plan(encode_plan(made), "p.json") == made
    assert differences(made, SIGNED, ROOT, DEVICES, as_it_was) == []
    night = as_it_was | {"pi": "22:00-05:00 UTC"}
    (found,) = differences(made, SIGNED, ROOT, DEVICES, night)
    assert found == "pi has the window 22:00-05:00 UTC in fleet.toml; it had no window of its own"
    assert differences(plan(), SIGNED, ROOT, DEVICES, night) == [], "a plan of before that"


def test_a_project_that_is_as_it_was_has_no_differences() -> None:
    assert differences(plan(), SIGNED, ROOT, DEVICES) == []


@pytest.mark.parametrize(
    ("signed", "root", "devices", "said"),
    [
        (None, ROOT, {}, "metadata of m:2"),
        (msgspec.structs.replace(SIGNED, counter=8), ROOT, {}, "metadata of m:2"),
        (SIGNED, OLD, {}, "root.json has changed"),
        (SIGNED, ROOT, {"pi": ("ssh:other", "", CONFIG)}, "pi has another address"),
        (SIGNED, ROOT, {"pi": ("ssh:pi", "/r", CONFIG)}, "pi has another address or root"),
        (SIGNED, ROOT, {"two": ("ssh:pi", "", OLD)}, "two has other settings"),
    ],
)
def test_each_difference_of_the_project_is_named(
    signed: SignedRelease | None, root: Digest, devices: dict[str, Any], said: str
) -> None:
    (found,) = differences(plan(), signed, root, DEVICES | devices)
    assert said in found


def test_a_device_that_fleet_toml_lost_is_named() -> None:
    few = {name: each for name, each in DEVICES.items() if name != "two"}
    assert differences(plan(), SIGNED, ROOT, few) == ["two is not in fleet.toml any more"]


def now(name: str, **more: Any) -> DeviceForecast:
    told: dict[str, Any] = {
        "outcome": PushOutcome.SWITCHED,
        "hardware_class": KIND,
        "runs": RunningRelease(OLD),
        "sends": [BLOB],
    }
    return DeviceForecast(device=name, address="", **(told | more))


SAME = {name: now(name) for name in ("pi", "two")} | {"gone": now("gone", outcome=PushOutcome.AWAY)}
ERROR = {"error": "", "what": "too small", "why": "disk", "next": ""}


def test_a_device_that_was_to_stay_as_it_is_and_would_be_restarted_is_a_change() -> None:
    """Somebody else gave it other settings since, or it has stopped."""
    one = PlannedDevice("ssh:pi", "", CONFIG, current=NEW, outcome=PushOutcome.ALREADY)
    made = msgspec.structs.replace(plan(), waves=[["pi"]], devices={"pi": one})
    for outcome, said in (
        (PushOutcome.ALREADY, []),
        (PushOutcome.SETTINGS, ["pi would be new settings; the plan says already"]),
        (PushOutcome.STARTED, ["pi would be started; the plan says already"]),
    ):
        found = now("pi", outcome=outcome, runs=RunningRelease(NEW), sends=[])
        assert changes(made, {"pi": found}) == said
        old = msgspec.structs.replace(one, outcome=None)  # of a plan of before this was noted
        assert changes(msgspec.structs.replace(made, devices={"pi": old}), {"pi": found}) == []


def test_devices_that_are_as_they_were_have_no_changes() -> None:
    assert changes(plan(), SAME) == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (now("pi", runs=RunningRelease(NEW)), f"pi runs {NEW.short}; it ran {OLD.short}"),
        (now("pi", runs=None), f"pi runs nothing; it ran {OLD.short}"),
        (now("pi", sends=[BLOB, OLD]), "pi lacks 1 blobs that it had"),
        (now("pi", hardware_class="linux/amd64 avx2 8GB"), "pi is linux/amd64 avx2 8GB; it was"),
        (now("pi", outcome=PushOutcome.REFUSED, error=ERROR), "pi refuses it now: too small: disk"),
    ],
)
def test_each_change_of_a_device_is_named(found: DeviceForecast, said: str) -> None:
    (one,) = changes(plan(), SAME | {"pi": found})
    assert one.startswith(said)


@pytest.mark.parametrize(
    "found",
    [
        {"pi": now("pi", sends=[])},  # what an interrupted push has brought since
        {"pi": now("pi", outcome=PushOutcome.AWAY, runs=None)},
        {"gone": now("gone", runs=RunningRelease(BLOB))},
    ],
)
def test_what_a_plan_did_not_rely_on_is_no_change(found: dict[str, DeviceForecast]) -> None:
    assert changes(plan(), SAME | found) == []


def test_the_error_lists_some_differences_and_counts_the_rest() -> None:
    refuse_changed("p.json", [])
    many = [f"d{number} is gone" for number in range(MOST_SAID + 5)]
    with pytest.raises(VerificationError, match="nothing was sent") as raised:
        refuse_changed("p.json", many)
    assert "d9 is gone" in raised.value.why
    assert "d10" not in raised.value.why
    assert "and 5 more" in raised.value.why
