"""Serves one push. It runs *there*, as the one command of an SSH session: standard library only.

A login shell starts it once, and it then runs every verb and stores every byte. Thus a slow login
is paid once, one session suffices (sshd's `MaxSessions 1`), no sftp subsystem is needed, and the
words of a verb meet no shell.

Frames go both ways: four bytes that no text has, a letter, a length of four bytes (big endian), the
content. From the controller
come `R` (run: JSON with `argv` and `seconds`) and `W` (write: JSON with `path` and `offset`), each
followed by `D` (bytes) any number of times and `E` (end), and `P` (it is still there). The answers
are `O` and `X` (both outputs of a command) and `C` (done, as JSON). `B` goes out all the time: a
link that says nothing is dead.
"""

import gc
import json
import os
import select
import signal
import struct
import sys
import threading
import time
import warnings

TYPE_CHECKING = False
if TYPE_CHECKING:  # as typing has it; an import of that takes a sixth of our start
    from collections.abc import Callable
    from typing import Any

HEAD = struct.Struct(">4scI")
MAGIC = b"\0EK\1"
BEAT_SECONDS = 5.0
# A controller that says nothing for this long is gone: the lease of its push ends with this process
SILENT_SECONDS = 100.0
ZIP = f"/python{sys.version_info[0]}{sys.version_info[1]}.zip"
AGENT = ["-S", "-P", "-m", "edgekit.agent"]
FORKED = ("stage", "lease", "state")  # verbs that start nothing that outlives them
Frame = tuple[bytes, bytes]


class Relay:
    """Reads requests from standard input one after the other and answers each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting_since = 0.0

    def serve(self) -> None:
        """Serve until the controller closes the session."""
        threading.Thread(target=self._beat, daemon=True).start()
        while frame := self._frame():
            kind, content = frame
            if kind == b"R":
                self._run(json.loads(content))
            elif kind == b"W":
                self._write(json.loads(content))

    def _beat(self) -> None:
        while True:
            self._send(b"B")
            time.sleep(BEAT_SECONDS)
            since = self._waiting_since
            if since and time.monotonic() - since > SILENT_SECONDS:
                os._exit(1)  # the other thread waits for a frame that never comes

    def _send(self, kind: bytes, content: bytes = b"") -> None:
        if not self._lock.acquire(timeout=SILENT_SECONDS):
            os._exit(1)  # nobody takes what was sent before
        try:
            sys.stdout.buffer.write(HEAD.pack(MAGIC, kind, len(content)) + content)
            sys.stdout.buffer.flush()
        except OSError:
            os._exit(1)
        finally:
            self._lock.release()

    def _frame(self) -> Frame | None:
        """The next frame but `P`; None at the end, also when it comes within a frame."""
        while True:
            self._waiting_since = time.monotonic()
            head = sys.stdin.buffer.read(HEAD.size)
            if len(head) < HEAD.size:
                return None
            _, kind, length = HEAD.unpack(head)
            content = sys.stdin.buffer.read(length)
            if len(content) < length:
                return None
            self._waiting_since = 0.0
            if kind != b"P":
                return kind, content

    def _data(self) -> bytes | None:
        """The bytes of one `D`; None at `E`. The process ends when the controller is gone."""
        frame = self._frame()
        if frame is None:
            sys.exit(1)
        return frame[1] if frame[0] == b"D" else None

    def _run(self, told: "dict[str, Any]") -> None:
        stdin = b""
        while (data := self._data()) is not None:
            stdin += data
        run = fork if runs_here(told["argv"], told.get("own", False)) else execute
        out, errors, code, late = run(told["argv"], stdin, told["seconds"])
        self._send(b"O", out)
        self._send(b"X", errors)
        self._send(b"C", json.dumps({"code": code, "late": late}).encode())

    def _write(self, told: "dict[str, Any]") -> None:
        """Store bytes from an offset on; an error is told at once, not after the last byte."""
        told_already = False
        descriptor, at = -1, told["offset"]
        try:
            flags = os.O_WRONLY | os.O_CREAT | (0 if at else os.O_TRUNC)
            descriptor = os.open(told["path"].encode(), flags, 0o600)
        except OSError as error:
            told_already = self._refuse(error)
        while (data := self._data()) is not None:
            try:
                while data and not told_already:
                    done = os.pwrite(descriptor, data, at)
                    data, at = data[done:], at + done
            except OSError as error:
                told_already = self._refuse(error)
        if not told_already:
            self._send(b"C", json.dumps({"size": os.fstat(descriptor).st_size}).encode())
        if descriptor >= 0:
            os.close(descriptor)

    def _refuse(self, error: OSError) -> bool:
        self._send(b"C", json.dumps({"error": error.strerror or str(error)}).encode())
        return True


def runs_here(argv: list[str], own: bool) -> bool:
    """Whether a fork of this process can run a command: a text for our own Python, or a verb.

    Another start of Python takes 20 ms on a PC, and 300 ms and more where `python3` is a script of
    a version manager or the CPU is small. Paths need UTF-8, which a new Python is told by `adapt`.
    """
    given = own and (argv[1:2] == ["-"] or argv[1:3] == ["-I", "-c"])
    able = hasattr(os, "memfd_create") and sys.getfilesystemencoding() == "utf-8"
    return able and (given or is_verb(argv))


def is_verb(argv: list[str]) -> bool:
    """Whether a command is one of `FORKED`, of an agent that is to run with the Python we are."""
    at = argv.index(AGENT[0]) if AGENT[0] in argv else 0
    python, module, verb = argv[at - 1], argv[at : at + 4], argv[at + 4 : at + 5]
    ours = argv[:2] == ["env", "-i"] and python == sys.executable and module == AGENT
    return ours and bool(verb) and verb[0] in FORKED and bool(standard_library())


def standard_library() -> list[str]:
    """The entries of `sys.path` that Python has with `-S`; empty where they cannot be told."""
    home = os.path.dirname(getattr(os, "__file__", ""))  # noqa: PTH120  pathlib is slow to import
    first = [path for path in sys.path if path.endswith(ZIP) or path == home]
    compiled = [path for path in sys.path if path.endswith("/lib-dynload")]
    return first + compiled if home in first and compiled else []


def is_foreign(module: "Any", kept: list[str]) -> bool:
    """Whether a module is none of the standard library: site-packages may lie below that."""
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return any(
        "-packages/" in place or not place.startswith(tuple(kept)) for place in places if place
    )


def fork(argv: list[str], stdin: bytes, seconds: float) -> tuple[bytes, bytes, int, bool]:
    """As `execute`, for what `runs_here`, without starting Python."""
    become: Callable[[Any], object] = be_text
    told: Any
    if argv[0] == "env":
        become, told, words = be_agent, argv, argv[argv.index(AGENT[0]) + 3 :]
    elif argv[1] == "-":
        told, words, stdin = stdin, argv[1:], b""
    else:
        told, words = argv[3].encode(), argv[2:3] + argv[4:]
    files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    ended, open_end = os.pipe()
    try:
        with os.fdopen(os.dup(files[0]), "wb") as file:
            file.write(stdin)
        os.lseek(files[0], 0, os.SEEK_SET)
        pid = os.fork()
        if pid == 0:
            os.close(ended)
            _be(become, told, words, files)
        os.close(open_end)
        open_end = -1
        late = not select.select([ended], [], [], seconds)[0]
        if late:
            os.killpg(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if late:
            return b"", b"", 124, True
        out, errors = (os.pread(file, os.fstat(file).st_size, 0) for file in files[1:])
        return out, errors, code if code >= 0 else 128 - code, False
    finally:
        for descriptor in (*files, ended, open_end):
            if descriptor >= 0:
                os.close(descriptor)


def be_text(text: bytes) -> None:
    """Become a program."""
    exec(compile(text, "<edgekit>", "exec"), {"__name__": "__main__"})  # noqa: S102  # ours


def of_python(finder: "Any") -> bool:
    """Whether a finder of modules is Python's own."""
    return str(finder.__module__).startswith("_frozen_importlib")


def be_agent(argv: list[str]) -> None:
    """Become a verb: the environment, and the folders to import from, of a Python of its own."""
    kept = standard_library()
    environment = (word.partition("=") for word in argv[2 : argv.index(AGENT[0]) - 1])
    os.environ.clear()
    os.environ.update({name: value for name, _, value in environment})
    # What site-packages brought into this process is none of the agent's.
    for name in [name for name, module in sys.modules.items() if is_foreign(module, kept)]:
        del sys.modules[name]
    sys.meta_path[:] = [each for each in sys.meta_path if of_python(each)]
    sys.excepthook = sys.__excepthook__
    sys.path[:] = [*os.environ["PYTHONPATH"].split(":"), *kept]
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"]
    gc.set_threshold(10_000)  # a tenth of what its imports take is the search for garbage
    __import__("edgekit.agent.__main__")
    sys.modules["edgekit.agent.__main__"].main()


def _be(become: "Callable[[Any], object]", told: "Any", words: list[str], files: list[int]) -> None:
    """Be a program as if it were the whole process, with `words` as its argv; never returns."""
    code = 1
    try:
        os.setsid()
        for number, file in enumerate(files):
            os.dup2(file, number)
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(n, mode, encoding="utf-8", errors="surrogateescape")
            for n, mode in enumerate("rww")
        )
        sys.argv = words
        try:
            become(told)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            if isinstance(error.code, str):
                sys.stderr.write(error.code + "\n")
        except BaseException:
            import traceback  # noqa: PLC0415  seldom needed, and every push pays for an import

            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def execute(argv: list[str], stdin: bytes, seconds: float) -> tuple[bytes, bytes, int, bool]:
    """Both outputs, the exit code, and whether the command was ended because it took too long."""
    import subprocess  # noqa: PLC0415  a transfer needs none, and every push pays for an import

    name = argv[0].encode()
    argv = [os.path.expanduser(argv[0]), *argv[1:]]  # noqa: PTH111  # `python` of fleet.toml
    try:
        process = subprocess.Popen(
            [word.encode() for word in argv],  # whatever the locale of the account is
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError:
        return b"", name + b": not found", 127, False
    except (OSError, ValueError) as error:
        return b"", name + b": " + str(error).encode("utf-8", "replace"), 126, False
    try:
        out, errors = process.communicate(stdin, seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return b"", b"", 124, True
    code = process.returncode
    return out, errors, code if code >= 0 else 128 - code, False


def adapt() -> None:
    """Leave out what login scripts may have set and no Python of ours should inherit."""
    os.umask(os.umask(0o077) & 0o077)  # a mask that takes our own rights would lock us out
    for name in list(os.environ):
        if name.startswith("PYTHON"):
            del os.environ[name]
    os.environ["PYTHONUTF8"] = "1"  # a root may have letters that the account's locale lacks
    os.environ["PYTHONSAFEPATH"] = "1"  # a home may have a json.py
    warnings.simplefilter("ignore")  # Python 3.12 and later warn of a fork beside a thread


if __name__ == "__main__":
    adapt()
    Relay().serve()
