"""`make test`: everything. Formatting, lints, types, import contracts, then every ring of tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests import tools

BIN = Path(sys.executable).parent
CHECKS = (
    (str(BIN / "ruff"), "format", "--check", "."),
    (str(BIN / "ruff"), "check", "."),
    (str(BIN / "lint-imports"),),
)
TYPES = (str(BIN / "mypy"),)  # takes half a minute without its cache: runs beside the tests
# Most tests wait for a process of their own: two at a time, a file in one process, so that what a
# module shares is made once. Three at a time on two CPUs were no faster, and tests that measure
# time failed. The order is that of tests/longest.py.
PYTEST = (
    *(sys.executable, "-m", "pytest", "--numprocesses", "2"),
    *("--dist", "loadfile", "--no-loadscope-reorder"),
)
SLOWEST = ("--durations", "25", "--durations-min", "10")


def main() -> int:
    """Run the checks, then types and pytest with the arguments given; a failure's exit code."""
    lacking = tools.missing()
    if lacking:
        sys.stderr.write(f"the tests need packages that are missing: {' '.join(lacking)}\n")
        return 2
    for check in CHECKS:
        _announce(check)
        code = subprocess.run(check, check=False).returncode
        if code:
            return code
    with subprocess.Popen(TYPES, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as types:
        command = [*PYTEST, *SLOWEST, *sys.argv[1:]]
        tests = subprocess.run(command, env=_environment(), check=False).returncode
        said, _ = types.communicate()
    _announce(TYPES)
    sys.stdout.flush()
    sys.stdout.buffer.write(said)
    return types.returncode or tests


def _environment() -> dict[str, str]:
    """Ours, in which Python keeps compiled modules as it does for everybody.

    Images for containers like to forbid it. Each of the thousands of commands that the tests start
    would then compile edgekit again: a fifth of what a short one costs.
    """
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def _announce(command: tuple[str, ...]) -> None:
    sys.stdout.write(f"$ {Path(command[0]).name} {' '.join(command[1:])}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
