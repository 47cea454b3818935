"""`make test`: everything. Formatting, lints, types, import contracts, then every ring of tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests import tools

BIN = Path(sys.executable).parent
CHECKS = (
    (str(BIN / "ruff"), "format", "--check", "."),
    (str(BIN / "ruff"), "check", "."),
    (str(BIN / "mypy"),),
    (str(BIN / "lint-imports"),),
)


def main() -> int:
    """Run the checks, then pytest with the arguments given; the first failure's exit code."""
    lacking = tools.missing()
    if lacking:
        sys.stderr.write(f"the tests need packages that are missing: {' '.join(lacking)}\n")
        return 2
    for check in CHECKS:
        sys.stdout.write(f"$ {Path(check[0]).name} {' '.join(check[1:])}\n")
        sys.stdout.flush()
        code = subprocess.run(check, check=False).returncode
        if code:
            return code
    return subprocess.run([sys.executable, "-m", "pytest", *sys.argv[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
