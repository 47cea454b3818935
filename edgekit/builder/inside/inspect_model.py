"""Reads a built model folder back and reports facts about it, which `builder/lint/rules.py` judges.

    python inspect_model.py --model FOLDER

The graph is read without its data, and the data in pieces. An unreadable file is a fact, too.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import onnx
from common.reporting import Reporter, run
from lint.data import LISTED, TensorReader, layout
from lint.graph import ResolvedGraph, summary

CONFIG, TOKENIZER = "genai_config.json", "tokenizer.json"
DEFAULT_GRAPH = "model.onnx"
PARTS = ("vision", "embedding")  # sections of genai_config.json with graphs of their own


class ModelReader:
    """Reads JSON files and records the reason for each that could not be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unreadable: dict[str, str] = {}

    def json(self, name: str) -> dict[str, Any] | None:
        """The object in a file; None where the file is missing or unreadable."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            self.unreadable[name] = str(error)
            return None
        if not isinstance(value, dict):
            self.unreadable[name] = "it holds no JSON object"
            return None
        return value


def ids(value: Any) -> list[int]:
    """Token ids as a list; the configuration has a number, a list or null."""
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, int)]


def config_facts(config: dict[str, Any]) -> dict[str, Any]:
    """The facts of genai_config.json."""
    model = config.get("model", {})
    decoder, search = model.get("decoder", {}), config.get("search", {})
    options = decoder.get("session_options", {})
    window = decoder.get("sliding_window") or {}
    return {
        "type": model.get("type"),
        "context_length": model.get("context_length"),
        "vocabulary": model.get("vocab_size"),
        "bos": ids(model.get("bos_token_id")),
        "eos": ids(model.get("eos_token_id")),
        "pad": ids(model.get("pad_token_id")),
        "filename": decoder.get("filename"),
        "head_size": decoder.get("head_size"),
        "hidden_size": decoder.get("hidden_size"),
        "layers": decoder.get("num_hidden_layers"),
        "heads": decoder.get("num_attention_heads"),
        "kv_heads": decoder.get("num_key_value_heads"),
        "max_length": search.get("max_length"),
        "providers": [name for entry in options.get("provider_options", []) for name in entry],
        "threads": options.get("intra_op_num_threads"),
        # the builder also writes a window that no layer has
        "window": 0 if window.get("layers") == [] else window.get("window_size") or 0,
    }


def template_of(reader: ModelReader) -> str:
    """The chat template, from its own file or tokenizer_config.json; empty where there is none."""
    path = reader.folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    value = (reader.json("tokenizer_config.json") or {}).get("chat_template") or ""
    return value if isinstance(value, str) else json.dumps(value)


def tokenizer_facts(
    tokenizer: dict[str, Any], config: dict[str, Any] | None, template: str
) -> dict[str, Any]:
    """The facts of tokenizer.json: ids that are beyond the vocabulary, or missing."""
    words = tokenizer.get("model", {}).get("vocab") or {}
    base = set(words.values()) if isinstance(words, dict) else set(range(len(words)))
    added = {t["id"]: t for t in tokenizer.get("added_tokens", []) if isinstance(t.get("id"), int)}
    limit = (config or {}).get("vocabulary")
    known = base | added.keys()
    beyond = [t for i, t in sorted(added.items()) if limit and i >= limit and i not in base]
    named = {kind: (config or {}).get(kind, []) for kind in ("bos", "eos", "pad")}
    return {
        "tokens": len(known),
        "highest_id": max(known, default=-1),
        "words_beyond": sum(i >= limit for i in base) if limit else 0,
        "added_beyond": [
            {"id": t["id"], "content": t["content"], "used": not t.get("special")
             or t["content"] in template}
            for t in beyond[:LISTED]
        ],
        "unknown": {kind: [i for i in given if i not in known] for kind, given in named.items()},
    }  # fmt: skip


def graph_facts(path: Path, reporter: Reporter) -> dict[str, Any]:
    """The facts of the graph and its data."""
    model = onnx.load(path, load_external_data=False)
    graph = ResolvedGraph(model)
    if not graph.proto.node:
        raise ValueError("it has no nodes")
    tensors = TensorReader(path.parent, graph)
    matrices = graph.matrices()
    used = {m["weight"] for m in matrices} | {m["scales"] for m in matrices if "scales" in m}
    seen: dict[str, dict[str, int]] = {}
    for number, matrix in enumerate(matrices):
        reporter.progress("reading the model back", number / len(matrices))
        # an embedding that shares the head's bytes is read once
        if matrix["weight"] not in seen:
            seen[matrix["weight"]] = tensors.statistics(matrix)
        matrix.update(seen[matrix["weight"]])
    return {
        "graph": summary(graph),
        "matrices": matrices,
        "not_finite": tensors.not_finite(used),
        "data": layout(path.parent, graph),
    }


def part_facts(path: Path) -> dict[str, Any]:
    """The facts of another graph of the model, and of its data."""
    graph = ResolvedGraph(onnx.load(path, load_external_data=False))
    matrices = [node for node in graph.proto.node if node.op_type == "MatMulNBits"]
    return {
        "broken": graph.broken(),
        "not_finite": TensorReader(path.parent, graph).not_finite(set()),
        "data": layout(path.parent, graph),
        "bits": sorted({a.i for node in matrices for a in node.attribute if a.name == "bits"}),
    }


def parts_of(reader: ModelReader, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """File name -> the facts of each further graph that the configuration names."""
    found = {}
    for section in PARTS:
        name = (config.get("model", {}).get(section) or {}).get("filename")
        if not name:
            continue
        found[name] = {}
        if (reader.folder / name).is_file():
            try:
                found[name] = part_facts(reader.folder / name)
            except Exception as error:  # protobuf and onnx raise many kinds
                lines = str(error).strip().splitlines() or [type(error).__name__]
                reader.unreadable[name] = lines[0][:300]
    return found


def work(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Inspect the folder; return the facts as the result event."""
    reporter.progress("reading the model back")
    reader = ModelReader(args.model)
    raw = reader.json(CONFIG)
    config = config_facts(raw) if raw is not None else None
    template = template_of(reader)
    tokenizer = reader.json(TOKENIZER)
    name = (config or {}).get("filename") or DEFAULT_GRAPH
    found: dict[str, Any] = {"graph": None, "matrices": [], "not_finite": [], "data": None}
    path = args.model / name
    if path.is_file():
        try:
            found = graph_facts(path, reporter)
        except Exception as error:  # protobuf and onnx raise many kinds
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reader.unreadable[name] = lines[0][:300]
    parts = parts_of(reader, raw or {})
    files = {p.name: p.stat().st_size for p in sorted(args.model.iterdir()) if p.is_file()}
    return found | {
        "files": files,
        "graph_name": name,
        "parts": parts,
        "config": config,
        "tokenizer": tokenizer_facts(tokenizer, config, template) if tokenizer else None,
        "has_template": bool(template.strip()),
        "unreadable": reader.unreadable,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    run(parser, work)
