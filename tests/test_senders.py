"""What a client sends along that is secret: found in every text while its call lasts, and by nobody afterwards."""

import base64

import pytest

from llmshield import senders
from llmshield.errors import CallError
from llmshield.redact import redact, redact_foreign, sanitize_error_message, shows_secret

HEADS = [
    ({"authorization": "Bearer CANARY-0123456789-abc"}, "", "CANARY-0123456789-abc"),
    ({"x-api-key": "CANARY-0123456789-abc"}, "", "CANARY-0123456789-abc"),
    ({"cookie": "a=1; sid=31d4d96e407aad42; b=2"}, "", "31d4d96e407aad42"),
    (
        {"authorization": "Basic " + base64.b64encode(b"bob:pa55-w0rd-of-bob").decode()},
        "",
        "pa55-w0rd-of-bob",
    ),
    ({}, "alt=sse&key=CANARY-0123456789%2Fabc", "CANARY-0123456789/abc"),
    ({}, "%24key=x&access_token=tok-0123456789-abc", "tok-0123456789-abc"),
]


@pytest.mark.parametrize(("headers", "query", "secret"), HEADS)
def test_what_a_client_sent_is_hidden_while_its_call_lasts(headers, query, secret):
    senders.hold(headers, query)
    try:
        assert secret not in redact(f"you sent <{secret}>")
        for spelled in (
            secret,
            secret[::-1],
            secret.encode().hex(),
            base64.b64encode(secret.encode()).decode(),
        ):
            assert spelled not in redact_foreign(f"you sent <{spelled}>")
            assert spelled not in sanitize_error_message(f"you sent <{spelled}>")
            assert spelled not in str(CallError("upstream_error", f"<{spelled}>"))
            assert shows_secret(f"a {spelled} b")
        assert not shows_secret("a b")
    finally:
        senders.release()

    assert redact(f"you sent <{secret}>") == f"you sent <{secret}>"


def test_a_client_that_comes_again_is_the_same_sender():
    headers = {"authorization": "Bearer CANARY-0123456789-abc", "accept": "*/*"}
    try:
        first = senders.hold(headers)

        assert senders.hold({**headers, "accept": "text/html"}) is first
        assert senders.hold({**headers, "authorization": "Bearer CANARY-0123456789-abd"}) is not first

        senders.hold_again(first)
        assert senders.carries_key("x canary-0123456789-ABC y")
    finally:
        senders.release()

    assert senders.held() is None
    assert not senders.carries_key("x canary-0123456789-ABC y")
