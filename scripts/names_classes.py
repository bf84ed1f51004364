"""Classes of words that are used alike, from texts nobody labelled: what stands left and right of them, made small by an
SVD, in groups by k-means. All of it is the same each time with the same numpy and BLAS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from llmshield_plugins.pii.name_tokens import crc, fold, tokens

WORDS, NEIGHBOURS, SIZES, CLASSES = 16_000, 600, 64, 200


def classes(texts: Sequence[str]) -> dict[int, int]:
    """Number of a word (`crc` of its folded form) -> its class, 1 to `CLASSES`, for the commonest words."""
    rows = [[fold(token.word) for token in tokens(text)] for text in texts]
    counted = Counter(word for row in rows for word in row)
    words = [
        word
        for word, count in sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:WORDS]
        if count >= 6
    ]
    place = {word: number for number, word in enumerate(words)}
    near = {word: number for number, word in enumerate(words[:NEIGHBOURS])}
    table = np.zeros((len(words), 2 * NEIGHBOURS), np.float32)
    for row in rows:
        for left, right in pairwise(row):
            if left in near and right in place:
                table[place[right], near[left]] += 1
            if right in near and left in place:
                table[place[left], NEIGHBOURS + near[right]] += 1
    total = table.sum() or 1.0
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / total
    table = np.maximum(0, np.log((table + 1e-9) / (expected + 1e-6))) * (table > 0)
    rng = np.random.default_rng(11)
    sketch, _ = np.linalg.qr(table @ rng.normal(size=(table.shape[1], SIZES + 16)).astype(np.float32))
    left_side, strength, _ = np.linalg.svd(sketch.T @ table, full_matrices=False)
    vectors = (sketch @ left_side)[:, :SIZES] * np.sqrt(strength[:SIZES])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9
    centres = vectors[rng.choice(len(vectors), CLASSES, replace=False)]
    group = np.zeros(len(vectors), int)
    for _ in range(25):
        group = (vectors @ centres.T).argmax(1)
        for number in range(CLASSES):
            members = vectors[group == number]
            if len(members):
                centre = members.sum(0)
                centres[number] = centre / (np.linalg.norm(centre) + 1e-9)
    return {crc(word): int(group[number]) + 1 for word, number in place.items()}
