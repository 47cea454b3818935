"""Which devices there are, what each serves, and which of them gets a prompt. Pure.

A prompt names a model (`smollm2`), a pool (`pool:kitchen`) or a device (`device:pi-1`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any

import msgspec

from edgekit.core.chat.capabilities import IMAGES
from edgekit.core.protocol import topics
from edgekit.core.reading import UNREADABLE

POOL, DEVICE = "pool:", "device:"
TAKES = ("ready", "busy")
PERHAPS = ("degraded",)  # takes a prompt only if it can start at once
MOST_DEVICES = 10_000
NAMED = 5  # devices that an error names
MOST_CAPABILITIES = 64  # of a card

# Bounds of what is believed: a stranger's number must neither overflow nor make a screen of digits.
_Size = Annotated[int, msgspec.Meta(ge=0, le=2**40)]
_Rate = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
_Degrees = Annotated[int, msgspec.Meta(ge=-1000, le=1000)]


class Served(msgspec.Struct, frozen=True):
    """A device as its retained messages say; `state` is empty until it has said one.

    The fields are those of `wire.Card` and `wire.Status`. `release` is the status's, and
    `capabilities` has `IMAGES` too where the card has `images`.
    """

    name: str
    model: str = ""
    version: str = ""
    pools: tuple[str, ...] = ()
    slots: int = 1
    state: str = ""
    queue: int = 0
    active: int = 0
    tok_s: float = 0.0
    context_length: int = 0
    capabilities: tuple[str, ...] = ()
    release: str = ""
    temp_c: int | None = None
    mem_free_mb: int | None = None
    mem_total_mb: int | None = None
    reason: str = ""
    since: int = 0

    @property
    def takes(self) -> bool:
        """Whether a prompt may go there."""
        return bool(self.model) and self.state in (*TAKES, *PERHAPS)


class _Card(msgspec.Struct, frozen=True):
    model: str = ""
    version: str = ""
    pools: tuple[str, ...] = ()
    slots: _Size = 1
    context_length: _Size = 0
    capabilities: tuple[str, ...] = ()
    images: Any = None

    def told(self) -> dict[str, Any]:
        pictures = (IMAGES,) if self.images is not None else ()
        return {
            "model": self.model,
            "version": self.version,
            "pools": self.pools,
            "slots": self.slots,
            "context_length": self.context_length,
            "capabilities": (*self.capabilities[:MOST_CAPABILITIES], *pictures),
        }


class _Status(msgspec.Struct, frozen=True):
    state: str = ""
    release: str = ""
    queue: _Size = 0
    active: _Size = 0
    tok_s: _Rate = 0.0
    temp_c: _Degrees | None = None
    mem_free_mb: _Size | None = None
    mem_total_mb: _Size | None = None
    reason: str = ""
    since: _Size = 0

    def told(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self)


def heard(known: dict[str, Served], topic: str, payload: bytes) -> None:
    """Note a card or a status; an empty one is that of a device that was forgotten.

    What cannot be read is none of an agent, and changes nothing.
    """
    device = topics.device_of(topic)
    is_card = topic == topics.card_topic(device)
    if not device or not (is_card or topic == topics.status_topic(device)):
        return
    before = known.get(device, Served(device))
    if device not in known and len(known) >= MOST_DEVICES:
        return
    said: _Card | _Status = _Card() if is_card else _Status()
    if payload:
        try:
            said = msgspec.json.decode(payload, type=type(said))
        except UNREADABLE:
            return
    after = msgspec.structs.replace(before, **said.told())
    known[device] = after
    if not after.model and not after.state:
        with suppress(KeyError):
            del known[device]


def named(known: Mapping[str, Served], model: str) -> list[Served]:
    """The devices that a prompt's `model` names, whether they take prompts or not."""
    if model.startswith(DEVICE):
        found = known.get(model.removeprefix(DEVICE))
        return [found] if found is not None else []
    if model.startswith(POOL):
        pool = model.removeprefix(POOL)
        return [each for each in known.values() if pool in each.pools]
    return [each for each in known.values() if model and each.model == model]


def able(devices: list[Served], needs: Collection[str]) -> list[Served]:
    """The devices that say that they serve what a prompt needs; all of them where none does.

    A device says best itself why it serves something not, and a card may be older than its words.

    Args:
        devices: that the prompt names.
        needs: capabilities.
    """
    return [each for each in devices if set(needs) <= set(each.capabilities)] or devices


def models(known: Mapping[str, Served]) -> list[str]:
    """What a prompt's `model` may be: every model, pool and device that takes prompts."""
    takes = [each for each in known.values() if each.takes]
    return [
        *sorted({each.model for each in takes}),
        *sorted({POOL + pool for each in takes for pool in each.pools}),
        *sorted(DEVICE + each.name for each in takes),
    ]


def order(
    devices: Iterable[Served], mine: Mapping[str, int], *, keeps: str = "", prompt_id: str = ""
) -> list[Served]:
    """The devices that take a prompt, the one to ask first in front.

    Args:
        devices: that the prompt names.
        mine: prompts that this gateway has with each device; a status is up to a second old.
        keeps: the device that keeps a prefix of this conversation. It comes first unless the
            prompt would wait there while another device has a free slot.
        prompt_id: of a prompt that may come again after this gateway has forgotten it. Devices
            then go by a hash of it, so that it comes to the same one (rendezvous hashing).
    """

    def load(device: Served) -> float:
        taken = max(device.queue + device.active, mine.get(device.name, 0))
        return taken / max(device.slots, 1)

    def key(device: Served) -> tuple[Any, ...]:
        unsure = device.state in PERHAPS
        if prompt_id:
            drawn = hashlib.sha256(f"{prompt_id}\0{device.name}".encode()).digest()
            return (unsure, drawn)
        return (unsure, load(device), -device.tok_s, device.name)

    ordered = sorted((each for each in devices if each.takes), key=key)
    kept = next((each for each in ordered if each.name == keeps), None)
    if kept is not None and not prompt_id and (load(kept) < 1 or load(ordered[0]) >= 1):
        ordered = [kept, *(each for each in ordered if each is not kept)]
    return ordered


def why_none(devices: Sequence[Served]) -> str:
    """Why none of these devices takes a prompt."""
    told = [f"{each.name} is `{each.state or 'unknown'}`" for each in devices[:NAMED]]
    return ", ".join(told) + (", …" if len(devices) > NAMED else "")
