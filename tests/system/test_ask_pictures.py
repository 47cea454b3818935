"""`edgekit ask --image` and pictures from Python: a device of a few lines, real brokers."""

from __future__ import annotations

import base64
import io
import json
import queue
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgekit.client import Final, Requester
from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.errors import UsageError
from tests import tools
from tests.contract.clients import WAIT_SECONDS
from tests.contract.test_requester import Device
from tests.system.test_ask import ask

pytestmark = pytest.mark.timeout(90)
TAKES = {"model": "phi", "pools": ["p"], "images": {"side": 336, "bytes": 30_000, "per_message": 2}}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with tools.mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield broker.port


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    noise = Image.effect_noise((1600, 1200), 40).convert("RGB")
    noise.save(path, "JPEG", quality=95)
    return path


def answers(device: Device, message: wire.Inbound) -> None:
    if not topics.is_control(message.topic):
        device.final(message, "A cat.")


@contextmanager
def device(port: int, card: dict[str, Any]) -> Iterator[Device]:
    with closing(Device(port, "pi", "p", answers)) as made:
        made.announce(json.dumps(card).encode(), topics.card_topic)
        yield made


def sent(device: Device) -> list[dict[str, Any]]:
    """The parts of the prompt that the device got."""
    message = device.heard.get(timeout=WAIT_SECONDS)
    parts: list[dict[str, Any]] = json.loads(message.payload)["messages"][-1]["content"]
    return parts


def picture(part: dict[str, Any]) -> tuple[Image.Image, int]:
    url = part["image_url"]["url"]
    assert url.startswith("data:image/jpeg;base64,")
    data = base64.b64decode(url.partition(",")[2])
    return Image.open(io.BytesIO(data)), len(data)


def test_ask_shrinks_a_picture_to_what_the_card_says_and_tells_the_size(
    tmp_path: Path, port: int, photo: Path
) -> None:
    with device(port, TAKES) as pi:
        done = ask(tmp_path, port, "What is this?", "--image", str(photo))
        shown, text = sent(pi)
    assert (done.returncode, done.stdout) == (0, b"A cat.\n"), done.stderr
    image, size = picture(shown)
    assert text == {"type": "text", "text": "What is this?"}
    assert max(image.size) <= 336
    assert size <= 30_000
    said = " ".join(done.stderr.decode().split())
    assert "photo.jpg: 1600 x 1200, " in said
    assert f"sent as {image.width} x {image.height} JPEG, {size / 1000:.1f} kB" in said


def test_several_pictures_where_the_card_allows_them(
    tmp_path: Path, port: int, photo: Path
) -> None:
    two, three = (["--image", str(photo)] * count for count in (2, 3))
    with device(port, TAKES) as pi:
        assert ask(tmp_path, port, "Which is older?", *two).returncode == 0
        assert [part["type"] for part in sent(pi)] == ["image_url", "image_url", "text"]
        done = ask(tmp_path, port, "Which is older?", *three)
        with pytest.raises(queue.Empty):
            pi.heard.get(timeout=0.3)
    assert done.returncode == 2
    assert b"3 pictures are too many for pi" in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.jpg", None, "there is no picture"),
        ("note.txt", b"hello", "is not a picture"),
        ("cut.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF", "cut off or damaged"),
    ],
)
def test_a_mistake_ends_before_anything_is_sent(
    tmp_path: Path, port: int, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with device(port, TAKES) as pi:
        done = ask(tmp_path, port, "What is this?", "--image", name)
        with pytest.raises(queue.Empty):
            pi.heard.get(timeout=0.3)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.decode().split())
    assert b"Traceback" not in done.stderr


def test_a_device_that_reads_text_alone(tmp_path: Path, port: int, photo: Path) -> None:
    with device(port, {"model": "smollm2"}):
        done = ask(tmp_path, port, "What is this?", "--image", str(photo))
    assert done.returncode == 2
    assert b"pi takes no pictures" in done.stderr


@pytest.mark.parametrize("to", ["pi", "pool:p"])
def test_from_python_by_path_by_bytes_and_as_it_was_shrunk(port: int, photo: Path, to: str) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "What is this?"}]}
    with (
        device(port, TAKES) as pi,
        Requester(BrokerConfig("127.0.0.1", port), "alice") as requester,
    ):
        (made,) = requester.shrink(to, [photo])
        for image in (photo, str(photo), photo.read_bytes(), made):
            *_, final = requester.ask(to, body, images=[image])
            assert isinstance(final, Final)
            shown, _ = sent(pi)
            assert base64.b64decode(shown["image_url"]["url"].partition(",")[2]) == made.data
        with pytest.raises(UsageError, match="too many"):
            list(requester.ask(to, body, images=[photo] * 3))
