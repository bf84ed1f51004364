"""Code that runs inside mitmproxy's own environment, where nothing of ours is installed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmshield.egress import interpreter
from llmshield.egress.handover import handover
from llmshield.egress.running import addon
from llmshield.testing import policy

POLICY = """
providers: {openai: {dialect: openai, connect: "127.0.0.1:9443"}, claude: {dialect: anthropic}}
egress:
  hosts: {api.openai.com: openai, "*.claude.test": claude}
  bypass: {clients: [10.9.0.0/16], hosts: [pinned.claude.test]}
"""


BESIDE = """
import json, os, sys, traceback
sys.path.insert(0, sys.argv[1])
import mitmproxy.addons.next_layer, mitmproxy.addons.proxyserver, mitmproxy.addons.tlsconfig, mitmproxy.test.taddons

for line in sys.stdin:
    code, given = json.loads(line)
    there, here = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        names = {"given": given, "json": json, "sys": sys}
        try:
            exec(compile(code, "inside.py", "exec"), names)
            said = [names["result"], ""]
        except BaseException:
            said = [None, traceback.format_exc()]
        with os.fdopen(here, "w") as out:
            out.write(json.dumps(said))
        os._exit(0)
    os.close(here)
    with os.fdopen(there) as back:
        print(back.read(), flush=True)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="session")
def python() -> str:
    """A Python that has mitmproxy."""
    try:
        return interpreter.find()
    except interpreter.NoMitmproxy:
        pytest.skip("no mitmproxy here; `make egress` sets it up")


@pytest.fixture
def said() -> dict[str, Any]:
    """What the addon is told."""
    return handover(policy(POLICY), ("127.0.0.1", 4711), "token", (("127.0.0.1", 4712),))


@pytest.fixture(scope="session")
def beside(python: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has imported mitmproxy, which takes a second, and makes a child of itself for each script."""
    process = subprocess.Popen(
        [python, "-c", BESIDE, str(addon("mitm").parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=interpreter.clean(),
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    with process, process.stdin:
        yield process


@pytest.fixture
def inside(beside: subprocess.Popen[str]) -> Callable[..., Any]:
    """`inside(code, given)`: what the code leaves in `result`, run beside the addons with `given` at hand."""

    def run(code: str, given: Any = None) -> Any:
        assert beside.stdin is not None
        assert beside.stdout is not None
        beside.stdin.write(json.dumps([code, given]) + "\n")
        beside.stdin.flush()
        result, trouble = json.loads(beside.stdout.readline())
        assert not trouble, trouble
        return result

    return run
