"""Plots as PNG, with nothing but zlib: a canvas, lines, bars and letters of five by seven dots."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

Color = tuple[int, int, int]
BLACK, GREY, LIGHT, BLUE, RED = (0, 0, 0), (120, 120, 120), (225, 225, 225), (31, 119, 180), (214, 39, 40)
# Each letter as seven rows of five bits.
_FONT = {
    "0": "0E11131519110E", "1": "040C040404040E", "2": "0E11010204081F", "3": "1F02040201110E",
    "4": "02060A121F0202", "5": "1F101E0101110E", "6": "0608101E11110E", "7": "1F010204080808",
    "8": "0E11110E11110E", "9": "0E11110F01020C", ".": "0000000000040C"[:12] + "0C", "%": "18190204081303",
    "-": "0000001F000000", "/": "01010204081010", " ": "00000000000000", ":": "000C0C000C0C00",
    "a": "00000E010F110F", "b": "10101619111E00"[:12] + "1E", "c": "00000E1010110E", "d": "01010D1311130D",
    "e": "00000E111F100E", "f": "0609081C080808", "g": "000F110F01110E", "h": "10101619111111",
    "i": "04000C0404040E", "j": "0200060202120C", "k": "10101214181412", "l": "0C04040404040E",
    "m": "00001A15151515", "n": "00001619111111", "o": "00000E1111110E", "p": "00001E111E1010",
    "q": "00000D130F0101", "r": "00001619101010", "s": "00000E100E011E", "t": "08081C08080906",
    "u": "0000111111130D", "v": "00001111110A04", "w": "0000111115150A", "x": "0000110A040A11",
    "y": "000011110F010E", "z": "00001F0204081F", "_": "0000000000001F",
}  # fmt: skip


class Canvas:
    """A white picture that is drawn on."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._rows = [bytearray(b"\xff" * (3 * width)) for _ in range(height)]

    def dot(self, x: int, y: int, color: Color) -> None:
        if 0 <= x < self.width and 0 <= y < self.height:
            self._rows[y][3 * x : 3 * x + 3] = bytes(color)

    def box(self, left: int, top: int, right: int, bottom: int, color: Color) -> None:
        for y in range(top, bottom):
            for x in range(left, right):
                self.dot(x, y, color)

    def line(self, points: Sequence[tuple[float, float]], color: Color) -> None:
        for (x0, y0), (x1, y1) in pairwise(points):
            steps = max(1, round(max(abs(x1 - x0), abs(y1 - y0))))
            for step in range(steps + 1):
                x, y = x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps
                self.dot(round(x), round(y), color)
                self.dot(round(x), round(y) + 1, color)

    def text(self, x: int, y: int, words: str, color: Color = BLACK) -> None:
        for number, letter in enumerate(words.lower()):
            rows = bytes.fromhex(_FONT.get(letter, _FONT[" "]))
            for down, row in enumerate(rows):
                for right in range(5):
                    if row >> (4 - right) & 1:
                        self.dot(x + 6 * number + right, y + down, color)

    def save(self, path: Path) -> None:
        """Write the picture: 8 bits a channel, no filter (RFC 2083)."""

        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        head = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        body = zlib.compress(b"".join(b"\0" + bytes(row) for row in self._rows), 9)
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
        )


def histogram(path: Path, honest: Sequence[float], attacks: Sequence[float], marks: Sequence[float]) -> None:
    """Shares of scores 0..1 in 25 steps, honest above the axis, attacks below it; `marks` are the points."""
    canvas, left, middle, size = Canvas(640, 400), 50, 200, 540
    canvas.text(left, 8, "scores: honest texts above, attacks below, shares of each")
    for scores, color, way in ((honest, BLUE, -1), (attacks, RED, 1)):
        bins = [0] * 25
        for score in scores:
            bins[min(24, int(score * 25))] += 1
        for number, count in enumerate(bins):
            high = round(160 * count / max(1, len(scores)))
            x = left + number * size // 25
            top, bottom = (middle - high, middle) if way < 0 else (middle + 1, middle + 1 + high)
            canvas.box(x, top, x + size // 25 - 2, bottom, color)
    canvas.box(left, middle, left + size, middle + 1, BLACK)
    for mark in marks:
        x = left + round(mark * size)
        canvas.box(x, 30, x + 1, 370, GREY)
        canvas.text(x - 10, 375, f"{mark:.2f}", GREY)
    canvas.save(path)


def roc(path: Path, honest: Sequence[float], attacks: Sequence[float]) -> float:
    """True against false positives, the latter up to 10 %; returns the area under the whole curve."""
    canvas, left, top, size = Canvas(520, 420), 60, 40, 340
    points: list[tuple[float, float]] = [(0.0, 0.0)]
    for point in sorted({*honest, *attacks}, reverse=True):
        points.append(
            (sum(s >= point for s in honest) / len(honest), sum(s >= point for s in attacks) / len(attacks))
        )
    points.append((1.0, 1.0))
    area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))
    canvas.text(left, 12, f"attacks found over honest texts found, area {area:.4f}")
    for tick in range(6):
        x, y = left + tick * size // 5, top + size - tick * size // 5
        canvas.box(left, y, left + size, y + 1, LIGHT)
        canvas.box(x, top, x + 1, top + size, LIGHT)
        canvas.text(left - 40, y - 3, f"{20 * tick} %")
        canvas.text(x - 8, top + size + 8, f"{2 * tick} %")
    shown = [(left + x * 10 * size, top + size - y * size) for x, y in points if x <= 0.1]
    canvas.line(shown, RED)
    canvas.box(left, top, left + 1, top + size, BLACK)
    canvas.box(left, top + size, left + size, top + size + 1, BLACK)
    canvas.save(path)
    return area
