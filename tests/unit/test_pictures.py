"""Pictures in a body: what is served, and the mistakes that people make, refused by name."""

from __future__ import annotations

import base64
import gc
import json
from typing import Any

import cbor2
import pytest

from edgekit.core import pictures
from edgekit.core.chat.body import parse_body
from edgekit.core.protocol.wire import ProtocolError

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(60))
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(60))
TEXT = {"type": "text", "text": "What is this?"}


def url(data: bytes = JPEG, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def part(given: object) -> dict[str, Any]:
    return {"type": "image_url", "image_url": given}


def body(*parts: object, role: str = "user", **more: object) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(parts)}], **more}


def refusal(given: dict[str, Any], encoding: str = "") -> ProtocolError:
    written = cbor2.dumps(given) if encoding else json.dumps(given).encode()
    with pytest.raises(ProtocolError) as caught:
        parse_body(written, encoding)
    return caught.value


@pytest.mark.parametrize("encoding", ["", "cbor"])
@pytest.mark.parametrize(
    "given",
    [
        {"url": url()},
        {"url": url(), "detail": "high"},
        {"url": url(), "detail": None},
        {"url": url(), "detail": "auto", "format": None},  # a null that says nothing
        {"url": url(kind="image/jpg")},
        {"url": url(kind="IMAGE/JPEG").replace("data:", "DATA:").replace("base64,", "Base64,")},
    ],
)
def test_a_data_url_is_a_picture_in_its_place(given: dict[str, Any], encoding: str) -> None:
    made = body(TEXT, part(given), {"type": "text", "text": "Say it."})
    written = cbor2.dumps(made) if encoding else json.dumps(made).encode()
    request = parse_body(written, encoding)
    (message,) = request.messages
    assert message.parts == ["What is this?", JPEG, "Say it."]
    assert (message.text, request.picture_count) == ("What is this?Say it.", 1)


def test_cbor_has_a_byte_string() -> None:
    made = body({"type": "image", "data": PNG, "cache_control": None}, TEXT)
    (message,) = parse_body(cbor2.dumps(made), "cbor").messages
    assert message.parts == [PNG, "What is this?"]


def test_a_message_without_a_picture_is_one_text() -> None:
    (message,) = parse_body(json.dumps(body(TEXT, TEXT)).encode()).messages
    assert (message.parts, message.picture_count) == ("What is this?What is this?", 0)


URL = "messages[0].content[0].image_url.url"


@pytest.mark.parametrize(
    ("given", "param", "said"),
    [
        (part(url()), "messages[0].content[0].image_url", '{"url": "data:image/jpeg;base64,'),
        (part({"url": "http://example.org/a.jpg"}), URL, "the device fetches no URL"),
        (part({"url": "HTTPS://example.org/a.jpg"}), URL, "the device fetches no URL"),
        (part({"url": "file:///etc/passwd"}), URL, "the device fetches no URL"),
        (part({"url": "/home/me/cat.jpg"}), URL, "'/home/me/cat.jpg' is no picture"),
        (part({"url": "C:\\cat.jpg"}), URL, "is no picture"),
        (part({"url": ""}), URL, "is no picture"),
        (part({"url": "data:image/jpeg,abc"}), URL, "is not data:image/jpeg;base64,"),
        (part({"url": url().replace(";base64", ";charset=x;base64")}), URL, "is not data:"),
        (part({"url": url(kind="image/gif")}), URL, "image/gif is not served"),
        (part({"url": url(kind="image/svg+xml")}), URL, "image/svg+xml is not served"),
        (part({"url": url(kind="")}), URL, "no media type is not served"),
        (part({"url": "data:image/jpeg;base64"}), URL, "is no picture"),
        (part({"url": "data:image/jpeg;base64,"}), URL, "first bytes are of no JPEG or PNG"),
        (part({"url": url(b"GIF89a" + bytes(50))}), URL, "first bytes are of no JPEG or PNG"),
        (part({"url": url(b"<svg/>")}), URL, "first bytes are of no JPEG or PNG"),
        (part({"url": url()[:-1]}), URL, "is no base64"),
        (part({"url": url() + "="}), URL, "is no base64"),
        (part({"url": url() + "\n"}), URL, "is no base64"),
        (part({"url": url().replace("/9j/", "_9j_")}), URL, "is no base64"),
        (part({"url": url() + "é"}), URL, "is no base64"),
        (part({"url": 5}), URL, "a string"),
        (part({"url": None}), URL, "a string"),
        (part({}), "messages[0].content[0].image_url", "`url`"),
        (
            part({"url": url(), "detail": "sharp"}),
            "messages[0].content[0].image_url.detail",
            "'sharp'",
        ),
        ({"type": "image", "data": "/9j/"}, "messages[0].content[0].data", "only CBOR has"),
        ({"type": "input_audio", "text": "x"}, "messages[0].content[0].type", "input_audio"),
    ],
)
def test_a_mistake_is_refused_by_name(given: dict[str, Any], param: str, said: str) -> None:
    for encoding in ("", "cbor"):
        error = refusal(body(given), encoding)
        assert (error.code, error.param) == ("invalid_request", param)
        assert said in error.what, error.what


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (part({"url": url(), "width": 5}), "messages[0].content[0].image_url.width"),
        ({**part({"url": url()}), "cache_control": {}}, "messages[0].content[0].cache_control"),
        ({"type": "image", "source": {"type": "base64"}}, "messages[0].content[0].source"),
    ],
)
def test_a_field_that_is_not_served_is_named(given: dict[str, Any], param: str) -> None:
    error = refusal(body(given))
    assert (error.code, error.param) == ("unsupported_parameter", param)


@pytest.mark.parametrize("role", ["system", "developer", "assistant"])
def test_only_a_user_shows_pictures(role: str) -> None:
    error = refusal(body(TEXT, part({"url": url()}), role=role))
    assert (error.code, error.param) == ("invalid_request", "messages[0].content[1]")
    assert f"a message of the role {role} has a picture" in error.what


def test_no_beam_search_with_a_picture() -> None:
    error = refusal(body(part({"url": url()}), num_beams=2))
    assert (error.code, error.param) == ("unsupported_parameter", "num_beams")
    parse_body(json.dumps(body(part({"url": url()}), num_beams=1)).encode())


def test_an_error_does_not_repeat_a_whole_picture() -> None:
    error = refusal(body(part({"url": "x" * 100_000})))
    assert len(error.what) < 200


def test_the_base64_text_is_kept_nowhere() -> None:
    request = parse_body(json.dumps(body(part({"url": url()}))).encode())
    seen, found = [request], []
    while seen:
        one: Any = seen.pop()
        found.append(one)
        seen += [each for each in gc.get_referents(one) if not isinstance(each, type)]
    assert JPEG in [each for each in found if isinstance(each, bytes)]
    assert not [each for each in found if isinstance(each, str) and "base64" in each]


@pytest.mark.parametrize(
    ("config", "takes"),
    [({}, False), ({"vision": {}}, False), ({"vision": {"filename": "vision.onnx"}}, True)],
)
def test_a_models_config_says_whether_it_takes_pictures(
    config: dict[str, Any], takes: bool
) -> None:
    assert pictures.takes_pictures(config) is takes


def test_the_operator_may_allow_more_pictures() -> None:
    assert pictures.allowed(0) == (1, 2)
    assert pictures.allowed(4) == (4, 4)


def test_a_url_that_talks_like_an_error_is_still_an_invalid_request() -> None:
    part = {"type": "image_url", "image_url": {"url": "http://a unknown field `zz`"}}
    body = {"messages": [{"role": "user", "content": [part]}]}
    with pytest.raises(ProtocolError) as caught:
        parse_body(json.dumps(body).encode())
    assert caught.value.code == "invalid_request"
