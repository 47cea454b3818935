"""The build id and its inputs, and the check of the builder's options."""

from __future__ import annotations

import msgspec
import pytest

from edgekit.builder.request.options import (
    BOOLEAN_KEYS,
    CHOICES,
    KNOWN_KEYS,
    PATH_KEYS,
    RESERVED_KEYS,
    VALUE_KEYS,
    check_options,
    parse_options,
)
from edgekit.builder.spec import FP16_ON_CPU_NOTE, BuildSpec, Source, check_target
from edgekit.errors import UsageError

SPEC = BuildSpec(
    source=Source("folder", "smol", "", {"b.json": "22", "a.json": "11"}),
    precision="int4",
    provider="cpu",
    options={"block_size": "64", "algo_config": "rtn"},
    option_files={},
    toolchain="ab" * 32,
    steps=3,  # of the edgekit whose digest is written out below
)


def test_build_id_is_the_digest_of_canonical_json() -> None:
    # written out once and for all: a build made today must be recognised by a later edgekit
    assert SPEC.build_id() == "8112a6ea728817a80bc8ca3bc7199e31f08e6fd1b48398631de8626c4470ab75"


def test_build_id_does_not_depend_on_the_order_of_keys() -> None:
    files = dict(reversed(SPEC.source.files.items()))
    other = msgspec.structs.replace(
        SPEC,
        source=msgspec.structs.replace(SPEC.source, files=files),
        options=dict(reversed(SPEC.options.items())),
    )
    assert other.build_id() == SPEC.build_id()


@pytest.mark.parametrize(
    "change",
    [
        {"source": Source("folder", "smol", "", {"a.json": "11", "b.json": "23"})},
        {"source": Source("hub", "smol", "", {"a.json": "11", "b.json": "22"})},
        {"precision": "int8"},
        {"provider": "cuda"},
        {"options": {"block_size": "32", "algo_config": "rtn"}},
        {"option_files": {"kv_cache_scale_file": {"scales.json": "33"}}},
        {"toolchain": "cd" * 32},
        {"steps": 1},
        {"told": "44"},
        {"context": 2048},
    ],
)
def test_build_id_changes_with_everything_that_decides_the_bytes(change: dict[str, object]) -> None:
    assert msgspec.structs.replace(SPEC, **change).build_id() != SPEC.build_id()


def test_a_spec_survives_its_own_json() -> None:
    again = msgspec.json.decode(msgspec.json.encode(SPEC), type=BuildSpec)
    assert again.build_id() == SPEC.build_id()


def test_targets_the_builder_makes_pass() -> None:
    assert check_target("int4", "cpu") == ()
    assert check_target("fp16", "cuda") == ()


def test_fp16_on_cpu_is_labelled_slow() -> None:
    assert check_target("fp16", "cpu") == (FP16_ON_CPU_NOTE,)


@pytest.mark.parametrize(
    ("precision", "provider", "names"),
    [("int3", "cpu", "int4"), ("int4", "gpu", "cuda"), ("int8", "dml", "int4 or fp16")],
)
def test_other_targets_are_refused(precision: str, provider: str, names: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_target(precision, provider)
    assert names in refused.value.next_step


def test_options_come_out_in_canonical_spelling() -> None:
    pairs = ["is_symmetric=False", "block_size = 64", "use_qdq=1", "nodes_to_exclude=a=b"]
    assert parse_options(pairs) == {
        "block_size": "64",
        "is_symmetric": "false",
        "nodes_to_exclude": "a=b",
        "use_qdq": "true",
    }


def test_every_option_is_of_one_kind() -> None:
    assert not BOOLEAN_KEYS & PATH_KEYS
    assert not BOOLEAN_KEYS & VALUE_KEYS
    assert not PATH_KEYS & VALUE_KEYS
    assert not RESERVED_KEYS.keys() & KNOWN_KEYS
    assert CHOICES.keys() <= VALUE_KEYS


@pytest.mark.parametrize(
    "new",
    ["algo_config", "block_size", "accuracy_level", "is_symmetric", "op_types_to_quantize"],
)
def test_the_old_int4_names_are_refused_with_the_new_one(new: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_options({f"int4_{new}": "1"})
    assert refused.value.next_step == f"write {new}"


def test_int4_tied_embeddings_is_refused_with_its_new_name() -> None:
    with pytest.raises(UsageError, match="int4_tied_embeddings") as refused:
        check_options({"int4_tied_embeddings": "true"})
    assert refused.value.next_step == "write shared_embeddings"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("blok_size", "block_size"), ("int4_acuracy_level", "accuracy_level"), ("symmetric", "is_s")],
)
def test_a_misspelt_option_is_refused_with_the_closest(wrong: str, right: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_options({wrong: "1"})
    assert right in refused.value.next_step


def test_an_option_like_no_other_is_refused() -> None:
    with pytest.raises(UsageError) as refused:
        check_options({"zzz": "1"})
    assert refused.value.next_step == "leave it out"


@pytest.mark.parametrize("pair", ["block_size", "=1", "block_size=", ""])
def test_an_option_without_key_or_value_is_refused(pair: str) -> None:
    with pytest.raises(UsageError, match="KEY=VALUE"):
        parse_options([pair])


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="twice"):
        parse_options(["block_size=32", "block_size=64"])


@pytest.mark.parametrize(
    "pair", ["is_symmetric=maybe", "block_size=33", "algo_config=best", "accuracy_level=5"]
)
def test_a_value_the_builder_would_refuse_late_is_refused_now(pair: str) -> None:
    with pytest.raises(UsageError):
        parse_options([pair])


@pytest.mark.parametrize("key", sorted(RESERVED_KEYS))
def test_what_cannot_be_built_or_recorded_is_refused_with_the_reason(key: str) -> None:
    with pytest.raises(UsageError, match=key) as refused:
        parse_options([f"{key}=secret"])
    assert refused.value.why
    assert "secret" not in str(refused.value)
