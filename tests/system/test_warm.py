"""The toolchain that the builds of these tests run with does as the installed one does."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from edgekit.builder.tools.process import OFFLINE, clean_environment
from tests.tools import eventually

LOOK = """
import json, os, sys
sys.stderr.write("to standard error")
print(json.dumps([sys.argv, os.getcwd(), sys.path[0], dict(os.environ), "torch" in sys.modules,
                  sys.stdin.read()]))
sys.exit(int(sys.argv[1]))
"""
SLEEP = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    return tmp_path / "scripts" / "script.py"


@pytest.mark.parametrize("more", [{}, {"OMP_NUM_THREADS": "1"}], ids=["forked", "started"])
@pytest.mark.parametrize("code", [0, 7])
def test_a_script_gets_what_it_was_given_and_its_exit_code_comes_back(
    python: str, script: Path, tmp_path: Path, more: dict[str, str], code: int
) -> None:
    script.write_text(LOOK)
    environment = clean_environment({**OFFLINE, **more})
    done = subprocess.run(
        [python, "-E", "-s", script, str(code)],
        input="given", capture_output=True, text=True, cwd=tmp_path, env=environment, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (code, "to standard error")
    arguments, folder, first, seen, torch, given = json.loads(done.stdout)
    assert arguments == [str(script), str(code)]
    assert (folder, first, given) == (str(tmp_path), str(script.parent), "given")
    assert {key: value for key, value in seen.items() if key != "LC_CTYPE"} == environment
    assert torch is not bool(more)  # it differs from the server's: the interpreter itself


def test_a_script_ends_with_its_stand_in(python: str, script: Path, tmp_path: Path) -> None:
    script.write_text(SLEEP)
    pid = tmp_path / "pid"
    with subprocess.Popen(
        [python, "-E", "-s", script], cwd=tmp_path, env=clean_environment(OFFLINE)
    ) as stand_in:
        eventually(lambda: pid.exists() and pid.read_text(), 20)
        stand_in.kill()
    eventually(lambda: not Path(f"/proc/{pid.read_text()}").exists(), 10)


def test_a_signal_that_ends_a_script_ends_its_stand_in(
    python: str, script: Path, tmp_path: Path
) -> None:
    script.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    done = subprocess.run(
        [python, "-E", "-s", script], cwd=tmp_path, env=clean_environment(OFFLINE), check=False
    )
    assert done.returncode == -signal.SIGSEGV
