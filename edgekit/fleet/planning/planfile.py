"""A plan of a push as a file: JSON, with a digest over what it says. Pure.

`edgekit push --from FILE` does what it says and nothing else. So a file that was edited, that a
later edgekit wrote, or whose world has changed since is refused by name. The digest finds mistakes;
it is no signature: whoever may write the file may push.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edgekit.core.digest import Digest, decode_hook, encode_hook
from edgekit.core.reading import UNREADABLE
from edgekit.errors import UsageError, VerificationError
from edgekit.fleet.planning.forecast import DeviceForecast, PushOutcome
from edgekit.fleet.rollout.waves import RolloutPlan, Terms
from edgekit.trust.signed import SignedRelease

VERSION = 1
MAX_FILE_BYTES = 64 << 20
MOST_SAID = 10  # differences that an error lists
AGAIN = "make a new plan: `edgekit push --plan --save FILE`"


class PlannedDevice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the plan relied on for one device.

    Attributes:
        address, root: as fleet.toml had them.
        config: digest of the `agent.toml` that fleet.toml and edgekit.toml gave it.
        away: it was not reached; what follows is then empty.
        current: what it ran.
        sends: the blobs that it lacked.
        bytes: to send.
        outcome: what the push would do; None: the plan is of before it was noted.
        window: when it may switch by fleet.toml, whatever the plan says; None: likewise.
    """

    address: str
    root: str
    config: Digest
    away: bool = False
    current: Digest | None = None
    sends: list[Digest] = []
    bytes: int = 0
    outcome: PushOutcome | None = None
    window: str | None = None


class PushPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A push that was planned.

    Attributes:
        made_at: Unix seconds.
        made_by: user@host.
        signed: what the project's metadata says of the release.
        root: digest of the newest root.json, which says whose signatures count.
        waves, kinds, terms, windows: of the rollout; devices that were refused are not in it.
        devices: by name.
    """

    version: int = VERSION
    made_at: float
    made_by: str
    release: Digest
    reference: str
    signed: SignedRelease
    root: Digest
    waves: list[list[str]]
    kinds: dict[str, str]
    terms: Terms
    windows: dict[str, str] = {}
    devices: dict[str, PlannedDevice]

    @property
    def rollout(self) -> RolloutPlan:
        """The plan of the rollout."""
        return RolloutPlan(self.release, self.waves, self.kinds, self.terms, self.windows)


PLAN_BEGINS = b'{\n  "devices": {'


def encode_plan(plan: PushPlan) -> bytes:
    """The bytes of the file."""
    told: dict[str, Any] = msgspec.to_builtins(plan, enc_hook=encode_hook)
    data = msgspec.json.encode(told | {"digest": _digest(told)}, order="sorted")
    return msgspec.json.format(data, indent=2) + b"\n"


def parse_plan(data: bytes, file: str) -> PushPlan:
    """Read the bytes of a plan.

    Raises:
        UsageError: it is no plan, of another version, or has an unknown key.
        VerificationError: it is not as it was written.
    """
    try:
        told = msgspec.json.decode(data, type=dict[str, Any])
    except UNREADABLE as error:
        raise UsageError(f"{file} is no plan of a push", str(error), AGAIN) from error
    if "release" not in told or "waves" not in told:
        raise UsageError(f"{file} is no plan of a push", "it names no release or no waves", AGAIN)
    if told.get("version") != VERSION:
        raise UsageError(
            f"{file} is a plan of version {told.get('version')!r}",
            f"this edgekit reads version {VERSION}",
            f"push it with the edgekit that wrote it, or {AGAIN}",
        )
    digest = told.pop("digest", None)
    try:
        plan = msgspec.convert(told, PushPlan, dec_hook=decode_hook)
    except (msgspec.ValidationError, VerificationError) as error:
        raise UsageError(f"{file} is no valid plan", str(error), AGAIN) from error
    if unknown := _unknown(told, msgspec.to_builtins(plan, enc_hook=encode_hook)):
        raise UsageError(f"{file} has the unknown key `{unknown}`", next_step=AGAIN)
    if digest != _digest(told):
        raise VerificationError(
            f"{file} is not as `edgekit push --plan` wrote it",
            f"its content has another digest than the {str(digest)[:19]} that it names",
            AGAIN,
        )
    planned = {name for wave in plan.waves for name in wave}
    if planned != set(plan.devices):
        raise UsageError(f"{file} is no valid plan", "waves and devices differ", AGAIN)
    try:
        plan.rollout  # noqa: B018  it checks itself
    except ValueError as error:
        raise UsageError(f"{file} is no valid plan", str(error), AGAIN) from error
    return plan


def _digest(told: Mapping[str, Any]) -> str:
    return str(Digest.of(msgspec.json.encode(told, order="sorted")))


def _unknown(told: Any, known: Any, at: str = "") -> str:
    """The path of a key that reading has dropped; empty if there is none."""
    if not isinstance(told, dict) or not isinstance(known, dict):
        return ""
    for key, value in told.items():
        path = f"{at}.{key}" if at else str(key)
        if key not in known:
            return path
        if deeper := _unknown(value, known[key], path):
            return deeper
    return ""


def differences(
    plan: PushPlan,
    signed: SignedRelease | None,
    root: Digest,
    devices: Mapping[str, tuple[str, str, Digest]],
    windows: Mapping[str, str] | None = None,
) -> list[str]:
    """What has changed in the project since a plan was made, as sentences.

    Args:
        plan: that was made.
        signed: what the metadata says of the release now.
        root: digest of the newest root.json now.
        devices: address, root and digest of the `agent.toml` of each device that fleet.toml has.
        windows: when each of them may switch by fleet.toml.
    """
    said = []
    if signed != plan.signed:
        said.append(f"the metadata of {plan.reference} says something else")
    if root != plan.root:
        said.append("the keys of the project are others: root.json has changed")
    for name, before in plan.devices.items():
        now = devices.get(name)
        if now is None:
            said.append(f"{name} is not in fleet.toml any more")
            continue
        address, folder, config = now
        if (address, folder) != (before.address, before.root):
            said.append(f"{name} has another address or root in fleet.toml")
        if config != before.config:
            said.append(f"{name} has other settings in fleet.toml or edgekit.toml")
        window = before.window if windows is None else windows[name]
        if before.window is not None and window != before.window:
            now_has, had = (
                f"the window {each}" if each else "no window of its own"
                for each in (window, before.window)
            )
            said.append(f"{name} has {now_has} in fleet.toml; it had {had}")
    return said


def changes(plan: PushPlan, found: Mapping[str, DeviceForecast]) -> list[str]:
    """What has changed on the devices since a plan was made, as sentences.

    A device that is away now cannot be compared, and one that was away is not: the rollout brings
    both the release when they are back.
    """
    said = []
    for name, before in plan.devices.items():
        now = found[name]
        if now.outcome == PushOutcome.AWAY or before.away:
            continue
        if now.outcome == PushOutcome.REFUSED:
            error = now.error or {}
            said.append(f"{name} refuses it now: {error.get('what')}: {error.get('why')}")
            continue
        runs = now.runs.digest if now.runs else None
        if runs != before.current:
            was = before.current.short if before.current else "nothing"
            said.append(f"{name} runs {runs.short if runs else 'nothing'}; it ran {was}")
        if more := set(now.sends) - set(before.sends):
            said.append(f"{name} lacks {len(more)} blobs that it had")
        if before.outcome and now.outcome not in (before.outcome, PushOutcome.ALREADY):
            said.append(f"{name} would be {now.outcome}; the plan says {before.outcome}")
        if now.hardware_class != plan.kinds[name]:
            said.append(f"{name} is {now.hardware_class}; it was {plan.kinds[name]}")
    return said


def refuse_changed(file: str, said: list[str]) -> None:
    """Refuse a plan whose world has changed; raises VerificationError, which names what changed."""
    if said:
        more = f"; and {len(said) - MOST_SAID} more" if len(said) > MOST_SAID else ""
        raise VerificationError(
            f"{file} does not fit any more; nothing was sent", "; ".join(said[:MOST_SAID]) + more,
            AGAIN,
        )  # fmt: skip
