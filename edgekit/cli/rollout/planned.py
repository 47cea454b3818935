"""`push --plan` and `push --from`: what a push would do, and a push exactly as it was planned."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekit.cli import project, render
from edgekit.cli.release.trust import trust_of
from edgekit.core.config import AgentConfig, encode_agent_config
from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError, PartialError, UsageError, VerificationError
from edgekit.fleet.inventory import Fleet
from edgekit.fleet.planning.forecast import DeviceForecast, PushOutcome, away
from edgekit.fleet.planning.foresee import foresee
from edgekit.fleet.planning.planfile import (
    MAX_FILE_BYTES,
    PlannedDevice,
    PushPlan,
    changes,
    differences,
    encode_plan,
    parse_plan,
    refuse_changed,
)
from edgekit.fleet.planning.rates import note_rate, read_rates
from edgekit.fleet.push import ReleaseSource
from edgekit.fleet.rollout.hands import Pushed
from edgekit.fleet.rollout.hook import check_names
from edgekit.fleet.rollout.waves import UNKNOWN, RolloutPlan, Terms, waves_of
from edgekit.fleet.survey import PARALLEL, survey
from edgekit.signing.releases import lookup
from edgekit.store import publish
from edgekit.trust.signed import SignedRelease


@dataclass(frozen=True)
class PushAhead:
    """A push that has not begun: its project, its release and what each device gets.

    Attributes:
        configs: the `agent.toml` of each device; its keys are the devices of the push.
    """

    here: project.Project
    fleet: Fleet
    source: ReleaseSource
    reference: str
    configs: Mapping[str, AgentConfig]

    def forecasts(self, parallel: int = PARALLEL) -> dict[str, DeviceForecast]:
        """Ask each device what the push would do; nothing there is changed."""
        addresses = {name: self.fleet.devices[name].address for name in self.configs}
        measured = read_rates(_rates_file(self.here))
        rates = {
            name: min(rate, self._cap(name)) for name, rate in measured.items() if name in addresses
        }
        with render.counting("devices") as bar:
            found = survey(
                self.fleet,
                list(self.configs),
                lambda driver: foresee(
                    driver,
                    addresses[driver.name],
                    self.source,
                    self.configs[driver.name],
                    rates.get,
                ),
                bar,
                parallel,
            )
        told = {
            name: each
            if isinstance(each, DeviceForecast)
            else away(name, addresses[name], each)
            if each.retryable
            else _refused(name, addresses[name], each)
            for name, each in found.items()
        }
        return {name: self._named(each) for name, each in told.items()}

    def _cap(self, name: str) -> float:
        """Bytes per second that may leave for a device."""
        mbit = self.fleet.devices[name].transfer_mbit_per_second
        mbit = mbit or self.fleet.transfer.device_mbit_per_second
        caps = [each for each in (mbit, self.fleet.transfer.mbit_per_second) if each]
        return min(caps, default=math.inf) * 1e6 / 8

    def _named(self, each: DeviceForecast) -> DeviceForecast:
        if each.error is None:
            return each
        own = render.named(each.error["next"], each.device, self.reference)
        return msgspec.structs.replace(each, error=each.error | {"next": own})


def _refused(name: str, address: str, error: EdgekitError) -> DeviceForecast:
    """A device that lets nobody in, or whose host key has changed."""
    return DeviceForecast(
        device=name, address=address, outcome=PushOutcome.REFUSED, error=error.to_dict()
    )


def _rates_file(here: project.Project) -> Path:
    return here.folder / ".edgekit" / "rates.json"


def note_rates(here: project.Project, done: list[Pushed]) -> None:
    """Remember how fast each transfer of a push was, for the next plan.

    A disk that does not take it makes no push fail that has ended well.
    """
    with suppress(OSError):
        for one in done:
            note_rate(_rates_file(here), one.device, one.bytes_sent, one.transfer_seconds)


# --- push --plan ------------------------------------------------------------------------------
def plan_push(
    ahead: PushAhead,
    terms: Terms,
    windows: dict[str, str],
    save: Path | None,
    by: str,
    as_json: bool,
) -> None:
    """Show what a push would do, and save it as a plan; nothing on any device is changed.

    Raises:
        PartialError: some devices are refused or away.
        EdgekitError: all are; of the kind of their refusals.
    """
    found = ahead.forecasts()
    kinds = {
        name: each.hardware_class or UNKNOWN
        for name, each in found.items()
        if each.outcome != PushOutcome.REFUSED
    }
    release = ahead.source.pinned.digest
    same = {name for name, each in found.items() if each.outcome == PushOutcome.ALREADY}
    waves = waves_of(kinds, release, ahead.fleet.rollout.shares or None, same)
    within = {name: window for name, window in windows.items() if name in kinds}
    if waves:
        check_names(rollout := RolloutPlan(release, waves, kinds, terms, within))
        if save is not None:
            publish(save.resolve(), encode_plan(_plan(ahead, found, rollout, by)))
    if as_json:
        render.print_json(
            {
                "release": release,
                "reference": ahead.reference,
                "waves": waves,
                "kinds": kinds,
                "terms": terms,
                "windows": within,
                "devices": list(found.values()),
                "saved": str(save) if save is not None and waves else None,
            }
        )
    else:
        _show(ahead, found, waves, terms)
        for name, window in within.items():
            render.say(f"{name} switches in its window alone: {window}")
        if save is not None and waves:
            render.say(f"saved as {save}; `edgekit push --from {save}` pushes exactly this")
    _raise_for(list(found.values()))


def _plan(
    ahead: PushAhead, found: Mapping[str, DeviceForecast], rollout: RolloutPlan, by: str
) -> PushPlan:
    signed, root = _trust(ahead)
    if signed is None:
        raise VerificationError(f"the bundle {ahead.reference} is not signed any more")
    devices = {}
    for name in rollout.kinds:
        each = found[name]
        devices[name] = PlannedDevice(
            *_configured(ahead, name),
            away=each.outcome == PushOutcome.AWAY,
            current=each.runs.digest if each.runs else None,
            sends=each.sends,
            bytes=each.bytes,
            outcome=each.outcome,
            window=ahead.fleet.devices[name].window,
        )
    return PushPlan(
        made_at=time.time(),
        made_by=by,
        release=rollout.release,
        reference=ahead.reference,
        signed=signed,
        root=root,
        waves=rollout.waves,
        kinds=rollout.kinds,
        terms=rollout.terms,
        windows=rollout.windows,
        devices=devices,
    )


def _trust(ahead: PushAhead) -> tuple[SignedRelease | None, Digest]:
    """What the metadata says of the release, and the digest of the newest root."""
    assert ahead.source.metadata is not None, "a push sends what signs its bundle"
    signed = lookup(trust_of(ahead.here.folder), ahead.source.pinned.digest)
    return signed, Digest.of(ahead.source.metadata.roots[-1].encode())


def _configured(ahead: PushAhead, name: str) -> tuple[str, str, Digest]:
    """Address, root and digest of the `agent.toml` of a device."""
    device = ahead.fleet.devices[name]
    return device.address, device.root, Digest.of(encode_agent_config(ahead.configs[name]))


def _show(
    ahead: PushAhead,
    found: Mapping[str, DeviceForecast],
    waves: list[list[str]],
    terms: Terms,
) -> None:
    heads = [
        "wave",
        "device",
        "hardware",
        "now",
        "then",
        "bytes, blobs",
        "takes",
        "free after",
        "RAM",
        "silent",
    ]
    rows = [
        _row(number, found[name], ahead.reference)
        for number, wave in enumerate(waves, 1)
        for name in wave
    ]
    if rows:
        render.table(heads, rows)
    for each in found.values():
        if each.error is not None:
            error = EdgekitError(each.error["what"], each.error["why"], each.error["next"])
            render.complain(f"{each.device} is {each.outcome}: {error}")
        for warning in each.warnings:
            render.warn(f"{each.device}: {warning}")
    sending = [each for each in found.values() if each.fits and each.bytes]
    if known := sorted(each.rate for each in sending if each.seconds is not None and each.rate):
        between = " to ".join(dict.fromkeys(f"{render.size(x)}/s" for x in (known[0], known[-1])))
        render.say(f"times are by the rate of each device's last push, {between}")
    if unknown := [each.device for each in sending if each.seconds is None]:
        render.say(f"no time is known for {', '.join(unknown)}: no push has measured the rate yet")
    if guessed := [each.device for each in found.values() if each.estimated]:
        render.say(f"~ estimated by what runs there: no agent to ask on {', '.join(guessed)}")
    if first := [each.device for each in found.values() if each.first_contact]:
        render.say(f"among the bytes is a first contact with {', '.join(first)}")
    total = sum(each.bytes for each in sending)
    many = f", {len(waves)} waves, {terms.parallel} at a time" if len(waves) > 1 else ""
    render.say(f"{ahead.reference}: {render.size(total)} to {len(sending)} devices in all{many}")


def _row(wave: int, each: DeviceForecast, reference: str) -> list[str]:
    if each.outcome == PushOutcome.AWAY:
        return [str(wave), each.device, "", "away", *[""] * 6]
    blobs = len(each.sends)
    sends = f"{'~' if each.estimated else ''}{render.size(each.bytes)}, {blobs}"
    then = {PushOutcome.SWITCHED: reference}.get(each.outcome, str(each.outcome))
    return [
        str(wave),
        each.device,
        each.hardware_class.removeprefix("linux/"),
        each.runs.reference if each.runs else "nothing",
        then,
        sends if each.bytes else "nothing",
        _takes(each),
        "?" if each.free_after is None else render.size(each.free_after),
        f"{each.ram_needed / 1e9:.1f}/{each.ram_bytes / 1e9:.0f} GB",
        "?" if each.silent_seconds is None else f"{each.silent_seconds:.1f} s",
    ]


def _takes(each: DeviceForecast) -> str:
    if not each.bytes:
        return ""
    return "?" if each.seconds is None else f"{each.seconds:.0f} s"


def _raise_for(found: list[DeviceForecast]) -> None:
    """Raise unless every device fits."""
    lacking = [each for each in found if not each.fits]
    if not lacking:
        return
    names = ", ".join(each.device for each in lacking)
    message = f"{len(lacking)} of {len(found)} devices are refused or away: {names}"
    if len(lacking) < len(found):
        raise PartialError(message)
    kinds: tuple[type[EdgekitError], ...] = (VerificationError, UsageError)
    said = {(each.error or {}).get("error") for each in lacking}
    raise next((kind for kind in kinds if said == {kind.__name__}), EdgekitError)(message)


# --- push --from ------------------------------------------------------------------------------
def read(file: Path) -> PushPlan:
    """Read a saved plan.

    Raises:
        UsageError: it is not there, or no plan.
        VerificationError: it is not as it was written.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError) as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else "is a folder"
        raise UsageError(
            f"{file} {what}", next_step="`edgekit push --plan --save FILE` writes one"
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(
            f"{file} is no plan of a push",
            f"it has more than {MAX_FILE_BYTES} bytes",
            next_step="`edgekit push --plan --save FILE` writes one",
        )
    return parse_plan(data, str(file))


def names_of(plan: PushPlan, fleet: Fleet, file: Path) -> list[str]:
    """The devices of a plan; raises VerificationError where fleet.toml has one no more."""
    names = [name for wave in plan.waves for name in wave]
    gone = [name for name in names if name not in fleet.devices]
    refuse_changed(str(file), [f"{name} is not in fleet.toml any more" for name in gone])
    return names


def unchanged(plan: PushPlan, ahead: PushAhead, file: Path) -> RolloutPlan:
    """The rollout of a plan, if nothing has changed since; nothing on any device is changed.

    Raises:
        VerificationError: names what has changed.
    """
    signed, root = _trust(ahead)
    now = {name: _configured(ahead, name) for name in ahead.configs}
    windows = {name: ahead.fleet.devices[name].window for name in ahead.configs}
    refuse_changed(str(file), differences(plan, signed, root, now, windows))
    found = ahead.forecasts()
    refuse_changed(str(file), changes(plan, found))
    for name, each in found.items():
        if each.outcome == PushOutcome.AWAY:
            render.warn(f"{name} is away and was not compared with the plan; it joins later")
    return plan.rollout
