"""Programs of the toolchain: environment, events, and how they are killed."""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from pathlib import Path

import pytest

from edgekit.builder.files import YOUNG_SECONDS, Claim, scratch
from edgekit.builder.tools.process import ProcessResult, clean_environment, event, run
from edgekit.builder.tools.progress import Progress
from edgekit.errors import EdgekitError

pytestmark = pytest.mark.timeout(60)


class Runs:
    """Runs Python code as a program and records its progress."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.seen: list[Progress] = []

    def __call__(self, code: str, *, deadline: float = 30, events: bool = False) -> ProcessResult:
        return run(
            [sys.executable, "-c", code],
            shows=Progress("step", "first"),
            log=self.log,
            environment=clean_environment({"EXTRA": "1"}),
            deadline_seconds=deadline,
            report=self.seen.append,
            events=self.log.with_name("events") if events else None,
        )


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_a_program_sees_only_what_it_needs(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    done = runs("import os; print(sorted(os.environ))")
    assert "EXTRA" in done.tail
    assert "HF_TOKEN" not in done.tail
    assert "PYTHONPATH" not in done.tail


def test_what_is_not_a_number_is_reported_all_the_same(runs: Runs) -> None:
    line = '{"event": "result", "kl": NaN}\\n[1]\\n'
    done = runs(f"import sys; open(sys.argv[-1], 'a').write('{line}')", events=True)
    (result,) = done.events
    assert math.isnan(result["kl"])


def test_a_waiting_thread_does_not_take_the_cpu(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    done = runs("import os; print(os.environ['OMP_WAIT_POLICY'], os.environ['OMP_NUM_THREADS'])")
    assert done.tail.split() == ["PASSIVE", "3"]


def test_a_program_reports_beside_what_its_libraries_print(runs: Runs) -> None:
    code = (
        "import sys; print('noise'); file = open(sys.argv[-1], 'ab')\n"
        'file.write(b\'{"event": "result", "n": 1}\\n{"event": "res\')'
    )
    done = runs(code, events=True)
    assert done.events == ({"event": "result", "n": 1},)  # half a line is no event
    assert event(done, "result") == {"event": "result", "n": 1}
    assert event(done, "error") is None
    assert done.tail == "noise\n"


def test_memory_and_exit_code_are_measured(runs: Runs) -> None:
    done = runs("x = bytearray(1 << 30); raise SystemExit(7)")
    assert done.code == 7
    assert done.reason == "it ended with exit code 7"
    # above what this process holds itself, which a fork counts as the child's for a moment
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    assert 1 << 30 < done.peak_rss_bytes < max(1200 << 20, own + (64 << 20))


def test_a_silent_program_is_reported_every_second(runs: Runs) -> None:
    runs("import time; time.sleep(2.5)")
    assert runs.seen.count(Progress("step", "first")) >= 3


def test_a_program_past_its_deadline_is_ended_with_its_children(runs: Runs) -> None:
    code = "import os, time\nchild = os.fork()\nprint(os.getpid(), flush=True)\ntime.sleep(600)"
    with pytest.raises(EdgekitError, match="did not end within"):
        runs(code, deadline=1)
    pids = [int(word) for word in runs.log.read_text().split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_program_that_does_not_exist_says_so(tmp_path: Path) -> None:
    done = run(
        [str(tmp_path / "nothing")],
        shows=Progress("step"),
        log=tmp_path / "log",
        environment={},
        deadline_seconds=30,
        report=lambda _: None,
    )
    assert done.code != 0
    assert "FileNotFoundError" in done.reason


def test_scratch_is_empty_and_goes_away(tmp_path: Path) -> None:
    with scratch(tmp_path / "cache") as work:
        assert list(work.iterdir()) == []
        (work / "file").touch()
    assert list((tmp_path / "cache").iterdir()) == []


def test_scratch_removes_what_a_killed_process_left_and_nothing_else(tmp_path: Path) -> None:
    left, young, claimed = (tmp_path / f".making-{name}" for name in ("left", "young", "claimed"))
    long_ago = time.time() - 2 * YOUNG_SECONDS
    for folder in (left, young, claimed):
        folder.mkdir()
        (folder / "file").touch()
    for folder in (left, claimed):
        os.utime(folder, (long_ago, long_ago))
    claim = Claim(claimed)
    assert claim.take()
    with scratch(tmp_path):
        assert not left.exists()
        assert young.exists()
        assert claimed.exists()
    claim.release()
