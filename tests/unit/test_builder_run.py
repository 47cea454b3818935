"""The life of an output folder, with a fake of the model builder.

`tests/system/test_build.py` repeats the important cases with the real builder.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import pytest

from edgekit.builder.files import Claim
from edgekit.builder.make.finish import finish
from edgekit.builder.output.publish import read_record
from edgekit.builder.request.request import BuildRequest
from edgekit.builder.run import BuildResult, build
from edgekit.builder.tools.host import HostRunner
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.errors import EdgekitError, UsageError

FAKE_SCRIPTS = Path(__file__).resolve().parents[1] / "fakes" / "inside"

WEIGHTS = (2).to_bytes(8, "little") + b"{}"  # safetensors without a tensor

pytestmark = pytest.mark.timeout(60)


class FakeToolchain:
    """This interpreter with a fake script of the builder; counts the calls of `ready`."""

    isolation = "host"
    image = ""

    def __init__(self) -> None:
        self.digest = "ab" * 32
        self.tools = {"builder": "fake"}
        self.asked = 0

    def ready(self, report: ProgressCallback) -> HostRunner:
        self.asked += 1
        return HostRunner(Path(sys.executable), FAKE_SCRIPTS)


class Place:
    """A model folder, an output beside it, and a method to build."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self.out = folder / "made" / "model"
        self.toolchain = FakeToolchain()
        self.seen: list[Progress] = []
        self.source.mkdir()
        for name in ("config.json", "tokenizer.json"):
            (self.source / name).write_text("{}")
        (self.source / "model.safetensors").write_bytes(WEIGHTS)

    def build(self, *options: str, precision: str = "int4") -> BuildResult:
        request = BuildRequest(
            str(self.source), self.out, precision=precision, options=options, gate=None
        )
        return build(request, self.seen.append, self.toolchain)

    def behave(self, word: str) -> None:
        (self.source / "behaviour").write_text(word)

    def left(self) -> list[str]:
        parent = self.out.parent
        return sorted(p.name for p in parent.iterdir()) if parent.exists() else []

    def content(self) -> dict[str, bytes]:
        return {
            p.name: p.read_bytes()
            for p in self.out.iterdir()
            if p.name not in ("build.json", "provenance.json")
        }


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # what the stand-in makes is no graph that could be read back
    monkeypatch.setattr("edgekit.builder.make.make.check_folder", lambda *_: ())
    return Place(tmp_path)


def test_a_build_is_a_whole_folder_with_its_record(place: Place) -> None:
    result = place.build("block_size=64")
    assert place.left() == ["model"]
    record = read_record(place.out)
    assert record is not None
    assert record.build_id == record.spec.build_id() == result.build_id
    assert record.files == result.files
    assert sorted(record.files) == sorted(place.content())
    assert record.spec.options == {"block_size": "64"}
    assert record.tools == {"builder": "fake"}
    assert result.total_bytes == sum(len(data) for data in place.content().values())
    assert result.peak_rss_bytes > 1_000_000
    assert not result.up_to_date
    assert place.content()["model.onnx"] == b"block_size=64"


def test_a_record_says_nothing_about_the_machine(place: Place) -> None:
    place.build()
    assert str(place.source.parent) not in (place.out / "build.json").read_text()


def test_progress_names_the_steps(place: Place) -> None:
    place.build()
    steps = list(dict.fromkeys(progress.step for progress in place.seen))
    assert steps == ["source", "build", "publish"]


def test_local_files_only_is_no_part_of_a_model(place: Place) -> None:
    place.build()
    text = (place.out / "tokenizer_config.json").read_text(encoding="utf-8")
    assert text == '{\n  "backend": "tokenizers",\n  "eos_token": "ü"\n}\n'


def test_a_file_without_what_is_changed_is_left_alone(tmp_path: Path) -> None:
    written = {"tokenizer_config.json": b'{"a":1}', "genai_config.json": b'{"search":{}}'}
    for name, data in written.items():
        (tmp_path / name).write_bytes(data)
    finish(tmp_path, 4096)
    assert {name: (tmp_path / name).read_bytes() for name in written} == written


def test_the_default_length_is_capped_and_nothing_else_changes(tmp_path: Path) -> None:
    path = tmp_path / "genai_config.json"
    config = {"model": {"context_length": 131072}, "search": {"max_length": 131072, "top_k": 1}}
    path.write_text(json.dumps(config, indent=4))
    finish(tmp_path, 4096)
    config["search"]["max_length"] = 4096
    assert path.read_text() == json.dumps(config, indent=4)


def test_the_same_build_again_is_up_to_date(place: Place) -> None:
    first = place.build()
    asked = place.toolchain.asked
    again = place.build()
    assert again.up_to_date
    assert (again.build_id, again.files) == (first.build_id, first.files)
    assert place.toolchain.asked == asked


def test_building_elsewhere_gives_the_same_id_and_bytes(place: Place, tmp_path: Path) -> None:
    first, content = place.build(), place.content()
    place.out = tmp_path / "elsewhere"
    second = place.build()
    assert second.build_id == first.build_id
    assert place.content() == content


def test_a_changed_output_is_built_again(place: Place) -> None:
    place.build()
    content = place.content()
    (place.out / "model.onnx.data").write_bytes(b"bit rot " * 2)
    assert not place.build().up_to_date
    assert place.content() == content
    (place.out / "genai_config.json").unlink()
    assert not place.build().up_to_date
    assert place.content() == content


def test_another_build_takes_the_place_of_the_old_one(place: Place) -> None:
    first = place.build()
    (place.out / "left_over.txt").touch()
    second = place.build("block_size=64")
    assert second.build_id != first.build_id
    assert place.left() == ["model"]
    assert not (place.out / "left_over.txt").exists()


def test_a_record_of_another_version_may_be_replaced(place: Place) -> None:
    place.build()
    (place.out / "build.json").write_text('{"format": 99}')
    assert not place.build().up_to_date


def test_an_empty_folder_may_be_filled(place: Place) -> None:
    place.out.mkdir(parents=True)
    place.build()
    assert place.left() == ["model"]


def test_somebody_elses_folder_is_never_overwritten(place: Place) -> None:
    place.out.mkdir(parents=True)
    (place.out / "thesis.tex").write_text("ten years")
    with pytest.raises(UsageError, match="not empty"):
        place.build()
    assert (place.out / "thesis.tex").read_text() == "ten years"
    assert place.toolchain.asked == 0


def test_a_file_is_never_overwritten(place: Place) -> None:
    place.out.parent.mkdir()
    place.out.write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        place.build()


def test_a_wrong_option_is_refused_before_anything_is_done(place: Place) -> None:
    with pytest.raises(UsageError, match="int4_block_size"):
        place.build("int4_block_size=32")
    assert place.toolchain.asked == 0
    assert place.left() == []


def test_a_file_an_option_names_is_part_of_the_build(place: Place, tmp_path: Path) -> None:
    scales = tmp_path / "scales.json"
    scales.write_text("{}")
    first = place.build(f"kv_cache_scale_file={scales}")
    (tmp_path / "other").mkdir()
    moved = scales.rename(tmp_path / "other" / "scales.json")
    assert place.build(f"kv_cache_scale_file={moved}").build_id == first.build_id
    moved.write_text('{"scales": 1}')
    assert place.build(f"kv_cache_scale_file={moved}").build_id != first.build_id


def test_an_option_that_names_no_file_is_refused(place: Place) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        place.build("kv_cache_scale_file=nowhere")


def test_a_failing_build_leaves_nothing_and_says_one_line(place: Place, tmp_path: Path) -> None:
    place.behave("fail")
    with pytest.raises(EdgekitError) as failed:
        place.build()
    assert failed.value.exit_code == 1
    assert "NotImplementedError: The model is not currently supported." in failed.value.why
    assert "--plan" in failed.value.next_step
    assert place.left() == []
    assert not place.out.parent.exists()  # a folder made on the way goes too
    log = (tmp_path / "cache" / "edgekit" / "logs" / "last-failed-build.log").read_text()
    assert "Traceback" in log


def test_a_failing_build_leaves_the_old_one(place: Place) -> None:
    place.build()
    content = place.content()
    place.behave("fail")
    with pytest.raises(EdgekitError):
        place.build("block_size=64")
    assert place.left() == ["model"]
    assert place.content() == content


def test_a_builder_killed_by_signal_9_probably_ran_out_of_memory(place: Place) -> None:
    place.behave("killed")
    with pytest.raises(EdgekitError) as failed:
        place.build()
    assert "signal 9" in failed.value.what
    assert "out of memory" in failed.value.why
    assert place.left() == []


def test_a_builder_that_makes_nothing_has_failed(place: Place) -> None:
    place.behave("empty")
    with pytest.raises(EdgekitError, match="without a model"):
        place.build()
    assert place.left() == []


def children_of_this_process() -> list[int]:
    task = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children"
    return [int(pid) for pid in Path(task).read_text().split()]


def test_an_interrupted_build_leaves_nothing(place: Place) -> None:
    place.behave("slow")
    before = children_of_this_process()

    def interrupt(progress: Progress) -> None:
        if progress.detail == "reading decoder layer 0":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(BuildRequest(str(place.source), place.out, gate=None), interrupt, place.toolchain)
    assert place.left() == []
    assert children_of_this_process() == before


def test_what_a_killed_build_left_is_removed_by_the_next(place: Place) -> None:
    left = place.out.parent / ".model.building-4194000"
    (left / "model").mkdir(parents=True)
    place.build()
    assert place.left() == ["model"]


def test_an_output_caught_in_mid_replacement_comes_back(place: Place) -> None:
    place.build()
    content = place.content()
    place.out.rename(place.out.parent / ".model.replaced-4194000")
    place.behave("fail")
    with pytest.raises(EdgekitError):
        place.build("block_size=64")
    assert place.left() == ["model"]
    assert place.content() == content


def test_a_folder_is_built_by_one_process_at_a_time(place: Place) -> None:
    other = place.out.parent / ".model.building-1"
    other.mkdir(parents=True)
    claim = Claim(other)
    assert claim.take()
    with pytest.raises(EdgekitError, match="another edgekit is building"):
        place.build()
    claim.release()
    assert other.exists()


def test_a_full_disk_is_an_error_with_a_reason(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(model: Path) -> None:
        raise OSError(28, "No space left on device", "model.onnx.data")

    monkeypatch.setattr("edgekit.builder.output.publish.sync_tree", full)
    with pytest.raises(EdgekitError) as failed:
        place.build()
    assert failed.value.why == "No space left on device: model.onnx.data"
    assert place.left() == []


def test_fp16_on_cpu_says_that_it_is_slow(place: Place) -> None:
    (note,) = place.build(precision="fp16").notes
    assert "slow" in note


def test_the_record_is_plain_json(place: Place) -> None:
    place.build()
    data = json.loads((place.out / "build.json").read_text())
    assert data["spec"]["source"]["kind"] == "folder"
