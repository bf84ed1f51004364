"""Users as options name them, and what is in such a user's way."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from llmshield.egress.accounts import NOWHERE, Account, find

NOBODY = 48_211
"""A number that no machine has an entry for."""


def test_names_and_numbers() -> None:
    entry = pwd.getpwnam("nobody")
    known = Account(entry.pw_uid, entry.pw_gid, "nobody", entry.pw_dir)

    assert find("nobody") == find(str(entry.pw_uid)) == known
    assert find(str(NOBODY)) == Account(NOBODY, NOBODY, str(NOBODY), NOWHERE)


@pytest.mark.parametrize(
    "text", ["", "-1", "no such user", "4294967295", "99999999999", "١٢", "1.5", "root\n"]
)
def test_what_is_no_user(text: str) -> None:
    assert find(text) is None


def test_its_environment() -> None:
    assert Account(1, 2, "a", "/srv/a").environment() == {"HOME": "/srv/a", "USER": "a", "LOGNAME": "a"}


def test_what_is_closed(tmp_path: Path) -> None:
    """Modes decide, of the folders on the way and of the file; links are followed."""
    file = tmp_path / "a" / "b" / "file"
    file.parent.mkdir(parents=True)
    file.write_text("x")
    for each in (tmp_path, tmp_path / "a", file.parent):
        each.chmod(0o755)
    link = tmp_path / "link"
    link.symlink_to(file)
    above = [each for each in tmp_path.parents if not each.stat().st_mode & 0o001]
    stranger = Account(NOBODY, NOBODY, "x", NOWHERE)
    for each in above:  # pytest's own folder is the owner's alone
        if each.stat().st_uid == os.geteuid():
            each.chmod(each.stat().st_mode | 0o011)

    try:
        assert stranger.closed_out_of(str(file)) is None
        assert stranger.closed_out_of(str(tmp_path / "nothing")) is None
        file.chmod(0o600)
        assert stranger.closed_out_of(str(link)) == file
        assert Account(0, 0, "root", "/root").closed_out_of(str(file)) is None
        assert Account(os.geteuid(), 0, "we", "/").closed_out_of(str(file)) is None
        (tmp_path / "a").chmod(0o700)
        assert stranger.closed_out_of(str(link)) == tmp_path / "a"
        (tmp_path / "a").chmod(0o710)
        assert Account(NOBODY, (tmp_path / "a").stat().st_gid, "x", NOWHERE).closed_out_of(str(link)) == file
    finally:
        (tmp_path / "a").chmod(0o755)
        for each in above:
            if each.stat().st_uid == os.geteuid():
                each.chmod(0o700)
