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
    ("linux/amd64", "3.11"): "8a73bd7fbb62e371ef2123c3e9c053495c4fe4a1a3eaaffb961b967b491651f2",
    ("linux/amd64", "3.12"): "ff3e5070c966a074081cf5aa846cf8a44b62620260b9498c83c0ae3ec53701ee",
    ("linux/amd64", "3.13"): "376b96da54175354fd7ac35696d7b8e16a9ed5766e1188d8faa28db745eb12ef",
    ("linux/amd64", "3.14"): "009e72a16fa2f50e5054244ac3556f46ba69fb7fb937695174748f20073b9f32",
    ("linux/arm64", "3.11"): "3034bf5fc5188db78cad7efafed90b044e4d63bd0b9f088561fffae5721deafb",
    ("linux/arm64", "3.13"): "36ead8f406f5352c68ead186edeaa3856e4becc5a8f82103d6fdda567d840e5e",
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
