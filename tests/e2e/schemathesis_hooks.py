"""Loaded by schemathesis (SCHEMATHESIS_HOOKS): no answer may hold a secret, in any encoding.

The secrets stand in CANARIES, parted by blanks.
"""

import base64
import os
from typing import Any
from urllib.parse import quote

import schemathesis


def spellings(secret: str) -> set[bytes]:
    raw = secret.encode()
    coded = {base64.b64encode(b"\0" * pad + raw)[4 * (pad > 0) : -4] for pad in range(3)}
    return {raw, raw[::-1], raw.hex().encode(), quote(secret, safe="").encode(), *coded}


SECRETS = frozenset().union(*[spellings(each) for each in os.environ["CANARIES"].split()])


@schemathesis.check
def no_secrets(ctx: Any, response: Any, case: Any) -> None:
    said = response.content + b"".join(
        f"{name}: {value}\n".encode() for name, values in response.headers.items() for value in values
    )
    assert not [each for each in SECRETS if each in said], "a secret is in the answer"
    assert b"Traceback" not in said
