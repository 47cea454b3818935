"""The one error family: every error says what happened, why, and what to do next.

The type says whose fault it is and therefore the exit code:
0 done, 1 failed, 2 usage, 3 stopped part-way, 4 refused by verification; of the device's agent
alone, 5 another client took its place at the broker. Parts raise these; only `edgekit.cli` and
`edgekit.agent.__main__` turn one into an exit.
"""

from __future__ import annotations


class EdgekitError(Exception):
    """Something edgekit was asked to do did not happen.

    Attributes:
        what: what happened, one line, no full stop needed.
        why: the cause as far as it is known; may be empty.
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
    """The request itself is wrong: an argument, an option or a file the user wrote."""

    exit_code = 2


class PartialError(EdgekitError):
    """Stopped part-way: some devices or steps are done, others are not."""

    exit_code = 3


class VerificationError(EdgekitError):
    """Bytes are not what their digest, signature or contract says; nothing was used."""

    exit_code = 4


class UnreachableError(EdgekitError):
    """The other end did not answer: a broker, a device or an account; a retry can help."""

    retryable = True


class TakenOverError(EdgekitError):
    """Another client connected with this device's name; to come back would be to fight for ever."""

    exit_code = 5
