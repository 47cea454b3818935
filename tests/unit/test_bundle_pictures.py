"""What a bundle says of a model with eyes, and that a model without them is said as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgekit.bundle import pack
from edgekit.bundle.docs import OtherLayers
from edgekit.bundle.folder import ModelFolder
from edgekit.core.digest import Digest
from edgekit.core.manifest import (
    AGENT_TYPE,
    TITLE,
    UNPACKED,
    WEIGHT_TYPE,
    Descriptor,
    encode,
    parse_config,
)

SOURCE = ModelFolder(Path("model"), None, (), ())
# What the code before pictures wrote of these layers
BEFORE = (
    b'{"build_id":"","context_length":64,"fit":{"disk_bytes":1110,"glibc":"2.28",'
    b'"ram_bytes":314606818},"kv_bytes_per_token":512,"max_answer_tokens":64,'
    b'"model_type":"llama","name":"m","search":{"temperature":0.0},"version":"1"}'
)


def layer(name: str, size: int) -> Descriptor:
    return Descriptor(WEIGHT_TYPE, Digest.of(name.encode()), size, {TITLE: name})


def config(*more: Descriptor, **model: Any) -> bytes:
    decoder = {"num_key_value_heads": 2, "head_size": 16, "num_hidden_layers": 2}
    told = {"model": {"type": "llama", "context_length": 64, "decoder": decoder} | model}
    genai = msgspec.convert(told, pack.GenaiConfig)
    agent = Descriptor(AGENT_TYPE, Digest.of(b"agent"), 10, {UNPACKED: "100"})
    packed = OtherLayers([layer("model.onnx.data", 1000), *more], agent, [])
    caps = pack._Caps(64, 64)
    return encode(pack._config("m", "1", SOURCE, genai, caps, packed))


def test_the_config_of_a_model_of_texts_is_the_one_from_before() -> None:
    assert config() == BEFORE


def test_the_fit_counts_the_graphs_for_pictures_and_what_a_picture_takes() -> None:
    texts, eyes = (
        parse_config(BEFORE),
        parse_config(
            config(
                layer("vision.onnx.data", 300_000_000),
                layer("embedding.onnx.data", 100_000_000),
                type="phi3v",
                vision={"filename": "vision.onnx"},
            )
        ),
    )
    more = eyes.fit.ram_bytes - texts.fit.ram_bytes
    assert more == 400_000_000 * 5 // 4 + pack.PICTURES_RAM_BYTES
    assert eyes.fit.disk_bytes - texts.fit.disk_bytes == 400_000_000
