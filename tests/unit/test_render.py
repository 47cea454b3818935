"""What is printed: whole lines, harmless ones, and nothing where nobody listens."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgekit.cli import render
from tests.harness.tmux import edgekit


class Pieces(io.StringIO):
    """A stream that notes what each call writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def write(self, text: str) -> int:
        self.written.append(text)
        return len(text)


def pieces_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written from now on, to both streams."""
    made = Pieces()
    for name in ("out", "err"):
        monkeypatch.delitem(vars(render), name, raising=False)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, made)
    return made.written


def test_lines_of_threads_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    written = pieces_of(monkeypatch)

    def say(number: int) -> None:
        for _ in range(50):
            render.say(f"{number}")

    threads = [threading.Thread(target=say, args=[n]) for n in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(written) == sorted(f"{n}\n" for n in range(4) for _ in range(50))


def test_what_transfers_say_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    written = pieces_of(monkeypatch)
    with render.transfers() as bars:
        bars.say("pi-1: \x1b[2Jgone")
    assert written == ["pi-1: \ufffd[2Jgone\n"]


def test_what_is_said_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a model's thinking, too, which goes by rich: it makes pictures of `:smile:`."""
    for name in ("out", "err"):
        vars(render).pop(name, None)
    render.err.print("at 12:key:30 [b]it", markup=False)
    assert capsys.readouterr().err == "at 12:key:30 [b]it\n"


def test_a_cell_has_one_line() -> None:
    assert render.harmless("a\n\tb\x1b") == "a\n\tb\ufffd"
    assert render.one_line("pi\u202e ydaer\u2066") == "pi\ufffd ydaer\ufffd"
    assert render.one_line("a\n\tb\x1b\u2028c\r") == "a\ufffd\ufffdb\ufffd\ufffdc\ufffd"


def test_a_table_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    written = pieces_of(monkeypatch)
    render.table(["device", "state"], [["pi-1", "ready\x1b[2J\npi-9  ready"]])
    told = "".join(written)
    assert "\x1b" not in told
    assert len(told.splitlines()) == 2


@pytest.mark.parametrize("closed", ["2>&-", ">&-"])
def test_a_closed_stream_stops_no_work(tmp_path: Path, closed: str) -> None:
    command = ["bash", "-c", f'exec "$@" {closed}', "-", *edgekit("man", str(tmp_path / "man"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "man").glob("*.1*"))
