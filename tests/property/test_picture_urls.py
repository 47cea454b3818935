"""Every `data:` URL of a picture is read as its file, or refused with one sentence."""

from __future__ import annotations

import base64
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.core import pictures

SETTINGS = settings(max_examples=500, deadline=None, derandomize=True, database=None)
MAGIC = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]

files = st.builds(bytes.__add__, st.sampled_from(MAGIC), st.binary(max_size=200))
heads = st.sampled_from(["data:image/jpeg;base64,", "data:image/png;base64,"])
pieces = st.sampled_from(["data:", "image/", "jpeg", "png", ";", "base64", ",", "/9j/", "=", " "])


@SETTINGS
@given(file=files, head=heads)
def test_a_file_comes_back_as_it_was(file: bytes, head: str) -> None:
    url = head + base64.b64encode(file).decode()
    assert pictures.decode(pictures.FromUrl, url).data == file
    assert pictures.decode(pictures.FromBytes, file).data == file


@SETTINGS
@given(text=st.text(max_size=60) | st.lists(pieces, max_size=12).map("".join))
def test_any_other_text_is_one_sentence(text: str) -> None:
    said = None
    try:
        data = pictures.read_data_url(text)
    except ValueError as error:
        said = error
    if said is None:
        assert base64.b64decode(text.partition(",")[2], validate=True) == data
        return
    assert type(said) is ValueError
    assert 0 < len(str(said)) < 300
    assert "\n" not in str(said)


@SETTINGS
@given(file=files, head=heads, data=st.data())
def test_a_changed_character_is_read_as_it_stands_or_refused(
    file: bytes, head: str, data: st.DataObject
) -> None:
    written = base64.b64encode(file).decode()
    at = data.draw(st.integers(0, len(written) - 1))
    other = data.draw(st.characters(codec="utf-8"))
    changed = written[:at] + other + written[at + 1 :]
    with suppress(ValueError):
        read = pictures.read_data_url(head + changed)
        assert base64.b64decode(changed, validate=True) == read


@SETTINGS
@given(given=st.none() | st.integers() | st.floats() | st.binary(max_size=20) | st.text(max_size=9))
def test_a_value_of_another_kind_is_refused(given: object) -> None:
    for kind in (pictures.FromUrl, pictures.FromBytes):
        with suppress(ValueError):
            assert pictures.format_of(pictures.decode(kind, given).data)
