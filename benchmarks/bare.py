"""The runtime without edgekit, in a process of its own: what the agent is compared with.

`Bare` is the caller's side. The child runs this file: JSON objects in on stdin, one answer each on
stdout. It holds one `og.Generator` and rewinds it between prompts, as the agent does, because a
new one would pay for its KV memory again; greedy search and `max_length` are the agent's too, and
the session options where the caller gives them. Between prompts it waits in `read` and uses no CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError

EXIT_SECONDS = 10.0

Messages = list[dict[str, str]]  # as in a chat-completions body


@dataclass(frozen=True)
class BareAnswer:
    """One greedy answer of the bare runtime.

    Attributes:
        text: whole, the end-of-turn token left out.
        tokens: generated, the end-of-turn token included.
        prompt_tokens: after the chat template.
        first_seconds: from the messages as text to the first token's id: template, encoding,
            prefill, choice.
        rest_seconds: from the first token's id to the last one's.
    """

    text: str
    tokens: int
    prompt_tokens: int
    first_seconds: float
    rest_seconds: float


class Bare:
    """The child process, loaded and warm.

    Args:
        model: folder of the model.
        max_length: tokens of KV memory.
        options: of the runtime's session; none are its own defaults.
    """

    def __init__(self, model: Path, max_length: int, options: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "benchmarks.bare", str(model), str(max_length)]
        self._child = subprocess.Popen(
            [*command, json.dumps(options)],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.answer([{"role": "user", "content": "Hello"}], 8)

    def close(self) -> None:
        """End the child."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(EXIT_SECONDS)

    def answer(self, messages: Messages, max_tokens: int) -> BareAnswer:
        """Greedy answer to a conversation."""
        return BareAnswer(**self._call(messages=messages, max_tokens=max_tokens))

    def logits(self, messages: Messages, positions: int, path: Path) -> None:
        """Save the logits of the first positions of a greedy answer.

        They are a float32 array (positions, vocabulary) in numpy's format.
        """
        self._call(messages=messages, positions=positions, path=str(path))

    def _call(self, **request: Any) -> dict[str, Any]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(request) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise EdgekitError("the bare runtime's process ended", "its error output says why")
        answer: dict[str, Any] = json.loads(line)
        return answer


class _Runtime:
    def __init__(self, folder: str, max_length: int, options: dict[str, Any]) -> None:
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # looked at when the library is loaded
        import onnxruntime_genai as og  # noqa: PLC0415  after the variable, and here alone

        config = og.Config(folder)
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        model = og.Model(config)
        params = og.GeneratorParams(model)
        params.set_search_options(
            max_length=max_length,
            batch_size=1,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            min_length=0,
            no_repeat_ngram_size=0,
        )
        self._tokenizer = og.Tokenizer(model)
        self._eos = {int(token) for token in self._tokenizer.eos_token_ids}
        self._generator = og.Generator(model, params)

    def answer(self, messages: Messages, max_tokens: int) -> dict[str, Any]:
        """The fields of a `BareAnswer`."""
        generator = self._generator
        tokens: list[int] = []
        began = time.perf_counter()
        ids = self._prefill(messages)
        while True:
            generator.generate_next_token()
            tokens.append(int(generator.get_next_tokens()[0]))
            if len(tokens) == 1:
                first = time.perf_counter()
            if len(tokens) == max_tokens or tokens[-1] in self._eos:
                break
        last = time.perf_counter()
        shown = tokens[:-1] if tokens[-1] in self._eos else tokens
        stream = self._tokenizer.create_stream()
        return {
            "text": "".join(stream.decode(token) for token in shown),
            "tokens": len(tokens),
            "prompt_tokens": len(ids),
            "first_seconds": first - began,
            "rest_seconds": last - first,
        }

    def logits(self, messages: Messages, positions: int, path: str) -> dict[str, Any]:
        """Save logits; the answer is empty."""
        import numpy as np  # noqa: PLC0415  not wanted where time is measured

        self._prefill(messages)
        rows = []
        for _ in range(positions):
            rows.append(self._generator.get_logits().reshape(-1).copy())
            self._generator.append_tokens(np.asarray([rows[-1].argmax()], dtype=np.int32))
        np.save(path, np.asarray(rows, dtype=np.float32))
        return {}

    def _prefill(self, messages: Messages) -> Any:
        self._generator.rewind_to(0)
        text = self._tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True)
        ids = self._tokenizer.encode(text)
        self._generator.append_tokens(ids)
        return ids


def _main(folder: str, max_length: int, options: dict[str, Any]) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # native libraries print on stdout
    runtime = _Runtime(folder, max_length, options)
    for line in sys.stdin:
        request = json.loads(line)
        call = runtime.logits if "positions" in request else runtime.answer
        print(json.dumps(call(**request)), file=answers, flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
