"""Whom the next prompt goes to. Pure.

A pool's conversation stays with the device that answered last, which keeps its prefix.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import msgspec

from edgekit.cli.talk.answering import TOO_LONG
from edgekit.client.requester import GONE, POOL
from edgekit.core.config import check_name
from edgekit.core.protocol.wire import ProtocolError
from edgekit.errors import EdgekitError, UnreachableError, UsageError
from edgekit.gateway.catalog import NAMED, Served, named, order, why_none

Known = Mapping[str, Served]


class Partner(msgspec.Struct, frozen=True):
    """Whom the conversation is with.

    Attributes:
        to: a device, or `pool:NAME`.
        kept: of a pool, the device that answered last; else empty.
    """

    to: str
    kept: str = ""

    @property
    def is_pool(self) -> bool:
        """Whether several devices may answer."""
        return self.to.startswith(POOL)

    def next(self, known: Known) -> str:
        """The device or pool that gets the next prompt."""
        if not self.kept or not known:  # an ACL may hide all devices
            return self.kept or self.to
        found = known.get(self.kept)  # None: it was forgotten
        return self.kept if found is not None and found.takes else self.to

    def answered_by(self, device: str) -> Partner:
        """The partner after an answer of that device."""
        return msgspec.structs.replace(self, kept=device if self.is_pool else "")

    def elsewhere(self, error: EdgekitError, asked: str) -> bool:
        """Whether another device of the pool may take what the one that was asked did not."""
        return self.is_pool and asked != self.to and error.retryable


def partner(to: str) -> Partner:
    """Read the name of a device or a pool; raises UsageError."""
    check_name("pool" if to.startswith(POOL) else "device", to.removeprefix(POOL))
    return Partner(to)


def check_there(to: str, known: Known) -> None:
    """Refuse at once whom nobody would answer for.

    A broker that shows no device at all may hide them: an ACL does that.

    Raises:
        UnreachableError: the device is known to be gone.
        UsageError: others are there, and this one is not.
    """
    found = known.get(to)
    if found is not None and found.state in GONE:
        raise UnreachableError(f"{to} does not answer", *GONE[found.state])
    names = [*known, *(POOL + pool for pool in pools_of(known))]
    if known and to not in names:
        close = difflib.get_close_matches(to, names, 1)
        what = f"the broker knows no {'pool' if to.startswith(POOL) else 'device'} {to!r}"
        why = f"did you mean {close[0]!r}?" if close else f"it knows {', '.join(names[:NAMED])}"
        raise UsageError(what, why, "`edgekit devices` shows the devices, /device does so here")


def pools_of(known: Known) -> list[str]:
    """The pools that devices are in."""
    return sorted({pool for each in known.values() for pool in each.pools})


def serving(model: str, known: Known) -> Partner:
    """The device that goes on with a model: the one with the least to do.

    Raises:
        UsageError: no device has it, or none of them takes prompts now.
    """
    found = [each for each in named(known, model) if each.model == model]
    if not found:
        there = sorted({each.model for each in known.values() if each.model})
        raise UsageError(
            f"no device serves {model!r}",
            f"there is {', '.join(there)}" if there else "no device has announced itself",
            "/model shows the models",
        )
    best = order(found, {})
    if not best:
        raise UsageError(
            f"no device with {model} takes a prompt now",
            why_none(found),
            next_step="/device shows the devices and models",
        )
    return Partner(best[0].name)


def context_of(device: str, known: Known) -> int:
    """The tokens of a device's context; 0 where it is not known."""
    return known[device].context_length if device in known else 0


def way_on(error: EdgekitError, questions: int) -> str:
    """What the user can do after an error; empty where the error says it itself."""
    code, param = (error.code, error.param) if isinstance(error, ProtocolError) else ("", "")
    pictures = code == "invalid_request" and _PICTURES in error.what
    if (code in TOO_LONG or (pictures and param == "messages")) and questions:
        return (
            "/drop forgets the older half of the conversation and asks again; /new begins anew; "
            "/device goes on with another device"
        )
    if code in TOO_LONG:
        return "write a shorter message, or go on with another device by /device"
    if _BLIND in error.what:  # the conversation, or this message, shows one
        return "/device goes on with a device that takes pictures; /new begins without them"
    if pictures:
        return f"write it again with fewer pictures, or set {_PICTURES} in fleet.toml and push"
    if error.next_step:
        return ""
    return "/retry sends it again" if code in _AGAIN else ""


# In what a device says of pictures: of too many, and of any
_PICTURES, _BLIND = "images_per_prompt", "this device takes no pictures"
_AGAIN = ("queue_full", "rate_limited", "internal", "worker_crashed", "loading", "draining",
          "thermal", "no_storage", "out_of_memory", "deadline_exceeded")  # fmt: skip


def device_lines(known: Known, partner_: Partner) -> list[str]:
    """The devices and pools for people; a star stands before the partner."""
    rows = [
        (each.name, each.state or "?", f"{each.model}:{each.version}", each.context_length)
        for each in sorted(known.values(), key=lambda each: each.name)
    ] + [(POOL + pool, "", "", 0) for pool in pools_of(known)]
    width = max((len(row[0]) for row in rows), default=0)
    return [
        f"{'*' if name == partner_.to else ' '} {name:<{width}}  {state}  {model}"
        f"{f'  context {context}' if context else ''}".rstrip()
        for name, state, model, context in rows
    ]


def model_lines(known: Known) -> list[str]:
    """The models for people, each with its devices."""
    models: dict[str, list[str]] = {}
    for each in known.values():
        if each.model:
            models.setdefault(each.model, []).append(each.name)
    return [f"{model}  {', '.join(sorted(names))}" for model, names in sorted(models.items())]
