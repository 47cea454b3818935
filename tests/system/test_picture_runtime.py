"""The runtime layer of a bundle whose model takes pictures, and that of all others, which knows
nothing of pictures."""

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
# SHA-256 of the layers of runtime.lock, in whichever folder and environment they are made. A new
# runtime.lock makes others: pack with it once and write the digests here.
EVERYWHERE = {
    ("linux/amd64", "3.11"): "4563ff84fc094fd420aab6266cffea9c5a6f5abd6291f83c4e764c8529141933",
    ("linux/amd64", "3.12"): "b69957995f3c85d3a3f611c69cfa5f8c73649b5ff4c765c9d715dda07f372438",
    ("linux/amd64", "3.13"): "1a60e78a6d2b5110e043a805763cfdf8879a18759d6b5e036363b89794eca13b",
    ("linux/amd64", "3.14"): "da605f02d161187b620daed4b33c7cc23bb1e578626aa9daa36ca7567aa3e7f9",
    ("linux/arm64", "3.11"): "9aaa8686e02ad4ec39e5db766af5e85804015bba3995819dad8967385fabaedd",
    ("linux/arm64", "3.13"): "d6974323d3df62a46df8e92a4b3747a46ef4584a76d97cc9d411e3b58fd68f05",
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
def test_a_bundle_of_texts_has_one_runtime_everywhere_and_no_pillow(
    target: tuple[str, str],
) -> None:
    if target not in EVERYWHERE:
        pytest.fail(f"write the digest of {target} into EVERYWHERE")
    layer = assembled_runtime(cache_root(), *target, print)
    assert sha256(layer) == EVERYWHERE[target]
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
