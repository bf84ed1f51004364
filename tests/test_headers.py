"""What travels on, and what stops here."""

from typing import Any, get_args

import pytest

from llmshield import senders
from llmshield.headers import LISTABLE, add_own, client_headers, content_type, remaining, upstream_headers
from llmshield.policy.providers import ReplyHeader


@pytest.mark.parametrize(
    "name",
    ["authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie", "host", "connection", "transfer-encoding",
     "x-forwarded-for", "forwarded", "x-real-ip", "x-llmshield-tenant", "content-length", "te", "upgrade", "via",
     "proxy-authorization", "x-auth-token", "x-auth-request-user", "x-goog-iap-jwt-assertion", "x-client-cert", "remote-user",
     "x-access-key", "x-session-token", "baggage", "fastly-client-ip", "x-amz-security-token", "x_forwarded_for", "x-original-url", "sec-fetch-site"],
)  # fmt: skip
def test_these_never_reach_a_provider(name: str) -> None:
    assert name not in upstream_headers({name: "x"}, own_key=True)


@pytest.mark.parametrize(
    "name",
    [
        "anthropic-beta",
        "anthropic-version",
        "user-agent",
        "x-stainless-lang",
        "openai-beta",
        "x-max-tokens",
        "x-author",
        "anthropic-dangerous-direct-browser-access",
        "x-goog-api-client",
        "x-app",
        "traceparent",
        "x-title",
    ],
)
def test_these_travel_on_unchanged(name: str) -> None:
    assert "as it is" == upstream_headers({name: "as it is"}, own_key=False)[name]


def test_account_headers_go_with_the_clients_own_key_only() -> None:
    given = {"openai-organization": "org"}

    assert "org" == upstream_headers(given, own_key=True)["openai-organization"]
    assert "openai-organization" not in upstream_headers(given, own_key=False)


def test_headers_that_connection_names_stop_here() -> None:
    given = {"connection": "close, X-Secret", "x-secret": "1", "x-other": "2"}

    assert "x-secret" not in upstream_headers(given, own_key=True)
    assert "2" == upstream_headers(given, own_key=True)["x-other"]
    assert "x-secret" not in client_headers(given)


@pytest.mark.parametrize(
    "name",
    [
        "set-cookie",
        "openai-organization",
        "anthropic-organization-id",
        "x-llmshield-cost",
        "content-encoding",
        "location",
        "authorization",
        "x(y)",
        "",
        "x y",
    ],
)
def test_these_never_reach_the_client(name: str) -> None:
    assert name not in client_headers({name: "x"})


@pytest.mark.parametrize(
    "value", ["a\r\nset-cookie: b", "a\nb", "a\0b", "a\x7fb", "a\x01", "\udcff", "\u2028"]
)
def test_values_that_another_hop_might_split_stay_here(value: str) -> None:
    """The HTTP client reads a provider's head leniently; what it lets through is not ours to pass on."""
    assert {} == client_headers({"x-note": value})
    assert "text/x" == content_type({"content-type": f"application/json; x={value}"}, "text/x")


@pytest.mark.parametrize("name", sorted(LISTABLE))
def test_what_a_policy_lists_comes_back(name: str) -> None:
    assert {name: "x"} == client_headers({name: "x", "location": "x"}, frozenset({name}))


def test_a_policy_may_list_just_these() -> None:
    assert LISTABLE == set(get_args(ReplyHeader))


def test_request_ids_and_limits_come_back() -> None:
    given = {"x-request-id": "r", "x-ratelimit-remaining-requests": "9", "openai-processing-ms": "12"}

    assert given == client_headers(given)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"x-ratelimit-remaining-requests": "59", "x-ratelimit-remaining-tokens": "149984"}, (59, 149984)),
        ({"anthropic-ratelimit-requests-remaining": "3"}, (3, None)),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-remaining-tokens": "many"}, (None, None)),
    ],
)
def test_what_a_providers_rate_limit_leaves(
    headers: dict[str, str], expected: tuple[int | None, int | None] | None
) -> None:
    assert expected == remaining(headers)


OURS = {
    "ratelimit": "x",
    "x-ratelimit-remaining-requests": "50",
    "x-ratelimit-limit-requests": "100",
    "x-ratelimit-reset-requests": "1h",
}


@pytest.mark.parametrize(
    ("left", "kept"), [("49", "theirs"), ("50", "ours"), ("51", "ours"), ("many", "ours"), (None, "ours")]
)
def test_of_two_limits_the_client_reads_the_tighter(left: str | None, kept: str) -> None:
    theirs = {"x-ratelimit-limit-requests": "7", "x-ratelimit-reset-requests": "1s"}
    headers = {"x-other": "1", **theirs, "x-ratelimit-remaining-tokens": "3"}
    if left is not None:
        headers["x-ratelimit-remaining-requests"] = left
    add_own(headers, OURS)

    assert headers["x-ratelimit-limit-requests"] == ("7" if kept == "theirs" else "100")
    assert headers["x-ratelimit-reset-requests"] == ("1s" if kept == "theirs" else "1h")
    assert headers["x-ratelimit-remaining-requests"] == (left if kept == "theirs" else "50")
    assert (headers["ratelimit"], headers["x-other"]) == ("x", "1")
    assert headers["x-ratelimit-remaining-tokens"] == "3"


@pytest.mark.parametrize(
    "given",
    [{"x-long": "p" * 300_000}, {f"x-{number}": "p" * 100 for number in range(2_000)}],
    ids=["long", "many"],
)
def test_a_head_that_no_client_reads_is_made_shorter(given: dict[str, str]) -> None:
    seen = client_headers({**given, "request-id": "req_1"})

    assert "req_1" == seen["request-id"]
    assert len(seen) < 100
    assert sum(map(len, seen.values())) <= 8192


def test_a_header_whose_name_is_a_key_stays_here() -> None:
    senders.hold({"authorization": "Bearer llm-Client-0123456789"}, "")
    try:
        given = {"llm-client-0123456789": "1", "x-note": "it is LLM-client-0123456789", "x-title": "t"}

        assert {"x-title": "t"}.items() <= upstream_headers(given, own_key=True).items()
        assert {"llm-client-0123456789", "x-note"}.isdisjoint(upstream_headers(given, own_key=True))
        assert {"x-title": "t"} == client_headers({"llm-Client-0123456789": "1", "x-title": "t"})
    finally:
        senders.release()


def test_what_a_plugin_tells_can_break_no_answer() -> None:
    head = {"x-llmshield-action": "block", "content-type": "application/json"}
    wrong: Any = {
        "x-a": "b\r\nevil: 1", "x y": "1", "": "1", "content-length": "1", "transfer-encoding": "chunked",
        "x-llmshield-action": "allow", "content-type": "text/html", "x-count": 5, "x-good": "yes",
    }  # fmt: skip
    add_own(head, wrong)

    assert {"x-llmshield-action": "block", "content-type": "application/json", "x-good": "yes"} == head
