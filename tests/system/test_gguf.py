"""A GGUF file becomes the model that it describes: equal to the same weights as a folder.

The oracle is transformers on a Hugging Face folder with the same weights and the true config.json.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from edgekit.builder.source.find import find
from edgekit.builder.source.gguf import dequantised
from edgekit.builder.tools.host import HostToolchain
from edgekit.builder.tools.process import OFFLINE, clean_environment
from edgekit.errors import UsageError
from tests.building import TESTS, run_script, silent
from tests.models.gguf_cases import CASES

SCRIPT = "models/make_gguf.py"
LLAMA = CASES["llama-wide-heads"]
WITHOUT_PLACE = {"blk.0.attn_sinks.weight": [1.0] * 4}
CHAT = {
    "tokenizer": {
        "ggml.eos_token_id": 0,  # <|endoftext|>, and the template ends a turn with <|im_end|>
        "ggml.add_bos_token": True,
        "chat_template.tool_use": "tools",
    },
    "general": {"sampling.temp": 0.6, "sampling.top_k": 20, "sampling.penalty_repeat": 1.1},
}
TOKENIZERS = {
    "tokens-llama-bpe": "llama-3.1",
    "tokens-smollm": "llama-wide-heads",
    "tokens-gpt-2": "llama-wide-heads",
    "tokens-qwen2": "qwen2-yarn",
    "tokens-deepseek-r1-qwen": "qwen2-yarn",
    "tokens-llama": "llama-wide-heads",
    "tokens-llama-bare": "llama-wide-heads",
    "tokens-phi3": "phi3-longrope-window",
    "tokens-gemma2": "gemma2",
}


def make(python: str, folder: Path, cases: dict[str, dict[str, Any]]) -> dict[str, Path]:
    """Both forms of each model; the folder of each."""
    wanted = folder / "make.json"
    entries = [case | {"out": str(folder / name)} for name, case in cases.items()]
    wanted.write_text(json.dumps(entries))
    run_script(python, SCRIPT, "make", wanted)
    return {name: folder / name for name in cases}


def told(python: str, what: str, pairs: list[dict[str, str]], folder: Path) -> list[Any]:
    """What the script says about each pair."""
    wanted = folder / "pairs.json"
    wanted.write_text(json.dumps(pairs))
    done = subprocess.run(
        [python, "-E", "-s", TESTS / SCRIPT, what, wanted],
        check=True, capture_output=True, timeout=200, env=clean_environment(OFFLINE),
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def unpacked(gguf: Path) -> Path:
    """The folder of a GGUF file, in a cache of its own."""
    found = find(str(gguf), None, None, silent)
    with patch("edgekit.builder.source.gguf.cache_root", return_value=gguf.parents[1] / "cache"):
        return dequantised(found, HostToolchain(), silent)


@pytest.fixture(scope="module")
def models(python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    wrong = {
        "missing": LLAMA | {"without": ["blk.1.ffn_up.weight"]},
        "no-norm": LLAMA | {"without": ["output_norm.weight"]},
        "surplus": LLAMA | {"vectors": WITHOUT_PLACE},
        "lfm2-missing": CASES["lfm2"] | {"without": ["blk.2.shortconv.conv.weight"]},
        "lfm2-surplus": CASES["lfm2"] | {"vectors": WITHOUT_PLACE},
        "short": LLAMA | {"header": LLAMA["header"] | {"feed_forward_length": 64}},
        "twice": LLAMA | {"words": {"7": "!"}},
    }
    more = {
        "parts": LLAMA | {"split": 9},
        "chat": LLAMA | CHAT,
    }
    tokens = {
        name: CASES[case] | {"vocabulary": name.removeprefix("tokens-")}
        for name, case in TOKENIZERS.items()
    }
    return make(python, tmp_path_factory.mktemp("gguf"), CASES | wrong | more | tokens)


def test_every_family_is_the_model_of_its_folder(
    models: dict[str, Path], python: str, tmp_path: Path
) -> None:
    pairs = [
        {"reference": str(folder / "reference"), "made": str(unpacked(folder / "model.gguf"))}
        for name, folder in models.items()
        if name in CASES
    ]
    found = dict(zip(CASES, told(python, "compare", pairs, tmp_path), strict=True))
    assert {name: each["fields"] for name, each in found.items() if each["fields"]} == {}
    assert {name for name, each in found.items() if each["difference"] > 1e-6} == set()
    assert all(each["size"] > 1 for each in found.values())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "model.layers.1.mlp.up_proj.weight of the model is not in the file"),
        ("no-norm", "model.norm.weight of the model is not in the file"),
        ("surplus", "blk.0.attn_sinks.weight of the file has no place in the model"),
        ("lfm2-missing", "model.layers.2.conv.conv.weight of the model is not in the file"),
        ("lfm2-surplus", "attn_sinks.weight of the file has no place in the model"),
        ("short", "proj.weight of the file has another shape than in the model"),
        ("twice", "the token '!' twice"),
    ],
)
def test_what_finds_no_place_is_refused_by_its_name(
    name: str, words: str, models: dict[str, Path]
) -> None:
    with pytest.raises(UsageError) as caught:
        unpacked(models[name] / "model.gguf")
    assert words in caught.value.why


def test_every_tokenizer_is_the_one_that_the_header_names(
    models: dict[str, Path], python: str, tmp_path: Path
) -> None:
    pairs = [
        {
            "truth": str(models[name] / "truth.json"),
            "made": str(unpacked(models[name] / "model.gguf")),
        }
        for name in TOKENIZERS
    ]
    found = dict(zip(TOKENIZERS, told(python, "tokens", pairs, tmp_path), strict=True))
    assert {name: each for name, each in found.items() if each} == {}


def test_parts_of_a_writer_are_the_whole_file(models: dict[str, Path]) -> None:
    parts = sorted(models["parts"].glob("model-*.gguf"))
    assert len(parts) > 2
    whole = unpacked(models["llama-wide-heads"] / "model.gguf")
    joined = unpacked(parts[1])
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (joined / name).read_bytes() == (whole / name).read_bytes()


def test_what_the_header_says_about_a_chat_is_kept(models: dict[str, Path]) -> None:
    folder = unpacked(models["chat"] / "model.gguf")
    config = json.loads((folder / "config.json").read_text())
    generation = json.loads((folder / "generation_config.json").read_text())
    assert config["eos_token_id"] == generation["eos_token_id"] == [0, 2]
    plain = unpacked(models["llama-wide-heads"] / "model.gguf") / "generation_config.json"
    assert json.loads(plain.read_text())["eos_token_id"] == [2, 0]  # <|endoftext|> is no unknown
    expected = {"do_sample": True, "temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1}
    assert expected.items() <= generation.items()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    assert tokenizer["post_processor"]["single"][0]["SpecialToken"]["id"] == "<|im_start|>"
    other = folder / "additional_chat_templates" / "tool_use.jinja"
    assert other.read_text() == "tools"
    assert "<|im_end|>" in (folder / "chat_template.jinja").read_text()
