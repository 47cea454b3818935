"""Which devices the words of a command line mean. Pure.

| word | means |
|---|---|
| `NAME` | the device or the group of that name |
| `pi-*` | devices whose names match, as in a shell (`*`, `?`, `[...]`) |
| `group:NAME` | the devices of a group, also where a device has the same name |
| `tag=NAME`, `site=NAME` | the devices with that tag, or at that site |
| `!WORD` | without the devices of WORD, wherever it stands |

Words are joined: a device is chosen if one word means it and no `!` does. Words with `!` alone
choose from all devices. Several words can stand in one, with commas between: `a,!b`, where a word
behind a `!` has one, too.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from edgekit.errors import UsageError


def check_word(kind: str, text: str) -> None:
    """Check a tag or a site: a word of a selection can name it; raises ValueError."""
    if not text or text != text.strip() or "," in text or not text.isprintable():
        raise ValueError(
            f"the {kind} {text!r} cannot be chosen: it is text without commas, and with no space "
            "at its ends"
        )


class Selectable(Protocol):
    """What a selection looks at in a device."""

    @property
    def tags(self) -> list[str]:
        """Its tags."""
        ...

    @property
    def site(self) -> str:
        """Where it stands; empty if nobody said."""
        ...


def select(
    words: Sequence[str],
    devices: Mapping[str, Selectable],
    groups: Mapping[str, Sequence[str]],
    file: str,
) -> list[str]:
    """List the devices that `words` choose, in the order of the words and of `devices`.

    Args:
        words: see the table above; none choose all devices.
        devices, groups: of the fleet; a group lists names of devices.
        file: that has them, for messages.

    Raises:
        UsageError: a word names nothing or can mean two things, or what is left is nothing.
    """
    chosen: dict[str, None] = {}
    without: set[str] = set()
    only_without = True
    for word in (part for each in words for part in _parts(each, devices)):
        found = _named(word.removeprefix("!"), word, devices, groups, file)
        if word.startswith("!"):
            without.update(found)
        else:
            only_without = False
            chosen.update(dict.fromkeys(found))
    left = [name for name in (devices if only_without else chosen) if name not in without]
    if words and not left:
        raise UsageError(
            f"{' '.join(words)} chooses no device",
            f"{file} has {len(devices)} devices, and each one that is named is left out again",
            "take a word with `!` away",
        )
    return left


def _parts(word: str, devices: Mapping[str, Selectable]) -> list[str]:
    """The words that commas join; raises UsageError for two that can be meant in two ways."""
    parts = word.split(",")
    for before, part in pairwise(parts):
        key = before.removeprefix("!").partition("=")[0]
        known = {tag for device in devices.values() for tag in device.tags}
        if key == "site":
            known = {device.site for device in devices.values()}
        if before.startswith("!") and not part.startswith("!"):
            raise UsageError(
                f"{word!r} can mean two things",
                f"is {part} left out, too, or is it chosen?",
                f"write '{before},!{part}', or {part} as a word of its own",
            )
        if key in ("tag", "site") and part.removeprefix("!") in known:
            raise UsageError(
                f"{word!r} can mean two things",
                f"{part.removeprefix('!')} is a {key}, and this names a device or a group",
                f"write {key}={part.removeprefix('!')}, or {part} as a word of its own",
            )
    return parts


def _named(
    word: str,
    said: str,
    devices: Mapping[str, Selectable],
    groups: Mapping[str, Sequence[str]],
    file: str,
) -> list[str]:
    """The devices of one word without its `!`; `said` is the word as it was written."""
    key, equals, value = word.partition("=")
    found: Sequence[str] = []
    if word in ("tag=", "site=", "group:"):  # a variable of a shell that nobody has set
        raise UsageError(
            f"{said!r} names no {word[:-1]}", "nothing stands behind it", f"write {word}NAME"
        )
    if word.startswith("group:"):
        found = groups.get(word.removeprefix("group:"), ())
        if word.removeprefix("group:") in groups and not found:
            raise UsageError(f"{said}: the group has no device", f"in {file}", "add one to it")
    elif equals and key == "tag":
        found = [name for name, device in devices.items() if value in device.tags]
    elif equals and key == "site":
        found = [name for name, device in devices.items() if value == device.site]
    elif any(sign in word for sign in "*?["):
        found = [name for name in devices if fnmatch.fnmatchcase(name, word)]
    elif word in groups and word in devices:
        raise UsageError(
            f"{said} is a device and a group",
            f"{file} has both",
            f"write group:{word} for the group; rename one of them to reach the device",
        )
    elif word in groups:
        found = groups[word]
        if not found:
            raise UsageError(f"{said}: the group has no device", f"in {file}", "add one to it")
    elif word in devices:
        found = [word]
    if not found:
        raise _unknown(word, said, devices, groups, file)
    return list(found)


def unknown_name(what: str, name: str, known: Sequence[str], where: str = "") -> UsageError:
    """The error for a name that is none of `known`, with the one that was perhaps meant.

    Args:
        what: what is wrong, as a sentence.
        where: the file that has the names.
    """
    meant = next(iter(difflib.get_close_matches(name, known, 1)), "")
    why = f"{where or 'it'} has {_some(known)}"
    return UsageError(
        what,
        f"{why}; did you mean {meant!r}?" if meant else why,
        "correct the name, or add it to the file",
    )


def _unknown(
    word: str,
    said: str,
    devices: Mapping[str, Selectable],
    groups: Mapping[str, Sequence[str]],
    file: str,
) -> UsageError:
    """The error for a word that names nothing."""
    kinds: dict[str, tuple[str, list[str]]] = {
        "group:": ("group", list(groups)),
        "tag=": ("tag", sorted({tag for device in devices.values() for tag in device.tags})),
        "site=": ("site", sorted({d.site for d in devices.values() if d.site})),
    }
    at = f", in {said!r}" if said != word else ""
    for start, (kind, known) in kinds.items():
        if word.startswith(start):
            name = word.removeprefix(start)
            return unknown_name(f"there is no {kind} {name!r}{at}", name, known, file)
    if any(sign in word for sign in "*?["):
        return UsageError(
            f"{said} matches no device", f"{file} has {_some(list(devices))}", "correct the pattern"
        )
    both = [*devices, *groups]
    return unknown_name(f"there is no device or group {word!r}{at}", word, both, file)


def _some(names: Sequence[str]) -> str:
    """The first of many names."""
    shown = ", ".join(names[:12]) or "none"
    return shown + (f" and {len(names) - 12} more" if len(names) > 12 else "")
