"""What is let in before anybody asks who sent it."""

import pytest

from llmshield.admin.entrance import Entrance, check_type
from llmshield.admin.problems import Problem

JSON = {"content-type": "application/json"}
CASES = [
    # method, headers, and the code of the refusal
    ("GET", {"host": "127.0.0.1:9787"}, None),
    ("GET", {"host": "[::1]:9787"}, None),
    ("GET", {"host": "[::1]"}, None),
    ("GET", {"host": "::1"}, "wrong_host"),
    ("GET", {"host": "10.0.0.7"}, None),
    ("GET", {"host": "localhost:1"}, None),
    ("GET", {"host": "LOCALHOST"}, None),
    ("GET", {"host": "shield.internal:9787"}, None),
    ("GET", {"host": "Shield.Internal"}, None),
    ("GET", {}, "wrong_host"),
    ("GET", {"host": ""}, "wrong_host"),
    ("GET", {"host": "evil.example.com"}, "wrong_host"),
    ("GET", {"host": "localhost.evil.example.com"}, "wrong_host"),
    ("GET", {"host": "shield.internal.evil.example.com"}, "wrong_host"),
    ("GET", {"host": "127.0.0.1.evil.example.com"}, "wrong_host"),
    ("GET", {"host": "evil.example.com:9787"}, "wrong_host"),
    ("GET", {"host": "127.0.0.1@evil.example.com"}, "wrong_host"),
    ("GET", {"host": "127.0.0.1/evil"}, "wrong_host"),
    ("GET", {"host": "127.0.0.1:9787:80"}, "wrong_host"),
    ("GET", {"host": "127.0.0.1:x"}, "wrong_host"),
    ("GET", {"host": "0x7f.1"}, "wrong_host"),
    ("GET", {"host": "127.1"}, "wrong_host"),
    ("GET", {"host": "localhost\\@evil"}, "wrong_host"),
    ("GET", {"host": "localhost#evil"}, "wrong_host"),
    ("GET", {"host": "localhost%00"}, "wrong_host"),
    ("GET", {"host": "localhost", "origin": "http://localhost"}, None),
    ("GET", {"host": "localhost:9787", "origin": "http://localhost:9787"}, None),
    ("GET", {"host": "localhost:9787", "origin": "http://localhost:8787"}, "cross_site"),
    ("GET", {"host": "localhost:9787", "origin": "https://evil.example.com"}, "cross_site"),
    ("GET", {"host": "localhost:9787", "origin": "null"}, "cross_site"),
    ("GET", {"host": "localhost", "sec-fetch-site": "none"}, None),
    ("GET", {"host": "localhost", "sec-fetch-site": "same-origin"}, None),
    ("GET", {"host": "localhost", "sec-fetch-site": "same-site"}, "cross_site"),
    ("GET", {"host": "localhost", "sec-fetch-site": "cross-site"}, "cross_site"),
    ("POST", {"host": "localhost", **JSON}, None),
    ("POST", {"host": "localhost", "content-type": "Application/JSON; charset=UTF-8"}, None),
    ("POST", {"host": "localhost"}, "unsupported_media"),
    ("POST", {"host": "localhost", "content-type": "text/plain"}, "unsupported_media"),
    ("POST", {"host": "localhost", "content-type": "text/plain; application/json"}, "unsupported_media"),
    ("POST", {"host": "localhost", "content-type": "application/x-www-form-urlencoded"}, "unsupported_media"),
    ("POST", {"host": "localhost", "content-type": "multipart/form-data; boundary=x"}, "unsupported_media"),
    ("POST", {"host": "localhost", "content-type": "application/json; charset=utf-16"}, "unsupported_media"),
    ("POST", {"host": "localhost", "content-encoding": "gzip", **JSON}, "unsupported_media"),
    ("PUT", {"host": "localhost"}, "unsupported_media"),
    ("PATCH", {"host": "localhost"}, "unsupported_media"),
    ("DELETE", {"host": "localhost"}, None),
    ("DELETE", {"host": "localhost", "origin": "http://evil.example.com"}, "cross_site"),
]


@pytest.mark.parametrize(("method", "headers", "code"), CASES)
def test_the_door(method: str, headers: dict[str, str], code: str | None) -> None:
    entrance = Entrance(["shield.internal"])
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    if code is None:
        assert headers == entrance.check(raw)
        check_type(method, headers)
        return
    with pytest.raises(Problem) as refused:
        check_type(method, entrance.check(raw))

    assert code == refused.value.code


@pytest.mark.parametrize(
    "name", [b"host", b"Host", b"authorization", b"origin", b"content-type", b"content-length"]
)
def test_what_may_stand_once_stands_once(name: bytes) -> None:
    raw = [(b"host", b"localhost"), (name, b"localhost"), (name.title(), b"localhost")]
    with pytest.raises(Problem, match="may stand once"):
        Entrance([]).check(raw)
