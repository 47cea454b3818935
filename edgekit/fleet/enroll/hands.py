"""Runs the scripts of an enrolment on a device, as the account or as root."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.errors import EdgekitError
from edgekit.fleet.enroll.values import Step
from edgekit.fleet.link.local import Remote

HERE = Path(__file__).parents[2]
_SCRIPTS = ("record", "make", "unmake", "perform")
SECONDS = 300.0  # a supervisor may drain for a minute and a half
# Makes modules from text: `-c` would show all of it in the log of sudo.
_LOADER = """\
import sys, types, json
def load(texts):
    for name in ("edgekit", "edgekit.fleet", "edgekit.fleet.enroll"):
        sys.modules[name] = module = types.ModuleType(name)
        module.__path__ = []
    for name, text in texts:
        module = types.ModuleType(name)
        sys.modules[name] = module
        above, _, last = name.rpartition(".")
        setattr(sys.modules[above], last, module)
        if name == texts[-1][0]:
            module.__name__ = "__main__"
        exec(compile(text, name, "exec"), module.__dict__)
"""


class StepOutcome(msgspec.Struct, frozen=True):
    """What a step did: whether it changed something, and what it said."""

    changed: bool
    said: str = ""


class Performed(msgspec.Struct, frozen=True):
    """What `perform.py` prints: the outcomes in order, and the step that failed with its reason."""

    done: list[StepOutcome]
    failed: int | None
    why: str


class Hands:
    """The scripts of an enrolment on one device.

    Args:
        remote: the connection.
        python: absolute path of the device's Python.
        root: whether to work as root.
        uid: of the account.
        password: for sudo; empty where it asks for none.
    """

    def __init__(
        self, remote: Remote, python: str, *, root: bool = False, uid: int = 0, password: str = ""
    ) -> None:
        self._remote = remote
        self._python = python
        self._password = password if root and uid else ""
        sudo: tuple[str, ...] = ()
        if root and uid:
            sudo = ("sudo", "-k", "-S", "-p", "", "--") if password else ("sudo", "-n", "--")
        self._sudo = sudo

    def look(self, *words: str) -> bytes:
        """The output of `look.py`."""
        return self._run("look.py", ("fleet.enroll.look",), words, b"")

    def perform(self, record: str, steps: tuple[Step, ...]) -> Performed:
        """Have steps done.

        Raises:
            EdgekitError: the script did not run.
        """
        told = {"record": record, "steps": [step.to_wire() for step in steps]}
        modules = ("fleet.receive", *(f"fleet.enroll.{name}" for name in _SCRIPTS))
        done = self._run("perform.py", modules, (), msgspec.json.encode(told))
        try:
            return msgspec.json.decode(done, type=Performed)
        except msgspec.MsgspecError as error:
            said = done[-300:].decode("utf-8", "replace")
            raise EdgekitError("the device printed something else", said or str(error)) from error

    def _run(
        self, name: str, modules: tuple[str, ...], words: tuple[str, ...], stdin: bytes
    ) -> bytes:
        texts = [
            (f"edgekit.{one}", HERE.joinpath(*one.split(".")).with_suffix(".py").read_text("utf-8"))
            for one in modules
        ]
        code = f"{_LOADER}\nload({texts!r})".encode()
        start = f"import sys;exec(sys.stdin.buffer.read({len(code)}))"
        argv = (*self._sudo, self._python, "-I", "-c", start, *words)
        password = f"{self._password}\n".encode() if self._password else b""
        done = self._remote.run(argv, password + code + stdin, SECONDS)
        if done.code != 0:
            said = done.stderr.decode("utf-8", "replace").strip()
            raise EdgekitError(
                f"{name} did not run on the device",
                said[-500:] or f"it ended with {done.code}",
                "check the rights of the account; a wrong sudo password is asked for again",
            )
        return done.stdout


def explain(performed: Performed, steps: tuple[Step, ...], next_step: str) -> None:
    """Raise EdgekitError for a step that failed."""
    if performed.failed is None:
        return
    raise EdgekitError(
        f"step {performed.failed + 1} of {len(steps)} failed: {steps[performed.failed].words}",
        performed.why,
        next_step,
    )
