"""The model process: loads the model, reports that it is ready, then serves prompts."""

from __future__ import annotations

import logging
import socket
import time
from functools import partial
from pathlib import Path

import msgspec

from edgekit import memory
from edgekit.agent.serve.pipe import Pipe, PipeClosedError, Ready, ToWorker, WorkerSettings
from edgekit.agent.serve.worker.admission import beams_served
from edgekit.agent.serve.worker.answer.answer import (
    BUSY_FLUSH_SECONDS,
    FIRST_PAUSE_SECONDS,
    FLUSH_SECONDS,
)
from edgekit.agent.serve.worker.decoder import BeamSearch, Decoder, RuntimeOptions, open_model
from edgekit.agent.serve.worker.decoder.graph import read_graph
from edgekit.agent.serve.worker.decoder.memory import MAX_SLOTS
from edgekit.agent.serve.worker.golden import PromptTexts, score, speed
from edgekit.agent.serve.worker.grammar.grammars import Grammars
from edgekit.agent.serve.worker.grammar.opening import open_compiler, serves_grammars
from edgekit.agent.serve.worker.pictures.family import VisionFamily
from edgekit.agent.serve.worker.pictures.sight import Eyes
from edgekit.agent.serve.worker.pictures.taken import images_taken, kept_rows, within
from edgekit.agent.serve.worker.scoring import load_factory
from edgekit.agent.serve.worker.tune import TUNE_SECONDS, cpus, tuned
from edgekit.agent.serve.worker.worker import Worker
from edgekit.core.chat.capabilities import GRAMMARS, REASONING
from edgekit.core.chat.thinking import marks_in
from edgekit.core.golden import Golden, GoldenScore, parse_golden, score_of
from edgekit.core.protocol.payloads import ImagesTaken
from edgekit.errors import EdgekitError
from edgekit.tokens.chat import ChatTokenizer, open_tokenizer

log = logging.getLogger(__name__)


def serve_model(descriptor: int) -> None:
    """Receive the settings, load the model, warm it up with one token, then serve the pipe.

    On trial it scores the bundle's golden prompts before it reports that it is ready, and where
    there are none it measures the tokens/s that the device asks for.

    Args:
        descriptor: the file descriptor of this process's end of the parent's socketpair.

    Raises:
        EdgekitError: no settings arrived, the model or the custom scoring cannot be loaded, the
            memory has no room for the model, or the golden prompts cannot be scored.
    """
    settings, pipe = _settings(descriptor)
    processors = load_factory(settings.logits_processors)  # fails before the long load
    model_dir = Path(settings.model)
    measured = not settings.threads
    options = RuntimeOptions(settings.threads, spinning=False)
    if not settings.threads:
        seconds = min(settings.tune_seconds, TUNE_SECONDS)
        options, measured = tuned(model_dir, settings.release, Path(settings.tuning), seconds)
    began = time.monotonic()
    tokenizer, decoder, beams, images, eyes = _loaded(settings, options)
    loaded = time.monotonic()
    decoder.extend(0, tokenizer.encode_chat([("user", "Hello")]))
    decoder.greedy(0)
    decoder.truncate(0, 0)
    warm = time.monotonic()
    found = _scored(decoder, tokenizer, settings)
    limits = decoder.limits
    served = _beams_served(beams, settings.max_beams, limits.max_length)
    pipe.send(
        Ready(
            (loaded - began) * 1e3,
            (warm - loaded) * 1e3,
            limits.slots,
            options.threads,
            bool(options.spinning),
            measured,
            served,
            limits.max_length,
            found,
            images,
            _capabilities(tokenizer),
            list(tokenizer.template_options),
        )
    )
    busy = options.threads >= cpus()  # no CPU is left to carry deltas: ADR 6
    Worker(
        pipe,
        decoder,
        tokenizer,
        time.monotonic,
        processors,
        beams=beams,
        max_beams=served,
        flush_seconds=BUSY_FLUSH_SECONDS if busy else FLUSH_SECONDS,
        pause_seconds=FIRST_PAUSE_SECONDS if busy else 0.0,
        eyes=eyes,
        grammars=Grammars(
            partial(open_compiler, tokenizer.table, limits.vocabulary, tokenizer.eos_token_ids)
        ),
    ).run()


def _capabilities(tokenizer: ChatTokenizer) -> list[str]:
    """Return what this model on this device serves beyond a plain text."""
    words = [REASONING] if marks_in(tokenizer.template_texts) else []
    return [*words, *GRAMMARS] if serves_grammars() else words


def _loaded(
    settings: WorkerSettings, options: RuntimeOptions
) -> tuple[ChatTokenizer, Decoder, BeamSearch | None, ImagesTaken | None, Eyes | None]:
    """Load tokenizer and model; raises EdgekitError where that fails."""
    model_dir = Path(settings.model)
    try:
        tokenizer, family = open_tokenizer(model_dir), read_graph(model_dir).family
        images, kept = None, 0
        if family is not None:
            asked, room = (settings.image_crops, settings.images_per_prompt), memory.total_bytes()
            images = images_taken(*asked, room or 0, family, tokenizer.encode)
            kept = kept_rows(images, settings.slots or MAX_SLOTS, settings.max_length, family)
        decoder, beams = open_model(
            model_dir, settings.max_length, options, settings.slots, settings.batching, kept
        )
        if family is None or images is None:
            return tokenizer, decoder, beams, None, None
        if not settings.image_crops:
            images = within(images, decoder.limits.max_length, family, tokenizer.encode)
        return tokenizer, decoder, beams, images, _eyes(family, images, tokenizer)
    except EdgekitError:
        raise
    except Exception as error:  # native libraries may raise anything
        raise EdgekitError("the model cannot be loaded", str(error)) from error


def _eyes(family: VisionFamily, images: ImagesTaken, tokenizer: ChatTokenizer) -> Eyes:
    """Return what reads pictures."""
    try:
        from edgekit.agent.serve.worker.pictures.eyes import (  # noqa: PLC0415  needs Pillow
            FamilyEyes,
        )
    except ImportError as error:
        raise EdgekitError(
            "the model takes pictures, and this release has nothing to read them",
            f"Pillow cannot be imported: {error}",
            "pack the model again with this version of edgekit",
        ) from error
    return FamilyEyes(family, images.crops, tokenizer.encode)


def _scored(decoder: Decoder, texts: PromptTexts, settings: WorkerSettings) -> GoldenScore | None:
    """Score the golden prompts, measure tokens/s; raises EdgekitError where the runtime fails."""
    found = None
    golden = Golden([])
    if settings.golden:
        golden = parse_golden(Path(settings.golden).read_bytes(), decoder.limits.vocabulary)
    try:
        if settings.golden:
            found = score(decoder, texts, golden, settings.golden_seconds)
        if settings.measure_speed and (found is None or not found.tokens_per_second):
            found = found or score_of(golden, [], 0.0, 0)
            return msgspec.structs.replace(
                found, tokens_per_second=speed(decoder, settings.golden_seconds)
            )
    except Exception as error:  # native libraries may raise anything
        raise EdgekitError("the golden prompts cannot be scored", str(error)) from error
    return found


def _settings(descriptor: int) -> tuple[WorkerSettings, Pipe[ToWorker]]:
    """Return the settings from the first frame, and the pipe for the later frames.

    Raises:
        EdgekitError: no frame arrived, or it holds no settings.
    """
    try:
        pipe: Pipe[WorkerSettings] = Pipe(socket.socket(fileno=descriptor), WorkerSettings)
        settings = pipe.receive()
    except (OSError, PipeClosedError) as error:
        raise EdgekitError(
            "the model process was not told its settings",
            str(error),
            "`serve` starts it over a socketpair; the agent's log says why `serve` ended",
        ) from error
    assert settings is not None, "receive() waits for a message"
    return settings, pipe.then(ToWorker)


def _beams_served(beams: BeamSearch | None, wanted: int, max_length: int) -> int:
    """Return how many beams fit; call it once the slots have taken their memory."""
    served = beams_served(beams, wanted, max_length)
    if served < wanted:
        log.warning(
            "max_beams %d is lowered to %d: %s",
            *(wanted, served),
            "the memory has no room for more"
            if beams
            else "slots in one batch have no beam search",
        )
    return served
