"""One boundary for what readers raise, and text that cannot steer a terminal."""

import struct
import zlib

import numpy as np
import pytest
from kit.tiny import one_sentence

from eclipse.errors import EclipseError, escaped, is_utf8, reading

OF_CONTENT = [
    ValueError("wrong\nindeed"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    OverflowError("too large"),
    RecursionError("maximum recursion depth exceeded"),
    MemoryError(),
    OSError(22, "Invalid argument"),
    OSError("no errno, as pyarrow raises it"),
    struct.error("unpack requires a buffer"),
    zlib.error("invalid block type"),
    KeyError("images"),
    AssertionError(),
]


@pytest.mark.parametrize("error", OF_CONTENT, ids=lambda error: type(error).__name__)
def test_whatever_a_file_makes_a_reader_raise_is_one_sentence(error: Exception) -> None:
    with pytest.raises(EclipseError) as caught, reading("x.tar", "a tar file"):
        raise error
    assert one_sentence(caught.value).startswith("x.tar cannot be read as a tar file (")


@pytest.mark.parametrize("error", [EclipseError("as it is"), OSError(28, "No space"), KeyboardInterrupt()])
def test_what_says_enough_by_itself_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, reading("x.tar", "a tar file"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("a\u202egnp.exe", r"a\u202egnp.exe"),
        ("a\u200b\u2028b\n", r"a\u200b\u2028b\n"),
        ("\udcff\x9b2J", r"\udcff\x9b2J"),
        ("Grüße, 日本語 🐈", "Grüße, 日本語 🐈"),
    ],
)
def test_text_for_people_cannot_steer_a_terminal(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_text_of_an_array_may_hold_numbers_of_no_character() -> None:
    odd = str(np.array([0x7FFFFFFF, 97], np.uint32).view("U2")[0])
    assert is_utf8("Grüße 🐈") and not is_utf8(odd) and not is_utf8("\udcff")
