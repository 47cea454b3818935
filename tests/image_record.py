"""Which build image comes from which inputs: building it twice from scratch takes five minutes.

python -m tests.image_record    builds it twice and writes tests/system/image.json

The image is known by all that decides its bytes: the Containerfile, the lock and the names of
Debian's packages (its tag), the versions of those packages, which are of the day that the base was
made (docs/adr/0007), and the programs that make it. Where all are as recorded the image must have
the recorded digest. Otherwise the test builds it once more from scratch; what it finds is kept in
the cache, for a machine whose packages are of another day. A change of the repository, another
tag, needs a new record.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import msgspec

from edgekit.builder.tools import image as image_module
from edgekit.builder.tools.container import ContainerToolchain
from edgekit.builder.tools.engine import ask, find_engine
from edgekit.builder.tools.image import BuilderImage
from edgekit.data import cache_root
from edgekit.data import path as data_path
from tests.building import silent

RECORD = Path(__file__).parent / "system" / "image.json"
AGAIN = "localhost/edgekit-builder-again"


class Made(msgspec.Struct, frozen=True):
    """One image.

    Attributes:
        tag: stands for the repository's part of the inputs.
        packages: sha256 of the names and versions of Debian's packages in it.
        steps: sha256 of how the engine and mmdebstrap are called.
        tools: their versions.
        digest: the image's.
    """

    tag: str
    packages: str
    steps: str
    tools: str
    digest: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.tag, self.packages, self.steps, self.tools


def builder_image(tag_prefix: str = "") -> BuilderImage:
    more = {"tag_prefix": tag_prefix} if tag_prefix else {}
    return BuilderImage(find_engine(), data_path("containers/builder/toolchain.lock"), **more)


def found() -> Made:
    """The image in the engine's store."""
    image = builder_image()
    engine = image.engine
    look = engine.run(
        image.tag, ["cat", "/var/lib/dpkg/status"], name="edgekit-packages", mounts=(),
        work=Path("/"), environment={}, memory_bytes=None,
    )  # fmt: skip
    status = ask(look)
    assert status.returncode == 0, status.stderr
    keys = ("Package: ", "Version: ", "Architecture: ")
    packages = [line for line in status.stdout.splitlines() if line.startswith(keys)]
    assert len(packages) > 3 * 50, status.stdout[:1000]
    bootstrap = subprocess.run(
        ["mmdebstrap", "--version"], capture_output=True, text=True, check=True
    )
    # the calls themselves: the modules around them may change
    steps = (
        *engine.build(Path("context"), "tag", image_module.SOURCE_DATE_EPOCH, {"BASE": "base"}),
        inspect.getsource(BuilderImage._rootfs),
        image_module._NOT_IN_THE_IMAGE,
    )
    return Made(
        tag=image.tag,
        packages=_sha256("\n".join(packages)),
        steps=_sha256("\0".join(word for word in steps if word not in engine.ulimits)),
        tools=f"{engine.name} {engine.version}, {bootstrap.stdout.strip()}",
        digest=image.digest(),
    )


def known(made: Made) -> str:
    """The digest that an image of these inputs has; empty when no two of them were compared."""
    records = [_read(RECORD), *(_read(path) for path in _cache().glob("*.json"))]
    return next((r.digest for r in records if r and r.inputs == made.inputs), "")


def is_recorded(made: Made) -> bool:
    """Whether the committed record is of this lock and Containerfile."""
    record = _read(RECORD)
    return record is not None and record.tag == made.tag


def keep(made: Made) -> None:
    """Note in the cache that two images of these inputs were equal."""
    path = _cache() / f"{_sha256(json.dumps(made.inputs))}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(made))


def build_again() -> str:
    """The digest of the image built from scratch; it is not left in the store."""
    again = builder_image(AGAIN)
    try:
        return again.make(silent)
    finally:
        ask([*again.engine.argv, "rmi", again.tag, f"{again.tag}-base"])


def _cache() -> Path:
    return cache_root() / "tests" / "images"


def _read(path: Path) -> Made | None:
    return msgspec.json.decode(path.read_bytes(), type=Made) if path.is_file() else None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> int:
    """Record the image of the present inputs, unless two builds of them differ."""
    ContainerToolchain().ready(silent)
    made = found()
    again = build_again()
    if again != made.digest:
        sys.stderr.write(f"{made.digest} is in the store, {again} was built: not recorded\n")
        return 1
    keep(made)
    RECORD.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n")
    sys.stdout.write(f"recorded {made.digest}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
