"""Pictures at the requester: what is sent of a file, and what is refused before anything is."""

from __future__ import annotations

import base64
import binascii
import io
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgekit.agent.serve.worker.pictures.read import read
from edgekit.cli.talk.answering import shrunk
from edgekit.client import Requester
from edgekit.client.pictures import PictureLimits, check_count, limits_of, shrink, with_pictures
from edgekit.core import pictures
from edgekit.core.chat.body import parse_body
from edgekit.core.protocol import wire
from edgekit.errors import UsageError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def photo(width: int, height: int, mode: str = "RGB", seed: int = 1) -> Image.Image:
    """A picture with detail that does not compress away: left half red, right half blue, noise."""
    noise = Image.frombytes("L", (64, 64), random.Random(seed).randbytes(64 * 64))
    base = Image.new("RGB", (width, height), RED)
    base.paste(BLUE, (width // 2, 0, width, height))
    grey = noise.resize((width, height), Image.Resampling.NEAREST).convert("RGB")
    return Image.blend(base, grey, 0.3).convert(mode)


def written(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    made = io.BytesIO()
    image.save(made, kind, **options)
    return made.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_large_picture_is_shrunk_to_the_card_s_side_and_bytes(kind: str) -> None:
    data = written(photo(3000, 1500), kind)
    sent = shrink(data, PictureLimits())
    assert (sent.width, sent.height) == (672, 336)
    assert opened(sent.data).size == (672, 336)
    assert len(sent.data) <= pictures.SEND_BYTES
    assert (sent.was_width, sent.was_height, sent.was_bytes) == (3000, 1500, len(data))
    assert sent.media_type in pictures.FORMATS


def test_a_small_png_keeps_every_pixel() -> None:
    image = photo(100, 60)
    sent = shrink(written(image, "PNG"))
    assert sent.media_type == "image/png"
    assert opened(sent.data).tobytes() == image.tobytes()


def test_what_does_not_fit_its_bytes_gets_smaller_until_it_does() -> None:
    noise = Image.frombytes("RGB", (672, 672), random.Random(1).randbytes(672 * 672 * 3))
    sent = shrink(written(noise, "PNG"), PictureLimits(bytes=20_000))
    assert len(sent.data) <= 20_000
    assert sent.width == sent.height < 672


@pytest.mark.parametrize(
    ("size", "limits"),
    [
        ((3000, 3000), PictureLimits(side=2048)),  # what cards of agents before this one say
        ((3000, 2900), PictureLimits(side=pictures.send_side(16, 512))),
        ((4096, 512), PictureLimits(side=882)),  # 110.25 pixels on the shorter side
        ((512, 4096), PictureLimits(side=882)),
    ],
)
def test_a_device_takes_whatever_a_picture_was_shrunk_to(
    size: tuple[int, int], limits: PictureLimits
) -> None:
    sent = shrink(written(Image.radial_gradient("L").resize(size)), limits)
    assert read(sent.data).size == (sent.width, sent.height)
    assert max(sent.width, sent.height) <= limits.side


def test_a_long_picture_that_shrinks_for_its_bytes_gets_no_longer_for_its_width() -> None:
    sent = shrink(written(photo(1344, 168), quality=95), PictureLimits(bytes=4500))
    assert sent.width < 672 * 0.75
    assert read(sent.data).size == (sent.width, sent.height)


@pytest.mark.parametrize(
    ("orientation", "turned"), [(1, False), (3, False), (6, True), (8, True), (5, True)]
)
def test_exif_is_turned_upright_and_then_gone(orientation: int, turned: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "taken at home"
    sent = shrink(written(photo(400, 200), exif=exif))
    assert (sent.width, sent.height) == ((200, 400) if turned else (400, 200))
    assert b"home" not in sent.data
    assert not opened(sent.data).getexif()
    if orientation == 3:  # upside down: what was left is right
        red, _, blue = opened(sent.data).convert("RGB").resize((2, 1)).getpixel((0, 0))  # type: ignore[misc]  # an RGB pixel
        assert blue > red


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_other_modes_of_8_bits_become_rgb(mode: str) -> None:
    sent = shrink(written(photo(64, 64).convert(mode), "PNG"))
    assert opened(sent.data).mode == "RGB"


def test_what_is_transparent_becomes_white() -> None:
    sent = shrink(written(Image.new("RGBA", (32, 32), (0, 0, 0, 0)), "PNG"))
    assert opened(sent.data).convert("RGB").getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("data", "what", "why"),
    [
        (b"", "is not a picture", "none of JPEG, PNG, WEBP"),
        (b"hello", "is not a picture", "none of JPEG, PNG, WEBP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a picture", "none of"),
        (written(photo(32, 32), "GIF"), "is not a picture", "none of"),
        (written(photo(64, 64))[:300], "cut off or damaged", ""),
        (written(photo(64, 64), "PNG")[:200], "cut off or damaged", ""),
        (written(photo(8, 32)), "is too small", "8 x 32"),
        (written(photo(16, 200)), "too long for its width", "16 x 200"),
        (written(photo(64, 64).convert("CMYK")), "colours that no device takes", "CMYK"),
        (written(Image.new("I;16", (64, 64)), "PNG"), "colours that no device takes", "I;16"),
    ],
)
def test_what_is_no_picture_for_a_device_is_refused_plainly(
    tmp_path: Path, data: bytes, what: str, why: str
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        shrink(path)
    assert caught.value.what.startswith(str(path))
    assert what in caught.value.what
    assert why in caught.value.why


@pytest.mark.parametrize(
    ("name", "what"),
    [("none.jpg", "there is no picture"), (".", "cannot be read"), ("a\0b", "cannot be read")],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        shrink(tmp_path / name)


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with path.open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(UsageError, match="is too large"):
        shrink(path)


def test_without_pillow_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(photo(32, 32))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UsageError) as caught:
        shrink(data)
    assert "pip install 'pillow>=12,<14'" in caught.value.next_step


# --- in the body ------------------------------------------------------------------------------
def test_the_pictures_stand_before_the_text_of_the_last_message() -> None:
    sent = [shrink(written(photo(32, 32, seed=seed), "PNG")) for seed in (1, 2)]
    body = {"messages": [{"role": "system", "content": "Be brief."}, user("What is this?")]}
    made = with_pictures(body, sent)
    read = parse_body(json.dumps(made).encode())
    assert read.messages[1].parts == [sent[0].data, sent[1].data, "What is this?"]
    assert body["messages"][1]["content"] == "What is this?", "the caller's body is left as it was"


def user(content: object) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_content_parts_stay() -> None:
    picture = shrink(written(photo(32, 32), "PNG"))
    made = with_pictures({"messages": [user([{"type": "text", "text": "Hm?"}])]}, [picture])
    parts = made["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "text"]
    url = parts[0]["image_url"]["url"]
    assert base64.b64decode(url.partition(",")[2]) == picture.data


@pytest.mark.parametrize(
    "body", [{}, {"messages": []}, {"messages": [{"role": "assistant", "content": "Hi"}]}]
)
def test_pictures_without_a_users_message(body: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="no message to go with"):
        with_pictures(body, [])


# --- the card ---------------------------------------------------------------------------------
CARD = {"model": "phi", "images": {"side": 336, "bytes": 50_000, "per_message": 2, "crops": 1}}


def test_the_card_decides_and_in_a_pool_the_smallest_one() -> None:
    assert limits_of("pi", {"pi": CARD}) == PictureLimits(336, 50_000, 2)
    larger = {"images": {"side": 672, "bytes": 9_000, "per_message": 1}}
    assert limits_of("pool:p", {"a": CARD, "b": larger}) == PictureLimits(336, 9_000, 1)


@pytest.mark.parametrize("images", [5, {"side": "x"}, {"side": 0}, {"bytes": -1}])
def test_a_card_that_makes_no_sense_leaves_the_defaults(images: object) -> None:
    assert limits_of("pi", {"pi": {"images": images}}) == PictureLimits()
    assert limits_of("pi", {}) == PictureLimits()


def test_a_device_that_takes_no_pictures_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        limits_of("pi", {"pi": {"model": "smollm2"}})
    assert caught.value.what == "pi takes no pictures"
    assert "smollm2 reads text alone" in caught.value.why
    with pytest.raises(UsageError, match="b of pool:p takes no pictures"):
        limits_of("pool:p", {"a": CARD, "b": {"model": "smollm2"}})


def test_more_pictures_than_a_message_may_bring() -> None:
    check_count("pi", 2, PictureLimits(per_message=2))
    with pytest.raises(UsageError, match="3 pictures are too many for pi"):
        check_count("pi", 3, PictureLimits(per_message=2))


def test_the_pictures_of_an_unsent_message_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second `/image` of a chat: the device refused the message, again at each `/retry`."""
    requester = Requester.__new__(Requester)
    monkeypatch.setattr(requester, "_cards", lambda to: {})
    first = shrink(written(photo(90, 60), "PNG"))
    with pytest.raises(UsageError, match="2 pictures are too many for pi"):
        shrunk(requester, "pi", [Path("second.png")], [first])


def test_no_comment_and_no_profile_is_sent() -> None:
    jpeg = written(photo(900, 600), comment=b"at home", icc_profile=b"a profile" * 20)
    png = written(photo(90, 60), "PNG", icc_profile=b"a profile" * 20)
    assert b"at home" in jpeg
    for data in (jpeg, png):
        sent = opened(shrink(data).data)
        assert not {"comment", "icc_profile"} & sent.info.keys()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("exif", [b"X" * 12, b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
def test_damaged_exif_says_nothing(exif: bytes) -> None:
    assert shrink(written(photo(90, 60), "PNG", exif=exif)).width == 90


def test_what_has_no_end_or_too_many_pixels_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="is too large"):
        shrink("/dev/zero")
    head = b"IHDR" + (16_320).to_bytes(4, "big") + (12_240).to_bytes(4, "big") + b"\x08\2\0\0\0"
    chunk = (13).to_bytes(4, "big") + head + binascii.crc32(head).to_bytes(4, "big")
    with pytest.raises(UsageError, match="has too many pixels"):
        shrink(b"\x89PNG\r\n\x1a\n" + chunk + written(photo(90, 60), "PNG")[33:])


def test_a_device_that_looks_closely_gets_more_pixels_and_many_pictures_fit_a_body() -> None:
    assert [pictures.send_side(crops, 336) for crops in (1, 4, 9, 16)] == [672, 672, 1008, 1344]
    assert [pictures.send_side(crops, 512) for crops in (1, 4, 16)] == [672, 1024, 2000]
    for count in range(1, pictures.MOST_PER_PROMPT + 1):
        most = wire.max_body_bytes(True, count)
        each = pictures.send_bytes(most - wire.MAX_BODY_BYTES, count)
        assert count * (each * 4 // 3 + 200) + wire.MAX_BODY_BYTES // 2 < most
