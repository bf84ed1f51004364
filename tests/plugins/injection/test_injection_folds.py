"""Folds of characters, and the way back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield_plugins.injection.folds import PLAIN, SKELETON, Fold


@pytest.mark.parametrize(
    ("shown", "plain", "skeleton"),
    [
        ("ｉｇｎｏｒｅ", "ignore", "ignore"),
        ("𝕚𝔤𝓃𝗼𝙧𝚎", "ignore", "ignore"),
        ("\U0001d547\U0001d49d\U0001d455\U0001d4ba", "PBhe", "PBhe"),
        ("ⓘⓖⓝⓞⓡⓔ 🅘🅶🄽", "ignore ign", "ignore ign"),
        ("ɪɢɴᴏʀᴇ", "ignore", "ignore"),
        ("ᵃˡˡ ⁱⁿ", "all in", "all in"),
        ("i\u200bg\u200dn\u2060o\u00adr\ufeffe", "ignore", "ignore"),
        ("i\ufe0fg\U000e0101n", "ign", "ign"),
        ("ị̈g̈n̷ö́rë", "ignore", "ignore"),
        ("ﬁle ﬆop Æon straße", "file stop aeon strasse", "file stop aeon strasse"),
        ("a\u00a0b\u2003c\u3000d", "a b c d", "a b c d"),
        ("“quoted” – it’s", '"quoted" - it\'s', '"quoted" - it\'s'),
        ("іgnоrе", "іgnоrе", "ignore"),
        ("ιgnσrε", "ιgnσrε", "ignore"),
        ("ᏚᎢᎪᏒᎢ", "ᏚᎢᎪᏒᎢ", "start"),
        ("ᗩᗷᑕ", "ᗩᗷᑕ", "abc"),
        ("٣४", "34", "34"),
        ("игнорируй", "игнорируи", "nrhopnpyn"),
        ("忽略指令。", "忽略指令.", "忽略指令."),
        ("무시", "무시", "무시"),
        ("निर्देश", "निर्देश", "निर्देश"),
        ("أَهْمِل", "اهمل", "lهمل"),
        ("\ud83d", " ", " "),
    ],
)
def test_folds(shown: str, plain: str, skeleton: str) -> None:
    assert PLAIN.apply(shown) == plain
    assert SKELETON.apply(shown) == skeleton


def test_ascii_is_never_changed() -> None:
    text = "".join(map(chr, range(128)))

    assert PLAIN.apply(text) == text
    assert SKELETON.apply(text) == text


@given(st.text())
@pytest.mark.parametrize("fold", [PLAIN, SKELETON])
def test_folding_twice_changes_nothing(fold: Fold, text: str) -> None:
    once = fold.apply(text)

    assert fold.apply(once) == once


@given(st.text(st.characters(codec="utf-8"), min_size=60, max_size=300))
@pytest.mark.parametrize("fold", [PLAIN, SKELETON])
def test_both_ways_of_folding_agree_and_lead_back(fold: Fold, text: str) -> None:
    """Long texts with many kinds of characters take another way than short ones."""
    once = fold.apply(text)
    origins = fold.origins(text)

    assert once == "".join(fold[ord(c)] for c in text)
    assert len(origins) == len(once) + 1
    assert origins == sorted(origins)
    assert all(fold.apply(text[at]).find(c) >= 0 for at, c in zip(origins, once, strict=False))


def test_a_client_cannot_grow_the_tables() -> None:
    fold = Fold(lambda c: c)
    fold.apply("".join(map(chr, range(0x4E00, 0x4E00 + 30_000))))

    assert len(fold) <= 20_000
