"""How many clients a process has files for; in processes of their own, since a limit that was lowered stays so."""

import json
import subprocess
import sys

import pytest

CODE = """
import json, resource, sys
from llmshield import open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
before = open_files.most_connections()
open_files.raise_limit()
print(json.dumps([before, resource.getrlimit(resource.RLIMIT_NOFILE)[0], open_files.most_connections()]))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (256, 256, [96, 256, 96]),
        (256, 4096, [96, 4096, 2016]),
        (100, 100, [18, 100, 18]),
        (70, 70, [8, 70, 8]),
    ],
)
def test_a_soft_limit_is_raised_and_half_of_it_are_clients(soft: int, hard: int, expected: list[int]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(soft), str(hard)], capture_output=True, text=True, check=True
    )

    assert json.loads(done.stdout) == expected
