"""The model's process: loads the model, says that it is ready, then works."""

from __future__ import annotations

import logging
import socket
import time
from pathlib import Path

from edgekit.agent.serve.admission import beams_served
from edgekit.agent.serve.answer import BUSY_FLUSH_SECONDS, FIRST_PAUSE_SECONDS, FLUSH_SECONDS
from edgekit.agent.serve.decoder import Options, open_model
from edgekit.agent.serve.pipe import Pipe, Ready, ToWorker
from edgekit.agent.serve.scoring import load_factory
from edgekit.agent.serve.tune import TUNE_SECONDS, cpus, tuned
from edgekit.agent.serve.worker import Worker
from edgekit.errors import EdgekitError

log = logging.getLogger(__name__)


def serve_model(
    descriptor: int,
    model_dir: Path,
    max_length: int,
    *,
    threads: int,
    slots: int,
    release: str,
    tuning: Path,
    tune_seconds: float,
    max_beams: int,
    batching: bool,
    logits_processors: str,
) -> None:
    """Load the model, answer one token to warm it up, then serve the pipe.

    Args:
        descriptor: of the parent's socketpair.
        model_dir: the model's folder.
        max_length: tokens of a slot, where the memory holds one of so many.
        threads: of the runtime; 0 takes what is fastest on this device.
        slots: prompts side by side; 0 takes what the memory allows.
        release: its digest.
        tuning: where measured settings are kept.
        tune_seconds: how long to measure at most.
        max_beams: of a beam search; 1 refuses it.
        batching: decode all slots in one step, where the graph allows it.
        logits_processors: custom scoring, as in agent.toml.

    Raises:
        EdgekitError: the model or the custom scoring cannot be loaded, or has no room.
    """
    processors = load_factory(logits_processors)  # before what takes long
    pipe: Pipe[ToWorker] = Pipe(socket.socket(fileno=descriptor), ToWorker)
    measured = not threads
    options = Options(threads, spinning=False)
    if not threads:
        options, measured = tuned(model_dir, release, tuning, min(tune_seconds, TUNE_SECONDS))
    began = time.monotonic()
    try:
        decoder, tokenizer, beams = open_model(model_dir, max_length, options, slots, batching)
    except EdgekitError:
        raise
    except Exception as error:  # of native libraries: whatever they throw
        raise EdgekitError("the model cannot be loaded", str(error)) from error
    loaded = time.monotonic()
    decoder.extend(0, tokenizer.encode_chat([("user", "Hello")]))
    decoder.greedy(0)
    decoder.truncate(0, 0)
    warm = time.monotonic()
    limits = decoder.limits
    served = beams_served(beams, max_beams, limits.max_length)  # the slots have their memory by now
    if served < max_beams:
        log.warning(
            "max_beams %d is lowered to %d: %s",
            *(max_beams, served),
            "the memory has no room for more" if beams else "batching has no beam search",
        )
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
        )
    )
    busy = options.threads >= cpus()  # no CPU is left to those who carry deltas: ADR 6
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
    ).run()
