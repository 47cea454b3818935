"""The agent of a device whose free memory is what it is told. Run by its path:

    python -S -P little_memory.py FREE_BYTES serve --root ROOT

in the environment of a release. Its worker is this file too, so that it is the one who is deceived.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

FREE_BYTES = int(sys.argv.pop(1))

from edgekit.agent.__main__ import main  # noqa: E402  of the release
from edgekit.agent.serve.worker.decoder import graph  # noqa: E402  of the release

deceived: Any = graph
deceived.free_bytes = lambda: FREE_BYTES


class Popen(subprocess.Popen[bytes]):
    """Starts this file where the agent is meant."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        at = command.index("edgekit.agent")
        ours = [*command[: at - 1], __file__, str(FREE_BYTES), *command[at + 1 :]]
        super().__init__(ours, **options)


started: Any = subprocess
started.Popen = Popen
main()
