"""Checks that a built model folder is complete and as requested. Pure: facts in, findings out.

`inside/inspect_model.py` reads the facts, `asked.py` gives the required properties. The output of
the model is checked by the gate, not here. A finding that refuses means that the folder must not
ship.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.builder.lint.facts import ConfigFacts, DataFacts, FolderFacts, TokenizerFacts
from edgekit.builder.lint.finding import Finding, listed, refuse, warn
from edgekit.builder.lint.parts import parts
from edgekit.builder.lint.weights import weights
from edgekit.builder.request.asked import Asked

_PROVIDERS = {"cpu": (), "cuda": ("cuda",), "dml": ("dml",), "webgpu": ("webgpu",)}


def lint(facts: FolderFacts, asked: Asked) -> tuple[Finding, ...]:
    """All findings about a model folder, refusals first.

    Args:
        facts: of the folder.
        asked: the required properties.
    """
    found = [*_files(facts, asked)]
    if facts.graph is not None:
        found += [*_graph(facts, asked), *weights(facts, asked)]
    datas = [facts.data, *(part.data for part in facts.parts.values())]
    for data in datas:
        if data is not None:
            found += _data(data)
    if facts.data is not None:
        found += _orphans([data for data in datas if data is not None], facts)
    found += parts(facts, asked)
    if facts.config is not None:
        found += [*_config(facts.config, facts, asked), *_vocabulary(facts.config, facts, asked)]
        if facts.tokenizer is not None:
            found += _tokens(facts.config, facts.tokenizer)
    if not facts.has_template:
        found.append(_no_template(asked))
    return tuple(sorted(found, key=lambda finding: finding.severity == "warn"))


def _files(facts: FolderFacts, asked: Asked) -> Iterator[Finding]:
    for name, why in sorted(facts.unreadable.items()):
        kind = "graph-unreadable" if name == facts.graph_name else "file-unreadable"
        yield refuse(kind, f"{name} cannot be read: {why}", name, "a whole file", "a broken one")
    if facts.graph_name != asked.filename:
        yield refuse(
            "option-ignored", "the graph has another name than requested", "filename",
            asked.filename, facts.graph_name,
        )  # fmt: skip
    for name in ("genai_config.json", facts.graph_name, "tokenizer.json", "tokenizer_config.json"):
        if name in facts.files:
            continue
        text = f"{name} is missing"
        # the runtime also reads a SentencePiece model
        if name == "tokenizer.json" and "tokenizer.model" in facts.files:
            yield warn("file-missing", text, name, "a file", "none")
        else:
            yield refuse("file-missing", text, name, "a file", "none")


def _graph(facts: FolderFacts, asked: Asked) -> Iterator[Finding]:
    graph = facts.graph
    assert graph is not None
    if graph.broken:
        yield refuse(
            "graph-broken", "the graph has missing connections, no runtime loads it",
            listed(graph.broken), "none", str(len(graph.broken)),
        )  # fmt: skip
    types = set(graph.cache_types)
    if types and types != {asked.cache_type}:
        yield refuse(
            "kv-dtype", "the key-value cache has another element type",
            "past_key_values", asked.cache_type, " ".join(sorted(types)),
        )  # fmt: skip


def _data(data: DataFacts) -> Iterator[Finding]:
    if data.outside:
        yield refuse(
            "data-outside", "the graph places weights outside the model's folder",
            listed([o.tensor for o in data.outside]), "a file of the folder",
            data.outside[0].location,
        )  # fmt: skip
    if data.wrong_length:
        yield refuse(
            "data-length", "weights have another length than their shape requires",
            listed(data.wrong_length), "equal", f"{len(data.wrong_length)} that differ",
        )  # fmt: skip
    for file in data.files:
        if file.size is None:
            yield refuse("file-missing", f"{file.name} is missing", file.name, "a file", "none")
            continue
        if file.cut:
            yield refuse(
                "data-truncated", f"{file.name} ends too early", listed(file.cut),
                f"{file.referenced_end} bytes", f"{file.size} bytes",
            )  # fmt: skip
        if file.overlaps:
            yield refuse(
                "data-overlap", f"weights of {file.name} lie over each other",
                listed([f"{a} and {b}" for a, b in file.overlaps]), "none",
                f"{len(file.overlaps)} pairs",
            )  # fmt: skip
        if file.unreferenced_bytes:
            offset, length = file.holes[0]
            yield refuse(
                "data-orphans", f"{file.name} holds bytes that belong to no weight",
                f"{length} bytes at {offset}", "0 bytes", f"{file.unreferenced_bytes} bytes",
            )  # fmt: skip


def _orphans(datas: list[DataFacts], facts: FolderFacts) -> Iterator[Finding]:
    used = {file.name for data in datas for file in data.files}
    for name, size in sorted(facts.files.items()):
        if name.endswith(".data") and name not in used:
            yield refuse(
                "data-orphans", f"no weight lies in {name}", name, "0 bytes", f"{size} bytes"
            )


def _config(config: ConfigFacts, facts: FolderFacts, asked: Asked) -> Iterator[Finding]:
    longest = max(asked.context, config.window)  # the runtime wants room for a whole window
    cap = min(longest, config.context_length or longest)
    if config.max_length is None or not 0 < config.max_length <= cap:
        yield refuse(
            "max-length", "the default length is not what a device can hold",
            "search.max_length", f"1 to {cap} tokens", str(config.max_length),
        )  # fmt: skip
    if config.providers != _PROVIDERS.get(asked.provider, (asked.provider,)):
        yield refuse(
            "provider", "the configuration names another execution provider",
            "session_options.provider_options", asked.provider, " ".join(config.providers) or "cpu",
        )  # fmt: skip
    if asked.layers is not None and config.layers != asked.layers:
        yield refuse(
            "layers", "the model has another number of layers",
            "num_hidden_layers", str(asked.layers), str(config.layers),
        )  # fmt: skip


def _vocabulary(config: ConfigFacts, facts: FolderFacts, asked: Asked) -> Iterator[Finding]:
    rows = config.vocabulary
    if rows is None:
        yield refuse("vocabulary", "its size is missing", "vocab_size", "a number", "none")
        return
    if asked.vocabulary is not None and rows != asked.vocabulary:
        yield refuse(
            "vocabulary", "the size of the vocabulary is not the source's", "vocab_size",
            str(asked.vocabulary), str(rows),
        )  # fmt: skip
    width = facts.graph.logits_width if facts.graph else None
    embedded = [m.n for m in facts.matrices if m.kind == "embedding" and m.n and _is_token(m.name)]
    for what, size in [("the logits", width), *(("the embedding", n) for n in embedded)]:
        if size is not None and size < rows:
            yield refuse("vocabulary", f"{what} have fewer rows", what, str(rows), str(size))
    for kind in ("bos", "eos", "pad"):
        given: tuple[int, ...] = getattr(config, kind)
        if bad := [i for i in given if not 0 <= i < rows]:
            yield refuse(
                "token-ids", f"the {kind} token is not in the vocabulary", f"{kind}_token_id",
                f"0 to {rows - 1}", listed([str(i) for i in bad]),
            )  # fmt: skip
    if not config.eos:
        yield warn("token-ids", "nothing ends an answer", "eos_token_id", "a token", "none")


def _is_token(name: str) -> bool:
    return name.startswith("/model/embed_tokens/")


def _tokens(config: ConfigFacts, tokenizer: TokenizerFacts) -> Iterator[Finding]:
    rows = config.vocabulary or 0
    used = [token.content for token in tokenizer.added_beyond if token.used]
    if tokenizer.words_beyond or used:
        yield refuse(
            "vocabulary", "the tokenizer makes ids that the model has no row for",
            listed(used) or f"{tokenizer.words_beyond} words", f"ids below {rows}",
            f"ids up to {tokenizer.highest_id}",
        )  # fmt: skip
    elif tokenizer.added_beyond:
        # as in Gemma 3's text models: an image token that no text produces
        yield warn(
            "vocabulary", "the tokenizer knows special tokens that the model has no row for",
            listed([token.content for token in tokenizer.added_beyond]), f"ids below {rows}",
            f"ids up to {tokenizer.highest_id}",
        )  # fmt: skip
    for kind, unknown in sorted(tokenizer.unknown.items()):
        # ids outside the vocabulary are reported already
        ids = [i for i in unknown if 0 <= i < rows]
        if not ids:
            continue
        # a model stops at any of its end tokens; it never stops if the tokenizer knows none of them
        fatal = kind == "eos" and len(unknown) == len(config.eos)
        make = refuse if fatal else warn
        yield make(
            "token-ids", f"the tokenizer does not know the {kind} token", f"{kind}_token_id",
            "a token of tokenizer.json", listed([str(i) for i in ids]),
        )  # fmt: skip


def _no_template(asked: Asked) -> Finding:
    if asked.has_template:
        return refuse(
            "chat-template-missing", "the source's chat template was lost",
            "chat_template.jinja", "a template", "none",
        )  # fmt: skip
    return warn(
        "chat-template-missing", "the model has no chat template, it completes text",
        "chat_template.jinja", "a template", "none",
    )  # fmt: skip
