"""Whether the sounds in a body are so dense that their bytes bound their tokens.

Providers count sound by its length, 10 tokens a second at OpenAI
(https://platform.openai.com/docs/guides/audio), 32 at Gemini. The bytes of a body bound it where a second of sound takes
more bytes than that, by its own format: MP3 has 1,000 at the least, a PCM file as many as its header says, which may be
one. Formats in which silence takes nothing (FLAC), and whatever else is no MP3 or PCM by its content, are not bounded by
bytes: players look at the content, whatever the body's `format` says.
"""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Any

LEAST_BYTES_A_SECOND = 1_000
_HEAD = 65_536
"""Characters of base64 that are looked at: tags with a picture are longer, and then nothing is known."""

_PCM = frozenset({1, 3, 6, 7})
"""Formats of a WAVE file with as many bytes for each sample: whole numbers, floats, A-law, mu-law."""


def all_dense(node: Any) -> bool:
    """Whether each sound in this tree has its length bounded by its bytes."""
    waiting = [node]
    while waiting:
        item = waiting.pop()
        if type(item) is dict:
            sound = item.get("input_audio")
            if type(sound) is dict and not is_dense(sound.get("data")):
                return False
            waiting += [value for value in item.values() if type(value) in (dict, list)]
        else:
            waiting += [value for value in item if type(value) in (dict, list)]
    return True


def is_dense(data: Any) -> bool:
    """Whether a second of this sound (base64) takes at least `LEAST_BYTES_A_SECOND` bytes, as far as can be told."""
    if type(data) is not str:
        return False
    try:
        head = base64.b64decode(data[:_HEAD], validate=True)
    except (binascii.Error, ValueError):
        return False
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _dense_wave(head)
    return _is_mp3(head)


def _dense_wave(head: bytes) -> bool:
    """A WAVE file (http://soundfile.sapp.org/doc/WaveFormat/): one `fmt ` that agrees with itself, before `data`."""
    at, rate = 12, 0
    while at + 8 <= len(head):
        name, size = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        if name == b"data":
            return rate >= LEAST_BYTES_A_SECOND
        if name == b"fmt ":
            if rate or size < 16 or at + 24 > len(head):
                return False
            kind, channels, samples, rate, frame, bits = struct.unpack_from("<HHIIHH", head, at + 8)
            if (
                kind not in _PCM
                or bits % 8
                or not frame
                or frame != channels * bits // 8
                or rate != samples * frame
            ):
                return False
        at += 8 + size + size % 2
    return False


def _is_mp3(head: bytes) -> bool:
    """Frames of MPEG layer III with a stated bit rate (8 kbit/s is the lowest), perhaps behind a tag."""
    at = 0
    if head[:3] == b"ID3" and len(head) >= 10:
        # https://id3.org/id3v2.4.0-structure: four times seven bits.
        at = 10 + ((head[6] & 127) << 21 | (head[7] & 127) << 14 | (head[8] & 127) << 7 | head[9] & 127)
    frame = head[at : at + 4]
    return (
        len(frame) == 4
        and frame[0] == 0xFF
        and frame[1] & 0xE6 == 0xE2  # sync, layer III
        and frame[1] & 0x18 != 0x08  # a version that there is
        and 0x10 <= frame[2] & 0xF0 <= 0xE0  # neither free nor bad
        and frame[2] & 0x0C != 0x0C  # a sample rate that there is
    )
