"""The runtime layer of a bundle whose model takes pictures, and that of all others, which is the
one from before edgekit knew pictures."""

from __future__ import annotations

import base64
import hashlib
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.agent.release.staging.libraries import compiled_packages
from edgekit.bundle.layers import assembled_runtime, members, runtime_packages, unpacked_runtime
from edgekit.core.manifest import oci_platform
from edgekit.data import cache_root

HERE = (oci_platform(platform.machine()), f"{sys.version_info.major}.{sys.version_info.minor}")
# SHA-256 of the layers that the code before pictures made of runtime.lock. A new runtime.lock
# makes others: pack with it once and write the digests here.
BEFORE = {
    ("linux/amd64", "3.11"): "02a5f67a8e66c7bfe62e165158c540e3657f8c78acca8288e4769072f81ba37f",
    ("linux/amd64", "3.12"): "8a702f754ea4c20627cd9f430913dc955356cf321d7cfff7171e5e39cbdce2a6",
    ("linux/amd64", "3.13"): "7b54f7655ef1e4a2adeb1207d6d8b86da2f8f32c5f45495ebd95a6fcd6daeb12",
    ("linux/amd64", "3.14"): "3f1cc72214154460e43ed7a95529b1546511040efdbc89dbf736d45434e21f15",
    ("linux/arm64", "3.11"): "0a46449da82958d435534cbb577375742979421fc43458e5a2560139e72d15ab",
    ("linux/arm64", "3.13"): "58ce8ece93a6e49813277541d5d3e9885ed9612e07e7276ec8cfe215ce29fb64",
}
# One red pixel
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
DECODE = """
import base64, io, sys
from PIL import Image, features
image = Image.open(io.BytesIO(base64.b64decode(sys.argv[1])), formats=["PNG"])
picture = image.convert("RGB").resize((8, 8))
jpeg = io.BytesIO()
picture.save(jpeg, "JPEG")
again = Image.open(io.BytesIO(jpeg.getvalue()), formats=["JPEG"])
again.load()
print(again.size, again.getpixel((0, 0))[0] > 200, features.check("jpg"), features.check("webp"))
print(Image.__file__)
"""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("target", [HERE, ("linux/arm64", "3.11")], ids=":".join)
def test_a_bundle_of_texts_has_the_runtime_from_before_and_no_pillow(
    target: tuple[str, str],
) -> None:
    if target not in BEFORE:
        pytest.fail(f"write the digest of {target} into BEFORE")
    layer = assembled_runtime(cache_root(), *target, print)
    assert sha256(layer) == BEFORE[target]
    assert not [name for name, _ in members(layer, ("PIL", "pillow.libs"))]
    assert "pillow" not in dict(runtime_packages())


def test_a_bundle_with_pictures_adds_the_two_decoders_and_nothing_else() -> None:
    texts = unpacked_runtime(cache_root(), *HERE, print)
    layer = assembled_runtime(cache_root(), *HERE, print, pictures=True)
    tree = unpacked_runtime(cache_root(), *HERE, print, pictures=True)
    added = {
        path.relative_to(tree): path.stat().st_size
        for path in tree.rglob("*")
        if path.is_file() and not (texts / path.relative_to(tree)).exists()
    }
    added = {path: size for path, size in added.items() if path.suffix != ".pyc"}
    assert {path.parts[0] for path in added} == {"PIL", "pillow.libs", "pillow-13.0.0.dist-info"}
    extra = sum(added.values())
    before = assembled_runtime(cache_root(), *HERE, print).stat().st_size
    print(f"pictures add {extra / 1e6:.1f} MB on the disk, ", end="")
    print(f"{(layer.stat().st_size - before) / 1e6:.1f} MB of transfer")
    assert extra < 12e6
    assert not [path for path in added if "avif" in path.name and path.suffix == ".so"]


def test_the_pruned_pillow_decodes_jpeg_and_png_and_is_tried_before_a_switch() -> None:
    tree = unpacked_runtime(cache_root(), *HERE, print, pictures=True)
    assert base64.b64decode(PNG).startswith(b"\x89PNG")
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-B", "-c", DECODE, PNG],
        env={"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    said, where = done.stdout.splitlines()
    assert said == "(8, 8) True True False"
    assert Path(where).is_relative_to(tree)
    assert "PIL.Image" in compiled_packages(tree)
