"""llama.cpp on the same weights, in a process of its own: what the agent's decoding is up against.

`LlamaCpp` is the caller's side. The child runs this file with the interpreter of a virtual
environment in edgekit's cache, into which llama-cpp-python is built from its source distribution
for exactly this CPU. JSON objects in on stdin, one answer each on stdout.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

BUILD_SECONDS = 3600.0
EXIT_SECONDS = 10.0
REQUIREMENT = "llama-cpp-python==0.3.36"
# Without AMX: where the CPU has it, this version dies of `tilezero`, an illegal instruction.
NO_AMX = "-U__AMX_INT8__"
CMAKE_ARGS = (
    "-DGGML_NATIVE=ON -DCMAKE_BUILD_TYPE=Release -DLLAVA_BUILD=OFF "
    f"-DCMAKE_C_FLAGS={NO_AMX} -DCMAKE_CXX_FLAGS={NO_AMX}"
)


def interpreter(cache: Path) -> Path:
    """The Python that has llama.cpp; made once, in minutes.

    Raises:
        EdgekitError: it cannot be built here; a C++ compiler is needed.
    """
    from edgekit.errors import EdgekitError  # noqa: PLC0415  the child has no edgekit

    flags = hashlib.sha256(CMAKE_ARGS.encode()).hexdigest()[:8]
    home = cache / "benchmarks" / f"{REQUIREMENT.replace('==', '-')}-{flags}"
    python = home / "bin" / "python"
    whole = home / "complete"
    if whole.exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=True)
    print(f"building {REQUIREMENT} for this CPU, once", file=sys.stderr, flush=True)
    command = [
        *("nice", "-n", "10", str(python), "-m", "pip", "install", "--quiet"),
        *("--no-cache-dir", "--no-binary", "llama-cpp-python", REQUIREMENT),  # for these flags
    ]
    done = subprocess.run(
        command,
        env=os.environ | {"CMAKE_ARGS": CMAKE_ARGS},
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise EdgekitError(
            f"{REQUIREMENT} cannot be built here",
            done.stderr.strip()[-2000:],
            "it needs cmake and a C++ compiler: install build-essential and cmake",
        )
    whole.touch()
    return python


class LlamaCpp:
    """The child process, loaded.

    Args:
        python: from `interpreter`.
        gguf: the weights.
        max_length: tokens of KV memory.
        threads: of the runtime.
    """

    def __init__(self, python: Path, gguf: Path, max_length: int, threads: int) -> None:
        self._child = subprocess.Popen(
            [str(python), __file__, str(gguf), str(max_length), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.decode("Hello", 8)

    def close(self) -> None:
        """End the child."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(EXIT_SECONDS)

    def decode(self, prompt: str, tokens: int, schema: Any = None) -> dict[str, Any]:
        """Greedy answer: `tokens` generated, `rest_seconds` from the first one to the last.

        With a schema it ends where the grammar made of it does.
        """
        from edgekit.errors import EdgekitError  # noqa: PLC0415  the child has no edgekit

        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(
            json.dumps({"prompt": prompt, "tokens": tokens, "schema": schema}) + "\n"
        )
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            code = self._child.wait(EXIT_SECONDS)
            raise EdgekitError("llama.cpp's process ended", f"exit code {code}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _grammar(llama_cpp: Any, model: Any, schema: Any) -> Any:
    """The sampler of the grammar that llama.cpp makes of a schema."""
    if schema is None:
        return None
    text = llama_cpp.llama_grammar.json_schema_to_gbnf(json.dumps(schema))
    vocabulary = llama_cpp.llama_model_get_vocab(model.model)
    return llama_cpp.llama_sampler_init_grammar(vocabulary, text.encode(), b"root")


class _Checked:
    """Chooses what a grammar takes as llama.cpp's server does.

    The first choice is checked alone, and the whole vocabulary is looked at only where it does not
    fit. The vocabulary is filled in by numpy, which takes no longer than the server's own loop.
    """

    def __init__(self, llama_cpp: Any, context: Any, grammar: Any, size: int) -> None:
        import numpy as np  # noqa: PLC0415  of the virtual environment

        self._lib, self._context, self._grammar, self._np = llama_cpp, context, grammar, np
        of_one = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._one, self._every = np.zeros(1, of_one), np.zeros(size, of_one)
        self._every["id"] = np.arange(size)

    def token(self, token: int) -> int:
        """The token, or the best one that the grammar takes."""
        self._one[0] = (token, 1.0, 0.0)
        self._apply(self._one)
        if self._one["logit"][0] == -self._np.inf:
            logits = self._lib.llama_get_logits_ith(self._context, -1)
            shape = (self._every.size,)
            self._every["logit"] = self._np.ctypeslib.as_array(logits, shape=shape)
            self._apply(self._every)
            token = int(self._every["logit"].argmax())
        self._lib.llama_sampler_accept(self._grammar, token)
        return token

    def _apply(self, data: Any) -> None:
        pointer = data.ctypes.data_as(self._lib.llama_token_data_p)
        array = self._lib.llama_token_data_array(
            data=pointer, size=data.size, selected=-1, sorted=False
        )
        self._lib.llama_sampler_apply(self._grammar, array)


def _main(gguf: str, max_length: int, threads: int) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # native libraries print on stdout
    import llama_cpp  # noqa: PLC0415  of the virtual environment

    model = llama_cpp.Llama(
        gguf, n_ctx=max_length, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    for line in sys.stdin:
        request = json.loads(line)
        # The bare loop below its Python wrapper: a batch of one token, arg-max by its own sampler.
        text = f"<|im_start|>user\n{request['prompt']}<|im_end|>\n<|im_start|>assistant\n"
        model.reset()
        model.eval(model.tokenize(text.encode(), special=True))
        sampler = llama_cpp.llama_sampler_init_greedy()
        grammar = _grammar(llama_cpp, model, request["schema"])
        count, context = 0, model.ctx
        checked = grammar and _Checked(llama_cpp, context, grammar, model.n_vocab())
        while True:
            token = llama_cpp.llama_sampler_sample(sampler, context, -1)
            if checked:
                token = checked.token(token)
            count += 1
            if count == 1:
                first = time.perf_counter()
            if count == request["tokens"] or token == model.token_eos():
                break
            array = (llama_cpp.llama_token * 1)(token)
            if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, 1)):
                raise RuntimeError("llama_decode failed")
        rest = time.perf_counter() - first
        for each in (sampler, grammar):
            if each is not None:
                llama_cpp.llama_sampler_free(each)
        print(json.dumps({"tokens": count, "rest_seconds": rest}), file=answers, flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
