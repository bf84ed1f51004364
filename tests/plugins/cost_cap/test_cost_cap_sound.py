"""Sound in a body: where its bytes bound its length, and where a byte may be a second."""

import base64
import io
import struct
import wave
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.call import Attempt
from llmshield.prices import ModelPrice, Rates
from llmshield.testing import read
from llmshield_plugins.cost_cap.bounds import bound_of
from llmshield_plugins.cost_cap.sound import LEAST_BYTES_A_SECOND, is_dense
from llmshield_plugins.cost_cap.tools import NOTHING

MP3 = bytes.fromhex("fffb9064") + bytes(413)


def wav(rate: int, seconds: float = 1.0, width: int = 2, channels: int = 1) -> bytes:
    """A WAVE file as Python's library writes it."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(bytes(int(rate * seconds) * width * channels))
    return file.getvalue()


def changed(data: bytes, at: int, form: str, value: int) -> bytes:
    out = bytearray(data)
    struct.pack_into(form, out, at, value)
    return bytes(out)


SOUNDS: list[tuple[str, bytes, bool]] = [
    ("speech", wav(16_000), True),
    ("telephone, 8 bits", wav(8_000, width=1), True),
    ("stereo", wav(44_100, channels=2), True),
    ("one sample a second", wav(1, 600, width=1), False),
    ("499 samples a second of two bytes", wav(499), False),
    ("500 of them", wav(500), True),
    ("a byte rate that is none of its own", changed(wav(1, 600), 28, "<I", 32_000), False),
    ("a sample rate that is none of its own", changed(wav(16_000), 24, "<I", 1), False),
    ("frames that are larger than their samples", changed(wav(1, 600), 32, "<H", 32_000), False),
    ("ADPCM", changed(wav(16_000), 20, "<H", 17), False),
    ("no data", wav(16_000)[:36], False),
    ("a second `fmt `", wav(16_000)[:36] + wav(1)[12:], False),
    ("a chunk before", wav(16_000)[:12] + b"LIST\x03\0\0\0abc\0" + wav(16_000)[12:], True),
    ("MP3", MP3, True),
    ("MP3 behind a tag", b"ID3\x04\0\0\0\0\0\x05" + b"hello" + MP3, True),
    ("FLAC behind a tag", b"ID3\x04\0\0\0\0\0\x05" + b"hello" + b"fLaC" + bytes(40), False),
    ("FLAC", b"fLaC" + bytes(40), False),
    ("Ogg", b"OggS" + bytes(40), False),
    ("MP3 without a stated rate", bytes.fromhex("fffb0064"), False),
    ("AAC", bytes.fromhex("fff15080") + bytes(20), False),
    ("a part of a frame", MP3[:3], False),
    ("nothing", b"", False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "expected"), SOUNDS, ids=[name for name, _, _ in SOUNDS])
def test_what_bytes_bound(name: str, data: bytes, expected: bool) -> None:
    assert is_dense(base64.b64encode(data).decode()) is expected


@pytest.mark.parametrize("data", [None, 5, "not base64!", "AAA", ["UklGRg=="], "é"])
def test_what_is_no_sound_is_bounded_by_nothing(data: Any) -> None:
    assert is_dense(data) is False


@given(
    st.binary(max_size=80), st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1)
)
def test_whatever_a_header_says_a_second_takes_its_bytes(
    rest: bytes, samples: int, channels: int, bits: int
) -> None:
    """A player takes the sample rate, or the byte rate: both are dense, or the sound is not."""
    frame, rate = channels * bits // 8 & 0xFFFF, 0
    rate = samples * frame & 0xFFFFFFFF
    head = struct.pack("<HHIIHH", 1, channels, samples, rate, frame, bits)
    data = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + head + b"data\xff\xff\xff\xff" + rest
    if is_dense(base64.b64encode(data).decode()):
        assert samples * channels * bits >= 8 * LEAST_BYTES_A_SECOND
        assert rate >= LEAST_BYTES_A_SECOND


@pytest.mark.parametrize(("data", "whole"), [(wav(16_000), False), (wav(1, 3_000, width=1), True)])
def test_what_is_reserved(data: bytes, whole: bool) -> None:
    """A sound that bytes do not bound takes the model's whole context."""
    sound = {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}
    body = {
        "model": "gpt-4o-audio-preview",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, sound]}],
    }
    call = read(body)
    attempt = Attempt(
        call, number=1, provider="p", model=call.model, dialect=call.dialect, body=dict(call.body)
    )
    attempt.input_bytes, attempt.unseen = len(str(body)), tuple(call.unseen)
    price = ModelPrice(Rates(2_500_000, 10_000_000, input_audio=40_000_000), context=128_000)
    bound, holds = bound_of(attempt, price, NOTHING)

    assert holds
    assert bound.media
    assert (bound.input >= 128_000) is whole
    assert bound.input >= len(data) / 1_000 * 10
