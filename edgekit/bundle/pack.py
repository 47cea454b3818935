"""Packs a model folder, the agent and the runtimes into a bundle: one manifest, one digest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec

from edgekit.bundle import layers
from edgekit.bundle.chat import check_chat
from edgekit.bundle.docs import OtherLayers, docs_layer
from edgekit.bundle.folder import ModelFolder, check_bytes, check_gate, read_folder
from edgekit.bundle.golden import SOAK_SECONDS, check_soak, golden_layer, own_runtime, recording
from edgekit.bundle.kept_record import keep_record, read_record, record_path
from edgekit.bundle.layout import Layout
from edgekit.bundle.sign import load_key, make_key
from edgekit.core.chat.tools.formats import CHAT_RECORD, ChatRecord
from edgekit.core.config import check_name
from edgekit.core.digest import Digest
from edgekit.core.golden import GoldenPrompt
from edgekit.core.manifest import (
    BUNDLE_TYPE,
    CONFIG_TYPE,
    GATE,
    MANIFEST_TYPE,
    TITLE,
    UNPACKED,
    WEIGHT_CONFIG_TYPE,
    WEIGHT_TYPE,
    BundleConfig,
    Descriptor,
    Fit,
    Manifest,
    encode,
    parse_manifest,
)
from edgekit.core.pictures import takes_pictures
from edgekit.core.reading import UNREADABLE
from edgekit.errors import UsageError, VerificationError
from edgekit.store import read_chunks

DEFAULT_CONTEXT = 4096  # tokens; the builder's own default reserves 103 GB for Phi-3.5-mini
KV_ELEMENT_BYTES = 4  # float32: graphs for the CPU keep keys and values in it
PICTURES_RAM_BYTES = 128 << 20  # Pillow, one decoded picture of 4 megapixels, its crops, features
RUNTIME_RAM_BYTES = 300 << 20  # agent, worker and the runtime's libraries, without weights and KV
TOKENIZER_RAM_RATIO = 16
"""Memory of a loaded tokenizer over the size of its file: 10 to 19 measured, for 49,152 to 262,144
words; the high ones are small files without line breaks."""

Report = Callable[[str], None]


class GenaiConfig(msgspec.Struct, frozen=True):
    """The parts of `genai_config.json` that a bundle depends on."""

    model: dict[str, Any]
    search: dict[str, Any] = {}

    @property
    def kv_bytes_per_token(self) -> int:
        """Size in bytes of the keys and values of all layers for one token."""
        decoder = self.model["decoder"]
        heads = decoder["num_key_value_heads"] * decoder["head_size"]
        return int(2 * decoder["num_hidden_layers"] * heads * KV_ELEMENT_BYTES)

    @property
    def pictures(self) -> bool:
        """Whether the model takes pictures."""
        return takes_pictures(self.model)

    @property
    def window(self) -> int:
        """The sliding window of the layers that have one, in tokens; else 0.

        The runtime reserves keys and values for a whole window, however short the context is.
        """
        window = self.model["decoder"].get("sliding_window") or {}
        # the builder also writes a window that no layer has
        return 0 if window.get("layers") == [] else int(window.get("window_size") or 0)

    @property
    def provider(self) -> str:
        """The execution provider that the graph is for, in lower case."""
        options = self.model["decoder"].get("session_options", {}).get("provider_options", ())
        return next((str(name).lower() for each in options for name in each), "cpu")

    def reserves(self, context: int) -> str:
        """What is said where the window is longer than the context, in tokens."""
        taken = self.window * self.kv_bytes_per_token
        return (
            f"its sliding window of {self.window} tokens is reserved in full, {taken / 1e6:.0f} "
            f"MB of keys and values, although the context is {context}"
        )

    @property
    def sampling(self) -> dict[str, Any]:
        """The model's sampling defaults under chat completions' names; greedy unless it samples."""
        if not self.search.get("do_sample"):
            # transformers applies it to greedy answers, too
            penalty = self.search.get("repetition_penalty", 1.0)
            return {"temperature": 0.0} | ({"repetition_penalty": penalty} if penalty != 1 else {})
        names = ("temperature", "top_k", "top_p", "repetition_penalty")
        return {name: self.search[name] for name in names if name in self.search}


def read_model(folder: Path) -> GenaiConfig:
    """Read a model's `genai_config.json`.

    Raises:
        UsageError: the builder did not make it, or the model is not for a CPU.
    """
    try:
        config = msgspec.json.decode((folder / "genai_config.json").read_bytes(), type=GenaiConfig)
        _ = config.kv_bytes_per_token, config.model["context_length"], config.model["type"]
        _ = config.window, config.provider
    except FileNotFoundError:
        raise UsageError(
            f"{folder} is not a built model",
            "it has no genai_config.json",
            "make one: `edgekit build -m MODEL -o FOLDER`",
        ) from None
    except NotADirectoryError:
        raise UsageError(f"{folder} is a file", next_step="name the folder of the model") from None
    except (*UNREADABLE, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{folder / 'genai_config.json'} cannot be used", str(error), "build the model again"
        ) from error
    if config.provider != "cpu":
        raise UsageError(
            f"{folder} is a model for {config.provider}",
            "the runtime in a bundle runs models on the CPU",
            "build it with -e cpu, or run the folder with a runtime of your own",
        )
    return config


def pack(
    store: Layout,
    cache: Path,
    folder: Path,
    *,
    name: str,
    version: str,
    context: int | None,
    max_answer: int | None,
    runtimes: Iterable[tuple[str, str]],
    keys: Path,
    accept_ungated: bool = False,
    golden: bool = True,
    soak_seconds: float = SOAK_SECONDS,
    report: Report,
) -> Digest:
    """Put a bundle into the store; equal inputs, the signing key among them, give one digest.

    Args:
        store: the project's store.
        cache: folder that keeps assembled runtime layers.
        folder: a model folder.
        name, version: of the bundle.
        context: cap for prompt and answer in tokens; default: the model's own, at most 4096.
        max_answer: cap for one answer in tokens; default: the context.
        runtimes: (platform, CPython minor) pairs.
        keys: folder of the project's keys; pack makes a missing signing key.
        accept_ungated: pack a model that has not passed the gate, and mark the bundle `ungated`.
        golden: record golden prompts, for which this machine loads the model.
        soak_seconds: how long a device's trial of the bundle lasts once it answers.
        report: called with progress.

    Returns:
        The digest of the bundle's manifest.

    Raises:
        UsageError: the folder is no model folder, the model has not passed the gate, it cannot
            have this context, or a device could not serve chats with it.
        EdgekitError: this machine cannot run the model to record its golden prompts.
        VerificationError: a file was edited, added or removed since the build.
    """
    check_name("bundle", name)
    check_name("version", version)
    check_soak(soak_seconds)
    genai = read_model(folder)
    caps = _caps(genai, context, max_answer)
    if genai.window > caps.context:
        report(genai.reserves(caps.context))
    source = read_folder(folder)
    check_gate(source, accept_ungated)
    report("hashing the model")
    check_bytes(source)
    report("trying the chat template")
    chat = check_chat(folder)
    packed = _other_layers(
        store,
        cache,
        source,
        chat,
        caps,
        runtimes,
        golden=golden,
        soak_seconds=soak_seconds,
        pictures=genai.pictures,
        report=report,
    )
    make_key(keys)
    docs = docs_layer(
        store, source, packed, name=name, version=version, signing_key=lambda: load_key(keys)
    )
    config = encode(_config(name, version, source, genai, caps, packed))
    manifest = _manifest(
        name, version, source, Descriptor(CONFIG_TYPE, store.put(config), len(config)), packed, docs
    )
    data = encode(manifest)
    parse_manifest(data)  # a device parses it the same way: what it would refuse is refused here
    return store.name(f"{name}:{version}", data)


def _other_layers(
    store: Layout,
    cache: Path,
    source: ModelFolder,
    chat: ChatRecord,
    caps: _Caps,
    runtimes: Iterable[tuple[str, str]],
    *,
    golden: bool,
    soak_seconds: float,
    pictures: bool,
    report: Report,
) -> OtherLayers:
    """Put all layers but the docs into the store; the golden prompts are recorded meanwhile."""
    report("packing the agent")
    agent = layers.agent_layer(store)
    with (
        _golden(cache, source, agent.digest, caps.context, report, pictures=pictures)
        if golden
        else nullcontext(list) as prompts
    ):
        files = [*_model_layers(store, source), _record_layer(store, source, chat)]
        assembled = [
            layers.runtime_layer(store, cache, *each, report, pictures=pictures)
            for each in runtimes
        ]
        asked = golden_layer(store, prompts(), soak_seconds, source.made_from)
        return OtherLayers(files, agent, assembled, asked, pictures)


@contextmanager
def _golden(
    cache: Path,
    source: ModelFolder,
    agent: Digest,
    context: int,
    report: Report,
    *,
    pictures: bool,
) -> Iterator[Callable[[], list[GoldenPrompt]]]:
    """Record the golden prompts beside the block, if no pack has done so; yields their getter."""
    runtime = own_runtime(cache, report, pictures=pictures)
    path = record_path(cache, source, agent, runtime.name, context)
    kept = read_record(path)
    if kept is not None:
        yield lambda: kept
        return
    with recording(runtime, source.path, context, report) as prompts:

        def recorded() -> list[GoldenPrompt]:
            found = prompts()
            keep_record(path, found)
            return found

        yield recorded


class _Caps(msgspec.Struct, frozen=True):
    """A bundle's limits in tokens: prompt and answer together, and one answer."""

    context: int
    max_answer: int


def _caps(genai: GenaiConfig, context: int | None, max_answer: int | None) -> _Caps:
    """The limits that were asked for, or their defaults.

    Raises:
        UsageError: the model cannot have this context.
    """
    own = int(genai.model["context_length"])
    context = min(own, DEFAULT_CONTEXT) if context is None else context
    if not 2 <= context <= own:
        raise UsageError(
            f"--context {context} does not fit the model",
            f"it has {own} tokens",
            f"choose a context of 2 to {own} tokens",
        )
    return _Caps(context, min(max_answer or context, context))


def _config(
    name: str,
    version: str,
    source: ModelFolder,
    genai: GenaiConfig,
    caps: _Caps,
    packed: OtherLayers,
) -> BundleConfig:
    kv_bytes = genai.kv_bytes_per_token
    reserved = kv_bytes * max(caps.context, genai.window)
    reserved += PICTURES_RAM_BYTES if genai.pictures else 0
    return BundleConfig(
        name=name,
        version=version,
        model_type=str(genai.model["type"]),
        build_id=source.build_id,
        context_length=caps.context,
        kv_bytes_per_token=kv_bytes,
        max_answer_tokens=caps.max_answer,
        fit=_fit(packed.model, [packed.agent, *packed.runtimes], reserved),
        search=genai.sampling,
    )


def _manifest(
    name: str,
    version: str,
    source: ModelFolder,
    config: Descriptor,
    packed: OtherLayers,
    docs: Descriptor,
) -> Manifest:
    return Manifest(
        schema_version=2,
        media_type=MANIFEST_TYPE,
        artifact_type=BUNDLE_TYPE,
        config=config,
        layers=[*packed.model, packed.agent, *packed.golden, *packed.runtimes, docs],
        annotations={
            "org.opencontainers.image.title": name,
            "org.opencontainers.image.version": version,
            GATE: source.verdict,
        },
    )


def _model_layers(store: Layout, folder: ModelFolder) -> list[Descriptor]:
    found = []
    for name in folder.model:
        digest, size = store.put_stream(read_chunks(folder.path / name))
        if folder.record and digest.hex != folder.record.files[name].sha256:
            raise VerificationError(
                f"{name} changed while it was packed",
                "its bytes are no longer those of the record",
                "build the model again, and do not change the folder while pack reads it",
            )
        kind = WEIGHT_TYPE if name.endswith(".data") else WEIGHT_CONFIG_TYPE
        found.append(Descriptor(kind, digest, size, {TITLE: name}))
    return found


def _record_layer(store: Layout, folder: ModelFolder, chat: ChatRecord) -> Descriptor:
    """Put what was found out of the chat template beside the model's files."""
    if CHAT_RECORD in folder.model:
        raise UsageError(
            f"{folder.path} has a file {CHAT_RECORD}",
            "pack writes one of this name, with what it finds out of the chat template",
            "remove the file, or give it another name",
        )
    record = msgspec.json.encode(chat, order="sorted")
    return Descriptor(WEIGHT_CONFIG_TYPE, store.put(record), len(record), {TITLE: CHAT_RECORD})


def _fit(files: list[Descriptor], tars: list[Descriptor], reserved: int) -> Fit:
    """Estimate the needs from above: weights are mapped and partly repacked, KV is used in full.

    The weights of the graphs for pictures count like all others.
    """
    model = sum(d.size for d in files)
    words = sum(d.size for d in files if d.annotations[TITLE] == "tokenizer.json")
    runtime = max((int(d.annotations[UNPACKED]) + d.size for d in tars), default=0)
    return Fit(
        ram_bytes=model + model // 4 + reserved + words * TOKENIZER_RAM_RATIO + RUNTIME_RAM_BYTES,
        disk_bytes=model + runtime,
    )
