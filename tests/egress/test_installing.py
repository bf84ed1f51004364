"""Ours among the system's roots: put there, replaced and taken out with the system's tool."""

import shutil
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from llmshield.egress import installing, trust
from llmshield.egress.ca import Store
from llmshield.egress.certificates import CaError
from llmshield.egress.installing import Tool


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "ca")
    store.init(["api.openai.com"])
    return store


def tool_in(tmp_path: Path, status: int = 0) -> Tool:
    """A tool that notes what lay in its folder when it was called."""
    program = tmp_path / "update"
    program.write_text(
        f"#!/bin/sh\nls {tmp_path}/own/anchors > {tmp_path}/seen\necho broken >&2\nexit {status}\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    tmp_path.joinpath("own").mkdir()
    return Tool((str(program),), tmp_path / "own" / "anchors")


def pem(store: Store) -> bytes:
    return b"".join(root.public_bytes(Encoding.PEM) for root in store.roots())


def test_each_root_is_a_file_and_the_tool_is_run(store: Store, tmp_path: Path) -> None:
    tool = tool_in(tmp_path)
    store.rotate(["api.openai.com"])
    installing.install(pem(store), tool)

    seen = (tmp_path / "seen").read_text().split()
    assert seen == ["llmshield-egress-1.crt", "llmshield-egress.crt"]
    found = [trust.certificates_in(tool.folder / name) for name in reversed(seen)]
    assert [one for (one,) in found] == store.roots()


def test_what_was_installed_before_goes(store: Store, tmp_path: Path) -> None:
    tool = tool_in(tmp_path)
    store.rotate(["api.openai.com"])
    installing.install(pem(store), tool)
    store.switch()
    store.finish()
    installing.install(pem(store), tool)

    assert [path.name for path in tool.folder.iterdir()] == ["llmshield-egress.crt"]
    assert installing.uninstall(tool)
    assert [*tool.folder.iterdir()] == []
    assert not installing.uninstall(tool)


def test_a_tool_that_fails_is_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises(CaError, match="broken"):
        installing.install(pem(store), tool_in(tmp_path, status=3))


def test_a_folder_that_can_not_be_written_is_told(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(CaError, match="as root"):
        installing.install(pem(store), Tool(("true",), tmp_path / "file" / "anchors"))


def test_the_tool_of_this_system_is_found() -> None:
    if not any(shutil.which(tool.command[0]) for tool in installing.TOOLS):
        pytest.skip("this system has none of the tools")

    assert shutil.which(installing.find_tool().command[0])


def test_without_a_tool_the_way_by_hand_is_told() -> None:
    with pytest.raises(CaError, match="by hand"):
        installing.find_tool((Tool(("no-such-tool",), Path("/nowhere")),))
