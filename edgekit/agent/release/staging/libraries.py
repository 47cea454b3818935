"""Import test: does this device run the libraries of a runtime? Tried before anything is switched.

A CPU can lack instructions that the libraries need, and the system a shared library or a newer
glibc. A child process imports every package of the tree that has compiled code, so that an illegal
instruction ends the child. It prints each name before it imports it.
"""

from __future__ import annotations

import platform
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.core import layout
from edgekit.core.manifest import Descriptor
from edgekit.errors import EdgekitError

if TYPE_CHECKING:  # `UnfitError` is for every verb that stages, a process for a new tree alone
    import subprocess

IMPORT_SECONDS = 180.0  # 1 s on a PC, 20 s from a slow SD card
CPUINFO = Path("/proc/cpuinfo")
IMPORTED = {"PIL": "PIL.Image"}  # where the package itself imports none of its compiled code
OPTIONAL = {"llguidance"}  # where it cannot be imported, a device answers without schemas
SCRIPT = """
import importlib, sys
for name in sys.argv[1:]:
    print(name, flush=True)
    try:
        importlib.import_module(name)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
"""


class UnfitError(EdgekitError):
    """This device cannot run the release's libraries; the error says which one and why."""


def check_libraries(root: Path, tree: Path, runtime: Descriptor) -> None:
    """Import the compiled packages of an unpacked runtime in a process of its own.

    Args:
        root: ROOT.
        tree: the runtime's tree; nothing else can be imported from.
        runtime: the layer, which says what its code needs of a CPU.

    Raises:
        UnfitError: a package cannot be imported here.
    """
    names = compiled_packages(tree)
    if not names:
        return
    done = _import(root, tree, names)
    if done.returncode == 0:
        return
    tried = done.stdout.decode("utf-8", "replace").split()
    name = tried[-1] if tried else names[0]
    if done.returncode < 0:
        number = -done.returncode
        why = f"it ended with {signal.Signals(number).name}"
        if number == signal.SIGILL:
            why += f": the CPU has no such instruction{_lacking(runtime)}"
    else:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        # numpy explains over many lines; the first and the last say which library or symbol
        why = " ... ".join(dict.fromkeys(line.strip() for line in (*lines[:1], *lines[-1:])))
    raise UnfitError(
        f"this device cannot run the release's runtime: {name} cannot be imported",
        why[:500],
        "install what is missing on the device, or use a device with a newer CPU or system; "
        "what runs was not changed",
    )


def compiled_packages(tree: Path) -> list[str]:
    """The packages at the top of a tree that hold compiled code and can be imported by name."""
    found = {path.relative_to(tree).parts[0] for path in tree.rglob("*.so")}
    needed = sorted(found - OPTIONAL)
    packages = [name for name in needed if (tree / name / "__init__.py").is_file()]
    return [IMPORTED.get(name, name) for name in packages]


def _import(root: Path, tree: Path, names: list[str]) -> subprocess.CompletedProcess[bytes]:
    import subprocess  # noqa: PLC0415  see above

    # -B: compiled modules would lie below the tree's temporary name
    command = [sys.executable, "-S", "-P", "-B", "-c", SCRIPT, *names]
    try:
        return subprocess.run(
            command,
            env=layout.environment(root, (tree,)),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=IMPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnfitError(
            "this device cannot run the release's runtime: its packages take too long to import",
            f"they were not imported within {IMPORT_SECONDS:g} s",
            "look at the load and the disk of the device, then push again",
        ) from None


def _lacking(runtime: Descriptor) -> str:
    """What of the layer's demands /proc/cpuinfo does not list, as the end of a sentence."""
    try:
        has = set(CPUINFO.read_text("utf-8", "replace").split())
    except OSError:
        return ""
    lacking = ", ".join(sorted(runtime.isa - has))
    return f" (this {platform.machine()} lacks {lacking})" if lacking else ""
