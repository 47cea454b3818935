"""What a push would do to a device, of what the device says or of what it runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.core.config import AgentConfig, encode_agent_config
from edgekit.core.digest import Digest
from edgekit.core.manifest import (
    AGENT_TYPE,
    BUNDLE_TYPE,
    CONFIG_TYPE,
    DOCS_TYPE,
    MANIFEST_TYPE,
    PLATFORM,
    PYTHON,
    RUNTIME_TYPE,
    TITLE,
    UNPACKED,
    WEIGHT_TYPE,
    BundleConfig,
    Descriptor,
    Fit,
    Manifest,
    encode,
)
from edgekit.core.room import SCRATCH_BYTES, DiskRoom
from edgekit.errors import EdgekitError, VerificationError
from edgekit.fleet.check import RunningRelease
from edgekit.fleet.commands import Argv, CommandResult
from edgekit.fleet.drive import DeviceDriver, NoAgentError
from edgekit.fleet.facts import DeviceFacts
from edgekit.fleet.inventory import Device
from edgekit.fleet.plan import DryOffer, Missing, estimate
from edgekit.fleet.planning.forecast import (
    Answered,
    DeviceForecast,
    PushOutcome,
    check_signed,
    forecast,
)
from edgekit.fleet.planning.foresee import foresee
from edgekit.fleet.push import ReleaseSource
from edgekit.store import BlobStore
from edgekit.trust.pinned import PinnedManifest, pin
from tests.metadata_maker import Maker

BUNDLE = BundleConfig("m", "2", "llama", "", 16, 1, 16, Fit(500, 0))
CONFIG = AgentConfig("pi")


def layer(kind: str, name: str, size: int, **notes: str) -> Descriptor:
    return Descriptor(kind, Digest.of(name.encode()), size, {TITLE: name, **notes})


def bundle(weights: str = "weights") -> PinnedManifest:
    arm = {PLATFORM: "linux/arm64", PYTHON: "3.11", UNPACKED: "3000"}
    amd = {PLATFORM: "linux/amd64", PYTHON: "3.11", UNPACKED: "9000"}
    layers = [
        layer(WEIGHT_TYPE, weights, 1000),
        layer(AGENT_TYPE, "agent", 10, **{UNPACKED: "40"}),
        layer(RUNTIME_TYPE, "arm", 500, **arm),
        layer(RUNTIME_TYPE, "amd", 700, **amd),
        layer(DOCS_TYPE, "docs", 77),
    ]
    config = Descriptor(CONFIG_TYPE, Digest.of(b"config"), 5)
    data = encode(Manifest(2, MANIFEST_TYPE, BUNDLE_TYPE, config, layers))
    return pin(data, Digest.of(data))


def facts(current: PinnedManifest | None = None, **more: Any) -> DeviceFacts:
    told: dict[str, Any] = {
        "root": "/r",
        "machine": "aarch64",
        "python": "3.11",
        "executable": "/p",
        "glibc": "2.36",
        "ram_bytes": 4 << 30,
        "writable": True,
        "bootstrap": "",
        "current": current.digest if current else None,
        "manifest": current.data.decode() if current else "",
        "free_bytes": 1 << 30,
        "disk_bytes": 2 << 30,
        "cpu_flags": "asimd asimddp",
    }
    return DeviceFacts(**(told | more))


def runtime_of(pinned: PinnedManifest) -> Descriptor:
    return pinned.manifest.runtime_for("linux/arm64", "3.11")


def test_a_device_that_has_nothing_lacks_its_own_layers() -> None:
    new = bundle()
    found = estimate(facts(), new.manifest, runtime_of(new), 20)
    assert found.bytes_to_send == 1000 + 10 + 500 + 5  # no docs, no other runtime
    assert found.room.unpacked == 3040
    assert found.room.first_contact == 40  # its tar, and what it unpacks
    assert found.room.free == 1 << 30


def test_a_device_lacks_what_its_release_does_not_list() -> None:
    old, new = bundle("old_weights"), bundle()
    found = estimate(facts(old), new.manifest, runtime_of(new), 0)
    assert [each.digest for each in found.missing] == [Digest.of(b"weights")]
    assert found.room.needed > 1000
    assert estimate(facts(new), new.manifest, runtime_of(new), 0).room.needed == 0


def foreseen(answered: Answered | EdgekitError, told: DeviceFacts, **more: Any) -> DeviceForecast:
    runs = RunningRelease(told.current, "m", "1", "good", True) if told.current else None
    given = {"runs": runs, "release": bundle().digest} | more
    return forecast("pi", "ssh:pi", told, BUNDLE, given["runs"], answered, CONFIG, given["release"])


def offered(missing: int = 0, collected: int = 0, rate: float | None = None) -> Answered:
    lacks = [Missing(Digest.of(b"weights"), missing, 0)] if missing else []
    room = DiskRoom(missing, 0, 1_000_000_000 + collected, 2_000_000_000)
    return Answered(DryOffer(lacks, room=room, collected=collected), False, 0, rate)


def test_a_switch_says_bytes_time_and_disk() -> None:
    found = foreseen(offered(1_000_000, 5_000, rate=500_000.0), facts(bundle("old")))
    assert (found.outcome, found.bytes, found.seconds) == (PushOutcome.SWITCHED, 1_000_000, 2.0)
    assert found.free == 1_000_000_000
    assert found.free_after is not None
    assert found.free_after < 1_000_000_000 + 5_000 - 1_000_000 - SCRATCH_BYTES
    assert (found.ram_bytes, found.ram_needed) == (4 << 30, 500)
    assert found.hardware_class == "linux/arm64 dotprod 4GB"


def test_without_a_measured_rate_there_is_no_time() -> None:
    assert foreseen(offered(1000), facts()).seconds is None
    assert foreseen(offered(), facts(bundle())).seconds == 0.0


def test_a_first_contact_counts_among_the_bytes() -> None:
    found = foreseen(Answered(offered(1000).offer, True, 200, None), facts())
    assert (found.bytes, found.first_contact, found.estimated) == (1200, 200, True)


@pytest.mark.parametrize(
    ("config", "missing", "answering", "outcome"),
    [
        (encode_agent_config(CONFIG), 0, True, PushOutcome.ALREADY),
        (
            msgspec.toml.encode(CONFIG),
            0,
            True,
            PushOutcome.ALREADY,
        ),  # an older controller's spelling
        (encode_agent_config(AgentConfig("pi", threads=2)), 0, True, PushOutcome.SETTINGS),
        (encode_agent_config(CONFIG), 7, True, PushOutcome.MENDED),
        (encode_agent_config(CONFIG), 0, False, PushOutcome.STARTED),
        (encode_agent_config(CONFIG), 0, None, PushOutcome.ALREADY),
    ],
)
def test_a_device_that_runs_the_release_may_need_nothing(
    config: bytes, missing: int, answering: bool | None, outcome: PushOutcome
) -> None:
    told = facts(bundle(), config=config.decode())
    runs = RunningRelease(bundle().digest, answering=answering)
    assert foreseen(offered(missing), told, runs=runs).outcome == outcome


def test_a_refusal_keeps_its_words() -> None:
    found = foreseen(VerificationError("no", "because", "do this"), facts())
    assert found.outcome == PushOutcome.REFUSED
    assert not found.fits
    assert found.error == {
        "error": "VerificationError",
        "what": "no",
        "why": "because",
        "next": "do this",
    }


# --- metadata, for a device that cannot be asked ----------------------------------------------
def signed(hardware: str = "linux/arm64") -> tuple[PinnedManifest, Maker]:
    new, maker = bundle(), Maker()
    maker.sign(new.data, 1, hardware=[hardware])
    maker.bump()
    return new, maker


def test_metadata_that_a_new_device_takes_is_taken() -> None:
    new, maker = signed()
    assert check_signed(facts(), new, maker.made(), time.time()) == []


def test_other_hardware_is_refused_before_a_first_contact() -> None:
    new, maker = signed("jetson-orin")
    with pytest.raises(VerificationError, match="other hardware"):
        check_signed(facts(), new, maker.made(), time.time())
    named = facts(hardware="# ours\njetson-orin\n")
    assert check_signed(named, new, maker.made(), time.time()) == []


def test_metadata_that_has_expired_by_the_device_s_clock_is_refused() -> None:
    new, maker = signed()
    later = time.time() + 50 * 365 * 86400
    with pytest.raises(VerificationError, match="expired"):
        check_signed(facts(clock=later), new, maker.made(), time.time())


# --- devices of before the question -----------------------------------------------------------
class Old:
    """A device whose agent does not know `--dry-run`."""

    def __init__(self, result: CommandResult, door: bool) -> None:
        self._result, self._door = result, door

    def run(self, argv: Argv, stdin: bytes = b"", seconds: float = 0.0) -> CommandResult:
        if argv[1] == "-":
            told = msgspec.to_builtins(facts(bundle()), enc_hook=str) | {"door": self._door}
            return CommandResult(0, msgspec.json.encode(told), b"")
        return self._result

    def append(self, *arguments: object) -> None: ...

    def bring(self, *arguments: object, **more: object) -> str:
        raise AssertionError("a byte moves")

    def close(self) -> None: ...


USAGE = b"usage: ...\npython -m edgekit.agent: error: unrecognized arguments: --dry-run\n"
WORDS = b'{"what": "no", "why": "`stage` does not take these words", "next": ""}'


def asked(result: CommandResult, door: bool = False) -> DryOffer | None:
    driver = DeviceDriver("pi", Device("ssh:pi"), Old(result, door), "/r")
    return driver.dry_offer(bundle(), None)


def test_an_agent_of_before_the_question_is_not_asked_further() -> None:
    assert asked(CommandResult(2, b"", USAGE)) is None
    assert asked(CommandResult(4, WORDS, b""), door=True) is None


def test_an_agent_that_is_damaged_or_refuses_is_told_from_an_old_one() -> None:
    with pytest.raises(NoAgentError):
        asked(CommandResult(1, b"", b"No module named edgekit"))
    with pytest.raises(VerificationError):
        asked(CommandResult(4, WORDS, b""))


# --- the whole look at one device, by the checks of the push ----------------------------------
class _Store(BlobStore):
    """A store that has every blob, whatever its bytes."""

    def read(self, digest: Digest) -> bytes:
        return encode(BUNDLE)

    def has(self, digest: Digest, size: int | None = None) -> bool:
        return True

    def verify(self, digest: Digest) -> None: ...


class _Device(Old):
    """A device whose agent is of before the question; `told` are its facts."""

    def __init__(self, told: DeviceFacts) -> None:
        super().__init__(CommandResult(2, b"", USAGE), False)
        self._told = told

    def run(self, argv: Argv, stdin: bytes = b"", seconds: float = 0.0) -> CommandResult:
        if argv[1] == "-":
            return CommandResult(0, msgspec.json.encode(self._told, enc_hook=str), b"")
        return super().run(argv, stdin, seconds)


def whole(told: DeviceFacts, tmp_path: Path) -> DeviceForecast:
    new, maker = signed()
    source = ReleaseSource(new, maker.made(), _Store(tmp_path), lambda _: ("name", b"t" * 200))
    driver = DeviceDriver("pi", Device("ssh:pi"), _Device(told), "/r")
    return foresee(driver, "ssh:pi", source, CONFIG, {"pi": 500.0}.get)


def test_a_new_device_gets_a_first_contact(tmp_path: Path) -> None:
    found = whole(facts(), tmp_path)
    assert (found.outcome, found.estimated, found.first_contact) == (
        *(PushOutcome.SWITCHED, True, 200),
    )
    assert found.bytes == 1715
    assert found.seconds == pytest.approx(3.43)
    assert found.warnings == []


def test_a_new_device_without_room_is_refused_with_the_sum(tmp_path: Path) -> None:
    found = whole(facts(free_bytes=1000), tmp_path)
    assert found.outcome == PushOutcome.REFUSED
    assert found.error is not None
    assert "too small" in found.error["what"]
    assert "400 for the first contact" in found.error["why"]


def test_an_old_agent_on_a_full_disk_is_warned_of_and_not_refused(tmp_path: Path) -> None:
    found = whole(facts(bundle("old_weights"), free_bytes=1000), tmp_path)
    assert (found.outcome, found.estimated, found.first_contact) == (
        *(PushOutcome.SWITCHED, True, 0),
    )
    (warning,) = found.warnings
    assert "the disk may be too small" in warning


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"python": "3.9"}, "Python 3.9"),
        ({"python": "3.13"}, "no runtime for linux/arm64 with CPython 3.13"),
        ({"glibc": "2.17"}, "glibc 2.17"),
        ({"ram_bytes": 400}, "too little memory"),
        ({"noexec": "/mnt"}, "noexec"),
        ({"problem": "/x is no folder"}, "cannot be edgekit's folder"),
        ({"writable": False}, "cannot be written"),
        ({"machine": "riscv64"}, "its Python is one for riscv64"),
        ({"clock": 4e9}, "has expired"),
    ],
)
def test_what_the_push_refuses_the_plan_refuses(
    more: dict[str, Any], said: str, tmp_path: Path
) -> None:
    found = whole(facts(**more), tmp_path)
    assert found.outcome == PushOutcome.REFUSED
    assert found.error is not None
    assert said in found.error["what"]
