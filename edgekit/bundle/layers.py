"""The agent and runtime layers of a bundle, and the part of both that a first contact needs.

The agent layer is a projection of this package: the modules that a device imports, with an empty
`__init__`. An edit of the toolchain or a new version number does not change it, and a push then
restarts no agent.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Collection, Container, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import zstandard

import edgekit
from edgekit import data
from edgekit.bundle.tar import compress, files_below, plain_tar
from edgekit.core.config import known_settings
from edgekit.core.digest import Digest
from edgekit.core.manifest import (
    AGENT_TYPE,
    ISA,
    PLATFORM,
    PYTHON,
    RUNTIME_TYPE,
    SETTINGS,
    TITLE,
    UNPACKED,
    UPDATER,
    Descriptor,
    Manifest,
)
from edgekit.errors import EdgekitError, UsageError
from edgekit.store import BlobStore, publish, read_chunks

PROJECTION = (
    *("errors.py", "memory.py", "store.py"),
    *("core", "mqtt", "registry", "tokens", "trust", "agent"),
)
BOOTSTRAP_PACKAGES = ("edgekit", "msgspec", "zstandard", "tuf", "securesystemslib", "urllib3")
UPDATER_VERSION = "1"  # of the agent that is packed: it verifies signed metadata
RUNTIME_LOCK = "containers/runtime/runtime.lock"
PICTURES_LOCK = "containers/runtime/pictures.lock"  # beside it where the model takes pictures
INSTALL_SECONDS = 1800

# llguidance alone is built for 2.31: on an older system a device answers without schemas.
GLIBCS = (31, 28, 27, 24, 17)
# With only one tag pip silently takes a pure-Python fallback; with all tags it does not.
WHEEL_TAGS = {
    "linux/amd64": [f"manylinux_2_{n}_x86_64" for n in GLIBCS] + ["manylinux2014_x86_64"],
    "linux/arm64": [f"manylinux_2_{n}_aarch64" for n in GLIBCS] + ["manylinux2014_aarch64"],
}
# What the wheels' code needs of a CPU, as /proc/cpuinfo spells it. numpy 2.4 is compiled for
# x86-64-v2: under QEMU its import ends with SIGILL on `-cpu qemu64` and works from `Nehalem` on.
WHEEL_ISA = {"linux/amd64": "cx16,popcnt,sse4_1,sse4_2,ssse3", "linux/arm64": "asimd"}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")

_RULES = b"RECORD names what is there"  # a cache of before has layers made otherwise

# No device uses these files: the model builder, command-line tools, tests and their data (2.4 MB
# of Ed25519), headers, and zstandard's second backend.
_PRUNED = re.compile(
    r"(^|/)(tests|test_data|__pycache__|f2py)/|^bin/|^onnxruntime_genai/models/"
    r"|^onnxruntime/(tools|transformers|quantization|datasets)/|^numpy/_core/(include|lib)/"
    r"|^zstandard/_cffi|\.pyi$"
)

# Of Pillow a device needs JPEG and PNG, which are part of `PIL._imaging`. Every other decoder is
# code that only a stranger's bytes could reach, together as large as what stays.
_PRUNED_PICTURES = re.compile(
    r"^PIL/_(avif|webp|imagingcms|imagingft|imagingmorph|imagingtk)\."
    r"|^pillow\.libs/lib(avif|brotli|freetype|harfbuzz|lcms2|png16|sharpyuv|webp)"
)

Report = Callable[[str], None]


def agent_layer(store: BlobStore) -> Descriptor:
    """Put the agent layer, the projection of the running package, into the store.

    Raises:
        EdgekitError: the package lacks a file or folder of the projection.
    """
    package = Path(edgekit.__file__).parent
    files: list[tuple[str, bytes | Path]] = [("edgekit/__init__.py", b"")]
    for name in PROJECTION:
        files += [(f"edgekit/{n}", path) for n, path in _projected(package, name)]
    annotations = {
        TITLE: "agent.tar.zst",
        SETTINGS: ",".join(sorted(known_settings())),
        UPDATER: UPDATER_VERSION,
    }
    return put_tar(store, plain_tar(files), AGENT_TYPE, annotations)


def _projected(package: Path, name: str) -> list[tuple[str, Path]]:
    """List (relative name, path) of one file of the package, or of a folder's Python files."""
    path = package / name
    if path.is_file():
        return [(name, path)]
    found = [(f"{name}/{n}", file) for n, file in files_below(path) if n.endswith(".py")]
    if not found:  # a folder that was moved can leave its __pycache__ behind
        raise EdgekitError(
            f"the agent cannot be packed: {name} is missing from the package edgekit",
            f"{path} is no file, and no folder with Python files",
            "install edgekit again; if you moved it, write its new place into PROJECTION",
        )
    return found


def put_tar(
    store: BlobStore, tar: bytes, media_type: str, annotations: dict[str, str]
) -> Descriptor:
    """Compress a tar and put it into the store."""
    digest, size = store.put_stream(compress(tar))
    return Descriptor(media_type, digest, size, annotations | {UNPACKED: str(len(tar))})


def parse_runtime(text: str) -> tuple[str, str]:
    """Parse `linux/arm64:3.11` into (`linux/arm64`, `3.11`).

    Raises:
        UsageError: the runtime's wheels do not exist for this platform or Python.
    """
    platform, _, python = text.partition(":")
    if platform not in WHEEL_TAGS or python not in PYTHONS:
        raise UsageError(
            f"--runtime {text} is not known",
            f"platforms are {', '.join(WHEEL_TAGS)}; Pythons are {', '.join(PYTHONS)}",
            "write for example --runtime linux/arm64:3.11",
        )
    return platform, python


def runtime_layer(
    store: BlobStore,
    cache: Path,
    platform: str,
    python: str,
    report: Report,
    *,
    pictures: bool = False,
) -> Descriptor:
    """Put the runtime for one (platform, CPython minor) into the store; arguments as of
    `assembled_runtime`.

    Raises:
        EdgekitError: pip cannot get the locked wheels.
    """
    layer = assembled_runtime(cache, platform, python, report, pictures=pictures)
    unpacked = msgspec.json.decode(layer.with_suffix(".json").read_bytes())["unpacked"]
    digest, size = store.put_stream(read_chunks(layer))
    title = f"runtime-{platform.replace('/', '-')}-cp{python.replace('.', '')}.tar.zst"
    annotations = {TITLE: title, PLATFORM: platform, PYTHON: python, UNPACKED: str(unpacked)}
    annotations[ISA] = WHEEL_ISA[platform]
    return Descriptor(RUNTIME_TYPE, digest, size, annotations)


def unpacked_runtime(
    cache: Path, platform: str, python: str, report: Report, *, pictures: bool = False
) -> Path:
    """Return the folder in `cache` with the files of a runtime layer, as a device has them.

    Raises:
        EdgekitError: pip cannot get the locked wheels.
    """
    layer = assembled_runtime(cache, platform, python, report, pictures=pictures)
    tree = layer.with_name(layer.name.partition(".")[0])
    if not tree.exists():
        with tempfile.TemporaryDirectory(dir=layer.parent, prefix=".tree.") as folder:
            for name, content in members(layer):
                path = Path(folder, "tree", name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            with suppress(OSError):  # another process was faster
                Path(folder, "tree").rename(tree)
    return tree


def assembled_runtime(
    cache: Path, platform: str, python: str, report: Report, *, pictures: bool = False
) -> Path:
    """Return the runtime layer for one (platform, CPython minor), a file in `cache`.

    pip unpacks hash-locked wheels for the device's platform, without emulation. The layer is made
    once per lock; the JSON file beside it has its unpacked size.

    Args:
        cache: folder that keeps it.
        platform, python: as `parse_runtime` returns them.
        report: called with progress.
        pictures: with what decodes pictures, for a model that takes them.

    Raises:
        EdgekitError: pip cannot get the locked wheels.
    """
    locks = _locks(pictures)
    patterns = [_PRUNED, _PRUNED_PICTURES] if pictures else [_PRUNED]
    decides = [path.read_bytes() for path in locks] + [each.pattern.encode() for each in patterns]
    decides.append(_RULES)
    key = Digest.of(b"".join(decides) + f"{platform}:{python}".encode())
    layer = cache / "runtime" / f"{key.hex}.tar.zst"
    record = layer.with_suffix(".json")
    if not record.exists():
        report(f"assembling the runtime for {platform} with CPython {python}")
        layer.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=layer.parent, prefix=".runtime.") as folder:
            tree = Path(folder)
            _install(locks, tree, WHEEL_TAGS[platform], python)
            kept = {
                name: path
                for name, path in files_below(tree)
                if not any(each.search(name) for each in patterns)
            }
            tar = plain_tar((name, content_of(name, path, kept)) for name, path in kept.items())
        publish(layer, b"".join(compress(tar)))
        publish(record, msgspec.json.encode({"unpacked": len(tar)}))
    return layer


def content_of(name: str, path: Path, kept: Collection[str]) -> bytes | Path:
    """Return the content that a file that pip installed has in a layer.

    A `RECORD` (PyPA, "Recording installed projects") names the files of a layer alone. pip also
    notes the hash of scripts that it made, which name the interpreter of whoever packs: one release
    had another digest in each virtual environment.

    Args:
        name: of the file in the layer.
        path: of the file.
        kept: names of all files of the layer.
    """
    if not name.endswith(".dist-info/RECORD"):
        return path
    lines = path.read_text("utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if next(csv.reader([line]))[0] in kept).encode()


def runtime_packages(*, pictures: bool = False) -> tuple[tuple[str, str], ...]:
    """List (name, version) of every wheel in the locks of the runtime layers."""
    text = "".join(path.read_text(encoding="utf-8") for path in _locks(pictures))
    return tuple(re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)", text, flags=re.MULTILINE))


def _locks(pictures: bool) -> list[Path]:
    names = [RUNTIME_LOCK, PICTURES_LOCK] if pictures else [RUNTIME_LOCK]
    return [data.path(name) for name in names]


def _install(locks: list[Path], target: Path, tags: list[str], python: str) -> None:
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target)),
        *(f"--platform={tag}" for tag in tags),
        *("--python-version", python, "--implementation", "cp", "--only-binary=:all:"),
        *("--no-deps", "--no-compile", "--require-hashes"),
        *(f"--requirement={lock}" for lock in locks),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise EdgekitError(
            f"pip did not end within {INSTALL_SECONDS} s",
            "it was fetching the wheels of the device's runtime",
            "check the connection to the package index, then pack again",
        ) from None
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise EdgekitError(
            "the device's runtime cannot be assembled",
            (errors or done.stderr.splitlines() or ["pip failed"])[0],
            "check that pip reaches a package index on this machine",
        )


def bootstrap(store: BlobStore, manifest: Manifest, runtime: Descriptor) -> tuple[str, bytes]:
    """Make the tar that lets a device without an agent stage a release: 13 MB, uncompressed.

    The rest of the runtime follows as a blob like all others.

    Returns:
        The start of the tar's sha256 as its name, and the tar.
    """
    files: list[tuple[str, bytes | Path]] = []
    for layer in (manifest.agent, runtime):
        files += members(store.path(layer.digest), BOOTSTRAP_PACKAGES)
    tar = plain_tar(files)
    return Digest.of(tar).short, tar


def members(layer: Path, packages: Container[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of every file of a tar+zstd layer, in the layer's order.

    The layer is read as a stream: only one of its files at a time is in memory.

    Args:
        layer: the compressed tar.
        packages: read only these folders or files at the top of the layer; None reads all.
    """
    with (
        layer.open("rb") as raw,
        zstandard.ZstdDecompressor().stream_reader(raw) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        for member in archive:
            if packages is not None and member.name.split("/", 1)[0] not in packages:
                continue
            if member.isreg():
                file = archive.extractfile(member)
                assert file is not None, "a regular file has content"
                yield member.name, file.read()
