"""Every setting there is can be shown: the example policy, whole. Single values are endpoints/test_policy.py's."""

import json
from pathlib import Path

from llmshield.admin.showing import shown
from llmshield.policy import load
from llmshield.policy.policy import Policy

EXAMPLE = Path(__file__).parents[2] / "policy.example.yaml"


def test_the_example_policy() -> None:
    policy = load(EXAMPLE)
    for name in Policy.__dataclass_fields__:
        if not name.startswith("_") and name not in {"warnings"}:
            json.dumps(shown(getattr(policy, name), name), allow_nan=False)
