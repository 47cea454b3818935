"""What the processes of a test run share stays as made, or the run names the file that did not."""

from __future__ import annotations

from pathlib import Path

from tests import shared


def test_a_file_that_was_written_to_is_found_even_when_its_words_are_back(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "trees").mkdir(parents=True)
        for name in ("agent.py", "runtime.py"):
            (folder / "trees" / name).write_text("before")
        (folder / "state.db").write_text("before")

    made = shared.once(tmp_path / "shared" / "pushed", make)
    shared.copy(made, tmp_path / "mine")
    (tmp_path / "mine" / "state.db").write_text("mine")
    file = tmp_path / "mine" / "trees" / "agent.py"
    shared.replace(file, b"mine")
    assert (file.read_text(), (made / "trees" / "agent.py").read_text()) == ("mine", "before")
    assert shared.changed(tmp_path / "shared") == []

    link = tmp_path / "mine" / "trees" / "runtime.py"
    link.write_text("other")
    assert (made / "trees" / "runtime.py").read_text() == "other"  # every copy reads it
    link.write_text("before")
    assert shared.changed(tmp_path / "shared") == [made / "trees" / "runtime.py"]
