"""The agent of a device in whose model process the bare runtime can be measured too. Run by path:

    python -S -P bare_worker.py serve --root ROOT

in the environment of a release. The prompts of requester `bare` are answered by a plain loop around
`og.Generator.generate_next_token`, on the very generator that answers the others. In a process of
its own the same loop is up to 15 % faster or slower for as long as the process lives, by the luck
of its memory pages. Nothing in the agent knows of this: its functions are wrapped from here.
"""

# ruff: noqa: PLC0415  the imports inside are of the release, on the path of its environment

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

BARE = "bare"
SETTLE_SECONDS = 0.1  # the agent has said `accepted` and is at rest


def answer(worker: Any, start: Any) -> Any:
    """The `Done` of a prompt that the runtime alone has answered, greedily."""
    from edgekit.agent.serve.pipe import Done
    from edgekit.core.chat.completion import Timings, Usage

    tokenizer, slot = worker._tokenizer, worker._decoder._slots[0]
    generator, stops = slot._generator, tokenizer.eos_token_ids
    time.sleep(SETTLE_SECONDS)
    tokens: list[int] = []
    began = time.perf_counter()
    prompt = tokenizer.encode_chat(start.messages)
    generator.append_tokens(prompt)
    while True:
        generator.generate_next_token()
        tokens.append(int(generator.get_next_tokens()[0]))
        if len(tokens) == 1:
            first = time.perf_counter()
        if len(tokens) == start.answer_limit or tokens[-1] in stops:
            break
    last = time.perf_counter()
    slot.length = len(prompt) + len(tokens)
    worker._decoder.truncate(0, 0)
    stream = tokenizer.stream()
    text = "".join(stream.decode(token) for token in tokens if token not in stops)
    return Done(
        start.key,
        text,
        "stop" if tokens[-1] in stops else "length",
        Usage(len(prompt), len(tokens), len(prompt) + len(tokens)),
        Timings(
            queue_ms=0.0,
            prompt_ms=(first - began) * 1e3,
            first_token_ms=(first - began) * 1e3,
            predicted_ms=(last - first) * 1e3,
            predicted_per_second=(len(tokens) - 1) / (last - first),
        ),
    )


def wrap_worker() -> None:
    """Have the model process answer the prompts of `bare` bare, keep no prefix of others, and put
    these into the slot that the bare loop has: the same memory for both."""
    from edgekit.agent.serve.worker.worker import Worker

    make, begin, end = Worker.__init__, Worker._begin, Worker._end

    def make_with_one_slot(self: Worker, *arguments: Any, **more: Any) -> None:
        make(self, *arguments, **more)
        del self._idle[1:]

    def begin_or_answer(self: Worker, start: Any) -> None:
        if start.requester == BARE:
            self._waiting.remove(start)
            self._pipe.send(answer(self, start))
        else:
            begin(self, start)

    def end_and_forget(self: Worker, generation: Any, reason: str) -> None:
        end(self, generation, reason)
        self._decoder.truncate(generation.slot.number, 0)
        generation.slot.tokens.clear()

    # assigned on purpose: the release that is measured stays as it is
    Worker.__init__ = make_with_one_slot  # type: ignore[method-assign]  # and so does its device
    Worker._begin = begin_or_answer  # type: ignore[method-assign]  # as above
    Worker._end = end_and_forget  # type: ignore[method-assign]  # as above


def wrap_service() -> None:
    """Have the agent start this file as its model process."""
    from edgekit.agent.serve.loop import process

    def start(command: list[str], **how: Any) -> Any:
        at = command.index("-m")
        return subprocess.Popen([*command[:at], __file__, *command[at + 2 :]], **how)

    names = {name: getattr(subprocess, name) for name in ("DEVNULL", "TimeoutExpired")}
    vars(process)["subprocess"] = SimpleNamespace(Popen=start, **names)


def main() -> None:
    """Wrap, then be the agent or its model process."""
    if sys.argv[1] == "worker":
        wrap_worker()
    else:
        wrap_service()
    from edgekit.agent.__main__ import main as agent

    agent()


if __name__ == "__main__":
    main()
