"""Fetches a model's config.json and the headers of its weights from Hugging Face, without weights.

    python headers.py --repo ORG/NAME [--revision REV] [--cache FOLDER] --out FILE --report FILE

Runs with the controller's interpreter. FILE takes one JSON object:

    {"config": …, "tensors": {NAME: {"dtype": …, "shape": […]}}, "files": {NAME: bytes},
     "missing": [NAME, …], "others": [NAME, …]}

where `files` lists the files that a build would download, `missing` those that the index names and
the repository lacks, and `others` those with weights that no build reads. As transformers does, it
reads `model.safetensors`, else the files of the index (`builder/source/checkpoint.py`).

The result event has `revision` (the commit) and `cache` (the folder that a download would go to).
Errors have the kinds of fetch.py.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common.reporting import Reporter, ScriptError, run
from fetch import ASK_TIMEOUT_SECONDS, kind_of, other_weights, wanted

CONNECTIONS = 8
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def headers(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Write the headers; return the result event."""
    from huggingface_hub import HfApi, constants, hf_hub_download

    api, repo = HfApi(), args.repo
    commit = api.model_info(repo, revision=args.revision, timeout=ASK_TIMEOUT_SECONDS).sha
    tree = api.list_repo_tree(repo, revision=commit, recursive=True)
    sizes = {entry.path: entry.size for entry in tree if hasattr(entry, "size")}
    files = {name: sizes[name] for name in wanted(list(sizes))}
    if "config.json" not in files:
        raise ScriptError("no config", f"{repo} has no config.json")
    config = hf_hub_download(repo, "config.json", revision=commit, cache_dir=args.cache)
    told = json.loads(Path(config).read_text(encoding="utf-8"))
    present = [name for name in files if name.endswith(".safetensors")]
    named: set[str] = set()
    if INDEX in files:
        index = hf_hub_download(repo, INDEX, revision=commit, cache_dir=args.cache)
        named = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
    if SINGLE in present:
        weights = [SINGLE]
    elif named or not told.get("quantization_config"):
        weights = sorted(named & set(present))
    else:
        weights = present
    reporter.progress(f"reading {len(weights)} headers")

    def header(name: str) -> dict[str, Any]:
        # one Range request for the first 100 kB, and a second one where the header is longer
        told = api.parse_safetensors_file_metadata(
            repo, name, revision=commit, timeout=ASK_TIMEOUT_SECONDS
        )
        return {k: {"dtype": t.dtype, "shape": list(t.shape)} for k, t in told.tensors.items()}

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        tensors = {name: t for part in pool.map(header, weights) for name, t in part.items()}
    missing = sorted(named - set(present))
    whole = {
        "config": told,
        "tensors": tensors,
        "files": files,
        "missing": missing,
        "others": other_weights(list(sizes)),
    }
    args.out.write_text(json.dumps(whole), encoding="utf-8")
    return {"revision": commit, "cache": str(args.cache or constants.HF_HUB_CACHE)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--repo", required=True)
    parser.add_argument("--revision")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    run(parser, headers, kind_of)
