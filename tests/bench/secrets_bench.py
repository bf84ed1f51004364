"""What `use: secrets` costs: CPU microseconds on this machine, the best of five.

python tests/bench/secrets_bench.py
"""

import time
from collections.abc import Callable

from llmshield.call import Call
from llmshield.testing import call, read
from llmshield_plugins.secrets import Secrets
from llmshield_plugins.secrets.guard import Guard

PLUGIN = Secrets(Secrets.Settings())
PROSE = (
    "The quick brown fox jumps over the lazy dog. Anna went to school, and she saw no one there at all. " * 10
)
KEY = "ghp_x8Jq2LmZ7vRt5Yw1Nc4Kp9Sd3Fg6Hb0AaQeU"
SIZE = 4


def microseconds(run: Callable[[], object], times: int) -> float:
    run()
    best = float("inf")
    for _ in range(5):
        begin = time.process_time()
        for _ in range(times):
            run()
        best = min(best, (time.process_time() - begin) / times * 1e6)
    return best


def request(subject: Call) -> Callable[[], object]:
    return lambda: PLUGIN.pre_request(subject)


def stream() -> None:
    guard = Guard(PLUGIN._find, lambda item: None)
    for start in range(0, len(PROSE), SIZE):
        guard.feed(PROSE[start : start + SIZE])
    guard.flush()


def main() -> None:
    chat = read({"model": "m", "messages": [{"role": "user", "content": PROSE[:800]} for _ in range(40)]})
    print(f"a clean prompt of {len(PROSE)} characters  {microseconds(request(call(PROSE)), 2000):7.1f} us")
    print(f"a clean chat of 40 x 800 characters  {microseconds(request(chat), 200):7.1f} us")
    print(f"the prompt with a key in it          {microseconds(request(call(PROSE + KEY)), 300):7.1f} us")
    print(f"a clean whole reply                  {microseconds(lambda: PLUGIN._honest(PROSE), 2000):7.1f} us")
    print(f"a piece of {SIZE} characters of a stream  {microseconds(stream, 50) / len(PROSE) * SIZE:7.1f} us")


if __name__ == "__main__":
    main()
