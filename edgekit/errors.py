"""The errors of edgekit: each one says what happened, why, and what to do next.

The type of an error decides the exit code: 0 done, 1 failed, 2 usage, 3 stopped part-way,
4 refused by verification, 5 another client took the agent's place at the broker (only the device's
agent exits with 5). All parts raise these errors; only `edgekit.cli` and `edgekit.agent.__main__`
turn one into an exit.
"""

from __future__ import annotations


class EdgekitError(Exception):
    """Edgekit could not do what it was asked to do.

    Attributes:
        what: what happened, in one line without a full stop.
        why: the known cause; may be empty.
        next_step: what the reader can do now; may be empty.
    """

    exit_code = 1
    retryable = False

    def __init__(self, what: str, why: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.next_step = next_step

    def __str__(self) -> str:
        return "\n".join(
            line
            for line in (
                self.what,
                self.why and f"  why:  {self.why}",
                self.next_step and f"  next: {self.next_step}",
            )
            if line
        )

    def to_dict(self) -> dict[str, str]:
        """The error as the `--json` outputs and the device's verbs print it."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "why": self.why,
            "next": self.next_step,
        }


class UsageError(EdgekitError):
    """The request is wrong: an argument, an option or a file that the user wrote."""

    exit_code = 2


class PartialError(EdgekitError):
    """The command stopped part-way: some devices or steps are done, others are not."""

    exit_code = 3


class VerificationError(EdgekitError):
    """Bytes do not match their digest, signature or contract; edgekit used none of them."""

    exit_code = 4


class UnreachableError(EdgekitError):
    """A broker, a device or an account did not answer; a retry can help."""

    retryable = True


class TakenOverError(EdgekitError):
    """Another client uses this device's name; to reconnect would start an endless fight."""

    exit_code = 5
