"""What comes through a device's door, and what does not. Pure.

A stolen SSH key of the account edgekit-push can say anything here. So each request is compared with
the few that a push makes, word by word, and everything else is refused: exit code 4.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

import msgspec

from edgekit.core import layout
from edgekit.core.lease import ID, WORD
from edgekit.errors import VerificationError

COMMAND_BYTES = 4096
MAX_RELAY_BYTES = 1 << 20  # the text that a controller sends after our greeting; it is never run
MAX_VERB_SECONDS = 7200.0

# What `edgekit.fleet.commands.relay_line` writes; tests compare the two.
_RELAY_LINE = re.compile(
    r"""(?:~/)?[^\s;&|<>()$`"\\]{1,200} -I -c 'import sys;print\("%x %d\.%d"%"""
    r"""\(\(([0-9]{1,20}),\)\+sys\.version_info\[:2\]\),flush=True\);"""
    r"""exec\(sys\.stdin\.buffer\.read\(([0-9]{1,8})\)\)'"""
)
_DIGEST = r"sha256:[0-9a-f]{64}"
# Of each verb that a push or a person may run: what its words can be.
_VERBS = {
    "stage": rf"{_DIGEST}(?: --offer(?: --dry-run)?| --adopt [0-9]{{1,15}})?",
    "activate": rf"{_DIGEST}(?: --config -)?",
    "rollback": "",
    "state": "",
    "gc": r"(?:--dry-run(?: --previous)?|--previous|--(?:un)?pin (?:sha256:)?[0-9a-f]{6,64})?",
    "scrub": r"(?:--rate [0-9]{1,15})?",
    "tune": "",
    "logs": (
        r"--lines [0-9]{1,6} --since [0-9]{1,9} --wait [0-9]{1,2}"
        r"(?: --after [0-9A-Za-z:=;_.-]{1,400})?(?: --journal)?"
    ),
    "stop": "",
    "start": "",
    "lease": (
        rf"(?:--give {ID}|--take {ID} --holder {WORD} --about {WORD} --seconds [0-9]{{1,6}}"
        r"(?: --take-over)?)?"
    ),
}
_PART = re.compile(r"[0-9a-f]{64}\.part")


class ReadFacts(msgspec.Struct, frozen=True):
    """The probe: the device runs its own, whatever script was sent."""


class RunVerb(msgspec.Struct, frozen=True):
    """A verb of one of the device's own agents, with its words; `trees` are its PYTHONPATH."""

    words: tuple[str, ...]
    trees: tuple[PurePath, ...]


def refusal(why: str) -> VerificationError:
    """The one answer to everything else."""
    return VerificationError(
        "this device takes only signed releases",
        why,
        "use `edgekit push`, `state`, `rollback`, `stop` or `start`; other work needs an "
        "administrator's account there",
    )


def greeting(command: bytes) -> tuple[int, int]:
    """The mark and the size of the relay, of the line with which a push begins a session.

    Raises:
        VerificationError: it is another command, a shell, sftp or scp.
    """
    line = command.decode("utf-8", "replace")
    found = _RELAY_LINE.fullmatch(line)
    if found is None or int(found[2]) > MAX_RELAY_BYTES:
        asked = repr(line[:80]) if line else "a shell"
        raise refusal(f"the session asked for {asked}")
    return int(found[1]), int(found[2])


def request(argv: Any, root: PurePath) -> ReadFacts | RunVerb:
    """What a command of a push asks for.

    Args:
        argv: the words that the controller sent.
        root: ROOT of this device.

    Raises:
        VerificationError: no command of a push, or one for another root.
    """
    if not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
        raise refusal("the command is no list of words")
    if len(argv) == 3 and argv[1] == "-":
        return _facts(argv[2], root)
    told = ["-S", "-P", "-m", "edgekit.agent"]
    starts = [at for at in range(len(argv)) if argv[at : at + 4] == told]
    if argv[:2] != ["env", "-i"] or len(starts) != 1:
        raise refusal("the command is none of the agent's verbs; a first contact is none either")
    verb, *rest = argv[starts[0] + 4 :] or [""]
    if rest[:2] != ["--root", str(root)]:
        raise refusal(f"the root of this device is {root}")
    words = rest[2:]
    if verb not in _VERBS or any(" " in word for word in words):
        raise refusal(f"{verb!r} is no verb of a push")
    if not re.fullmatch(_VERBS[verb], " ".join(words)):
        raise refusal(f"`{verb}` does not take these words")
    return RunVerb((verb, "--root", str(root), *words), _trees(argv[2 : starts[0]], root))


def _facts(asked: str, root: PurePath) -> ReadFacts:
    if asked not in ("", str(root)):
        raise refusal(f"the root of this device is {root}; take `root` out of fleet.toml")
    return ReadFacts()


def _trees(environment: list[str], root: PurePath) -> tuple[PurePath, ...]:
    """Which of the device's two agents is meant; the rest of the environment is ours."""
    asked = {word.partition("=")[2] for word in environment if word.startswith("PYTHONPATH=")}
    for trees in (layout.release_trees(root / layout.CURRENT), layout.bootstrap_trees(root)):
        if asked == {":".join(map(str, trees))}:
            return trees
    raise refusal("the command imports from other trees than the device's own")


def part(path: Any, offset: Any, root: PurePath) -> tuple[str, int]:
    """The name of the partial blob that a transfer may write, and where its bytes begin.

    Raises:
        VerificationError: another path, or no offset.
    """
    folder, _, name = path.rpartition("/") if isinstance(path, str) else ("", "", "")
    if folder != str(root / layout.BLOBS) or not _PART.fullmatch(name):
        raise refusal(f"a push writes nothing but {root / layout.BLOBS}/<sha256>.part")
    if type(offset) is not int or offset < 0:
        raise refusal("the offset is no number of bytes")
    return str(name), offset


def seconds(told: Any) -> float:
    """The time that a verb may take.

    Raises:
        VerificationError: it is no number of seconds.
    """
    if type(told) not in (int, float) or not told > 0:
        raise refusal("the time is no number of seconds")
    return float(min(told, MAX_VERB_SECONDS))
