"""A stranger's picture is read upright, in RGB, or refused in plain words; nothing hangs."""

from __future__ import annotations

import io
import resource
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from edgekit.agent.serve.worker.pictures.read import MAX_SCANS, PictureError, read, size_of
from tests.photos import chunk, drawn, encoded, hostile, png, png_of, turned

HOSTILE = list(hostile())


@pytest.mark.parametrize(
    ("data", "says"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE]
)
def test_a_hostile_picture_is_refused_in_plain_words(data: bytes, says: str) -> None:
    began = time.process_time()
    with pytest.raises(PictureError) as caught:
        read(data)
    assert time.process_time() - began < 5
    error = caught.value
    assert says in f"{error.what}: {error.why}"
    assert error.why
    assert error.next_step
    assert "Traceback" not in str(error)


def test_hostile_pictures_take_no_memory_to_speak_of() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _, data, _ in HOSTILE:
        with pytest.raises(PictureError):
            read(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10


@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
def test_a_size_is_known_without_a_pixel(format_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = turned(drawn(120, 40), 6, format_)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("pixels were decoded"))
    assert size_of(whole) == (40, 120)
    for data in (png_of(9000, 9000, bytes(100)), png_of(16, 4000, bytes(100))):  # 81 megapixels
        with pytest.raises(PictureError, match=r"pixels|longer"):
            read(data)


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_jpeg_without_its_last_bytes_is_refused_or_whole(cut: int) -> None:
    whole = encoded(drawn(200, 100), "JPEG")
    try:
        found = read(whole[:-cut])
    except PictureError:
        return
    assert (np.asarray(found) == np.asarray(read(whole))).all()


@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 9, 65535])
def test_a_picture_is_turned_upright(orientation: int, format_: str) -> None:
    data = turned(drawn(120, 40), orientation, format_)
    with Image.open(io.BytesIO(data)) as image:
        wanted = ImageOps.exif_transpose(image).convert("RGB")
    assert size_of(data) == wanted.size
    assert (np.asarray(read(data)) == np.asarray(wanted)).all()


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind the pixels"])
@pytest.mark.parametrize("kind", ["eXIf", "XMP", "ImageMagick's EXIF"])
def test_a_png_may_tell_its_orientation_in_a_text(kind: str, behind: bool) -> None:
    """As transformers' `load_image` turns it, which asks Pillow with all pixels decoded."""
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = exif.tobytes()
    xmp = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    profile = f"\nexif\n{len(raw):8}\n{raw.hex()}\n".encode()
    told = {
        "eXIf": chunk(b"eXIf", raw.removeprefix(b"Exif\0\0")),
        "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        "ImageMagick's EXIF": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
    }[kind]
    whole = png(120, 40)
    at = len(whole) - 12 if behind else 33
    data = whole[:at] + told + whole[at:]
    with Image.open(io.BytesIO(data)) as image:
        wanted = ImageOps.exif_transpose(image)
    assert wanted.size == size_of(data) == (40, 120)
    assert (np.asarray(read(data)) == np.asarray(wanted)).all()


def test_damaged_exif_says_nothing(recwarn: pytest.WarningsRecorder) -> None:
    whole = turned(drawn(120, 40), 6)
    at = whole.index(b"Exif\0\0") + 6
    for damaged in (b"XX*\0\x08\0\0\0", b"II*\0\xff\xff\xff\x7f", b"MM\0*\xff\0\0\0"):
        assert size_of(whole[:at] + damaged + whole[at + 8 :]) == (120, 40)
    assert not recwarn  # a stranger writes nothing into the log


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
def test_colours_are_as_pillow_converts_them(mode: str, format_: str) -> None:
    image = drawn(64, 48).convert(mode)
    if format_ == "JPEG" and mode in "1P":
        image = image.convert("L")
    data = encoded(image, format_)
    with Image.open(io.BytesIO(data)) as opened:
        assert (np.asarray(read(data)) == np.asarray(opened.convert("RGB"))).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_what_is_transparent_is_white_and_the_rest_as_it_is(mode: str) -> None:
    colours = drawn(64, 48).convert("L" if mode == "LA" else "RGB")
    image = colours.convert("RGBA" if mode != "LA" else "LA")
    image.putalpha(255)
    assert (np.asarray(read(encoded(image))) == np.asarray(colours.convert("RGB"))).all()
    image.putalpha(Image.fromarray(np.repeat([0, 255], 24)[:, None].repeat(64, 1).astype(np.uint8)))
    if mode == "PA":
        image = image.quantize(255)  # a palette with transparency
    found = np.asarray(read(encoded(image)))
    assert (found[:24] == 255).all()
    if mode != "PA":
        assert (found[24:] == np.asarray(colours.convert("RGB"))[24:]).all()


def test_one_colour_may_stand_for_transparent() -> None:
    image = Image.new("RGB", (32, 32), (1, 2, 3))
    image.paste((200, 0, 0), (0, 0, 16, 32))
    found = np.asarray(read(encoded(image, transparency=(1, 2, 3))))
    assert (found[:, 16:] == 255).all()
    assert (found[:, :16] == (200, 0, 0)).all()


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [drawn(64, 48, seed) for seed in range(3)]
    data = encoded(frames[0], save_all=True, append_images=frames[1:])
    assert b"acTL" in data
    assert (np.asarray(read(data)) == np.asarray(frames[0])).all()


def test_of_a_jpeg_with_several_pictures_the_first_counts() -> None:
    frames = [drawn(64, 48, seed) for seed in range(2)]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    alone = encoded(frames[0], "JPEG")
    assert (np.asarray(read(data)) == np.asarray(read(alone))).all()


def test_usual_progressive_jpegs_are_read() -> None:
    data = encoded(drawn(400, 300), "JPEG", progressive=True, quality=90)
    assert 2 < data.count(b"\xff\xda") < MAX_SCANS
    assert read(data).size == (400, 300)


def test_text_and_unknown_chunks_of_a_png_do_no_harm() -> None:
    whole = png(64, 48)
    more = chunk(b"tEXt", b"Comment\0hi") + chunk(b"juNk", bytes(1000))
    assert (np.asarray(read(whole[:33] + more + whole[33:])) == np.asarray(drawn(64, 48))).all()


@pytest.mark.parametrize(("width", "height"), [(16, 16), (4096, 512), (2000, 2000), (16, 128)])
def test_the_bounds_themselves_are_taken(width: int, height: int) -> None:
    assert read(encoded(Image.new("RGB", (width, height)))).size == (width, height)


def test_a_png_whose_header_does_not_come_first_is_damaged() -> None:
    made = io.BytesIO()
    Image.new("I;16", (32, 32), 8000).save(made, "PNG")
    data = made.getvalue()
    with pytest.raises(PictureError, match="damaged"):
        read(data[:8] + chunk(b"tEXt", b"a\0b") + data[8:])
