"""A GGUF model in several files: all parts are read, whichever is named, or it is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from edgekit.builder.source.find import find
from edgekit.builder.source.ggufparts import merge_parts, read_model
from edgekit.builder.support.gguf.config import config_of
from edgekit.builder.support.gguf.header import parse_header
from edgekit.errors import UsageError
from tests.building import silent
from tests.models.gguf_file import write_sparse
from tests.unit.test_gguf_header import LLAMA

SHAPES: dict[str, tuple[int, ...]] = {
    "blk.0.attn_q.weight": (576, 3),
    "token_embd.weight": (5, 9),
    "blk.0.ffn_norm.weight": (3,),
    "output_norm.weight": (7,),
}
COUNT = 3


def split(folder: Path, changes: dict[int, dict[str, Any]] | None = None) -> list[Path]:
    """A model in three parts, as llama-gguf-split names them; `changes` are for one part's keys."""
    parts = [dict(list(SHAPES.items())[:2]), *({key: SHAPES[key]} for key in list(SHAPES)[2:])]
    paths = []
    for number, shapes in enumerate(parts):
        values: dict[str, Any] = LLAMA if number == 0 else {}
        values = values | {
            "split.no": number, "split.count": COUNT, "split.tensors.count": len(SHAPES),
            **(changes or {}).get(number, {}),
        }  # fmt: skip
        path = folder / f"m-{number + 1:05}-of-{COUNT:05}.gguf"
        write_sparse(path, {k: v for k, v in values.items() if v is not None}, shapes)
        with path.open("r+b") as file:  # recognisable data, up to an end that is not aligned
            file.seek(-32, 2)
            file.write(bytes([number + 1]) * 29)
            file.truncate()
        paths.append(path)
    return paths


def unsplit(folder: Path, **changes: Any) -> UsageError:
    paths = split(folder, {1: {key.replace("_", "."): value for key, value in changes.items()}})
    with pytest.raises(UsageError) as caught:
        read_model(paths[0])
    return caught.value


@pytest.mark.parametrize("named", range(COUNT))
def test_all_parts_are_read_whichever_is_named(named: int, tmp_path: Path) -> None:
    paths = split(tmp_path)
    found = find(str(paths[named]), None, None, silent)
    assert found.path == paths[0]
    assert found.source.name == paths[0].name
    assert found.source.files == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
    }
    header = read_model(paths[named]).header
    assert set(header.tensors) == set(SHAPES)
    assert config_of(header)["vocab_size"] == 5


def test_links_of_a_cache_lead_to_the_parts(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    paths = split(tmp_path)
    for path in paths:
        blob = path.rename(tmp_path / "blobs" / hashlib.sha256(path.name.encode()).hexdigest())
        path.symlink_to(blob)
    assert len(find(str(paths[1]), None, None, silent).source.files) == COUNT


def test_joined_parts_are_the_model(tmp_path: Path) -> None:
    paths = split(tmp_path)
    model = read_model(paths[0])
    merge_parts(model, tmp_path / "whole.gguf")
    with (tmp_path / "whole.gguf").open("rb") as file:
        whole = parse_header(file, "whole.gguf")
    assert whole.values.items() >= model.header.values.items()
    assert {k: (t.shape, t.kind) for k, t in whole.tensors.items()} == {
        k: (t.shape, t.kind) for k, t in model.header.tensors.items()
    }
    joined = (tmp_path / "whole.gguf").read_bytes()
    for path, header in model.parts:
        data = path.read_bytes()
        for name, tensor in header.tensors.items():
            start = header.data_start + tensor.offset
            other = whole.data_start + whole.tensors[name].offset
            assert joined[other : other + tensor.size] == data[start : start + tensor.size]


def test_a_first_part_may_have_no_tensors(tmp_path: Path) -> None:
    counts = {"split.count": 2, "split.tensors.count": len(SHAPES)}
    first, second = (tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2))
    write_sparse(first, LLAMA | counts | {"split.no": 0, "general.url": "end"}, {})
    first.write_bytes(first.read_bytes().rstrip(b"\0"))  # not padded to the alignment
    write_sparse(second, counts | {"split.no": 1}, SHAPES)
    model = read_model(second)
    merge_parts(model, tmp_path / "whole.gguf")
    with (tmp_path / "whole.gguf").open("rb") as file:
        assert set(parse_header(file, "whole.gguf").tensors) == set(SHAPES)


@pytest.mark.parametrize("gone", range(COUNT))
def test_a_missing_part_is_named(gone: int, tmp_path: Path) -> None:
    paths = split(tmp_path)
    paths[gone].unlink()
    with pytest.raises(UsageError, match=f"there is no {paths[gone].name} beside it"):
        find(str(paths[(gone + 1) % COUNT]), None, None, silent)


def test_a_part_that_is_cut_is_named(tmp_path: Path) -> None:
    paths = split(tmp_path)
    paths[1].write_bytes(paths[1].read_bytes()[:-24])
    with pytest.raises(UsageError, match=f"{paths[1].name} is only half there"):
        read_model(paths[0])


def test_a_part_under_another_name_is_refused(tmp_path: Path) -> None:
    alone = split(tmp_path)[0].rename(tmp_path / "model.gguf")
    with pytest.raises(UsageError, match="is one of 3 parts of a model"):
        read_model(alone)


def test_a_whole_file_that_is_named_like_a_part_is_refused(tmp_path: Path) -> None:
    paths = split(tmp_path, {0: {"split.count": None}})
    with pytest.raises(UsageError, match="3 by their names, and 1 by the header"):
        read_model(paths[0])


def test_parts_of_different_models_are_refused(tmp_path: Path) -> None:
    assert "not say that it is part 2" in unsplit(tmp_path, split_no=2).why
    assert "not say that it is part 2" in unsplit(tmp_path, split_count=4).why
    assert "written together" in unsplit(tmp_path, split_tensors_count=5).why
    assert "its general.architecture" in unsplit(tmp_path, general_architecture="qwen2").why


def test_a_tensor_too_few_or_twice_is_refused(tmp_path: Path) -> None:
    paths = split(tmp_path, {key: {"split.tensors.count": 5} for key in range(COUNT)})
    with pytest.raises(UsageError, match="4 of 5 tensors"):
        read_model(paths[0])
    paths = split(tmp_path)
    values = {"split.no": 1, "split.count": COUNT, "split.tensors.count": 4}
    write_sparse(paths[1], values, {"token_embd.weight": (5, 8)})
    with pytest.raises(UsageError, match=r"token_embd\.weight is in another part"):
        read_model(paths[0])
