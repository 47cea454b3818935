"""What is run on a device, as argv values: nothing here runs anything, nothing is a shell string.

`remote` quotes every word for the one shell that SSH insists on.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from edgekit.fleet.facts import Facts

Argv = tuple[str, ...]
BOOTSTRAP = "bootstrap"


def probe(python: str, root: str) -> Argv:
    """Print the device's facts; the script comes on standard input."""
    return (python, "-", root)


def receive_bootstrap(facts: Facts, script: str, name: str) -> Argv:
    """Unpack a tar from standard input as `root/bootstrap-<name>` and link it.

    The script is `receive.py`, passed as an argument because standard input has the tar.
    """
    return (facts.executable, "-c", script, facts.root, name)


def agent(facts: Facts, *arguments: str) -> Argv:
    """A verb of the agent that the device has: of its current release, else the bootstrap."""
    root = PurePosixPath(facts.root)
    if facts.current:
        home = root / "current"
        trees = f"{home / 'agent'}:{home / 'runtime'}"
    else:
        trees = str(root / BOOTSTRAP)
    verb, *rest = arguments
    return (
        *("env", "-i", "PATH=/usr/bin:/bin", f"HOME={root}", "LANG=C.UTF-8"),
        *(f"PYTHONPATH={trees}", f"PYTHONPYCACHEPREFIX={root / 'run' / 'pycache'}"),
        *("PYTHONUNBUFFERED=1", "ORT_DISABLE_TELEMETRY=1"),
        *(facts.executable, "-S", "-P", "-m", "edgekit.agent", verb, "--root", facts.root),
        *rest,
    )


def part_path(facts: Facts, blob_hex: str) -> str:
    """Where a transfer collects the bytes of a blob."""
    return str(PurePosixPath(facts.root) / "blobs" / "sha256" / f"{blob_hex}.part")
