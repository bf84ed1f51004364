"""What clients would meet, case by case: do they come, do they believe, what is to be set."""

import os
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from llmshield.egress import environment
from llmshield.egress.clients import KINDS, Experience, Place, Trust, experience

TRUSTED = environment.trust_variables(Path("/t"))
SETTINGS = TRUSTED | environment.proxy_variables("127.0.0.1", 8080, TRUSTED)
FILES: dict[str, Trust] = {"/t/bundle.pem": "both", "/t/ca.crt": "ours", "/t/truststore.p12": "both", "/old.pem": "others",
                           "/ours.pem": "ours"}  # fmt: skip
BY_NAME = {kind.name: kind for kind in KINDS}
HOSTS = ("api.openai.com", "*.openai.azure.com")
OURS = {"HTTPS_PROXY": "http://127.0.0.1:8080", **TRUSTED}
NO_PROXY = {"aiohttp", "node-fetch", "openai-node", "anthropic-node"}


def place(environ: Mapping[str, str], *, redirected: bool = False, system: bool = False) -> Place:
    proxies = frozenset({("127.0.0.1", 8080)})
    return Place(
        environ, redirected, proxies, system, lambda path: FILES.get(path, "missing"), SETTINGS, hosts=HOSTS
    )


def meets(client: str, where: Place) -> Experience:
    return experience(BY_NAME[client], where)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_with_everything_set_all_obey_but_those_that_know_no_proxy(kind) -> None:
    found = experience(kind, place(SETTINGS))

    assert found.outcome == ("passes_by" if kind.name in NO_PROXY else "obeys")
    assert experience(kind, place(SETTINGS, redirected=True)).outcome == "obeys"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_is_advised_helps(kind) -> None:
    for redirected in (False, True):
        found = experience(kind, place({}, redirected=redirected))
        assert found.outcome == ("fails" if redirected else "passes_by")
        after = experience(kind, place(found.set, redirected=redirected))
        assert after.outcome == ("passes_by" if kind.name in NO_PROXY and not redirected else "obeys"), found


@pytest.mark.parametrize(
    ("client", "environ", "outcome", "says"),
    [
        ("requests", {"HTTPS_PROXY": "http://127.0.0.1:8080", "SSL_CERT_FILE": "/t/bundle.pem"}, "fails", "REQUESTS_CA_BUNDLE is not set"),
        ("requests", {"HTTPS_PROXY": "127.0.0.1:8080", "CURL_CA_BUNDLE": "/t/bundle.pem"}, "obeys", "by HTTPS_PROXY"),
        ("httpx", {"HTTPS_PROXY": "http://proxy.corp:3128", "SSL_CERT_FILE": "/t/bundle.pem"}, "passes_by", "another proxy"),
        ("httpx", {"https_proxy": "http://127.0.0.1:8080", "SSL_CERT_FILE": "/old.pem"}, "fails", "an old one"),
        ("httpx", {"https_proxy": "http://127.0.0.1:8080", "SSL_CERT_FILE": "/none"}, "fails", "can't be read"),
        ("httpx", {"https_proxy": "http://127.0.0.1:8080", "SSL_CERT_FILE": "/ours.pem"}, "obeys", "every other host fails"),
        ("httpx", {"https_proxy": "http://127.0.0.1:nonsense"}, "passes_by", "another proxy"),
        ("java", {"JAVA_TOOL_OPTIONS": "-Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=8080"}, "fails", "trustStore is not set"),
        ("java", {"JDK_JAVA_OPTIONS": "-Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=1"}, "passes_by", "another proxy"),
        ("requests", {**OURS, "https_proxy": "http://proxy.corp:3128"}, "passes_by", "https_proxy leads to another"),
        ("curl", {**OURS, "https_proxy": "http://proxy.corp:3128"}, "passes_by", "https_proxy leads to another"),
        ("go", {**OURS, "https_proxy": "http://proxy.corp:3128"}, "obeys", "by HTTPS_PROXY"),
        ("httpx", {**OURS, "https_proxy": ""}, "passes_by", "is not set"),
        ("curl", {**OURS, "https_proxy": ""}, "obeys", "by HTTPS_PROXY"),
        ("openai", {**OURS, "NO_PROXY": "localhost, .openai.com"}, "passes_by", "NO_PROXY leaves api.openai.com out"),
        ("openai", {**OURS, "NO_PROXY": "openai.com", "no_proxy": "localhost"}, "obeys", ""),
        ("requests", {**OURS, "no_proxy": "azure.com:443"}, "passes_by", "no_proxy leaves *.openai.azure.com out"),
        ("requests", {**OURS, "no_proxy": "ai.com,api.open,i.openai.com,.com.openai"}, "obeys", ""),
        ("curl", {**OURS, "no_proxy": "*"}, "passes_by", "no_proxy leaves api.openai.com out"),
        ("java", {**TRUSTED, "JAVA_TOOL_OPTIONS": SETTINGS["JAVA_TOOL_OPTIONS"] + " -Dhttp.nonProxyHosts=localhost|*.openai.com"},
         "passes_by", "nonProxyHosts leaves api.openai.com out"),
        ("curl", {"HTTPS_PROXY": "http://127.0.0.1:8080", "CURL_CA_BUNDLE": "", "SSL_CERT_FILE": "/t/bundle.pem"}, "obeys", ""),
    ],
)  # fmt: skip
def test_one_environment(client: str, environ: dict[str, str], outcome: str, says: str) -> None:
    found = meets(client, place(environ))

    assert (found.outcome, says in found.says) == (outcome, True), found.says


@pytest.mark.parametrize(
    "first",
    [{}, {"https_proxy": ""}, {"https_proxy": "http://127.0.0.1:8080"}, {"https_proxy": "http://a:1"}],
)
@pytest.mark.parametrize(
    "second", [{}, {"HTTPS_PROXY": "http://127.0.0.1:8080"}, {"HTTPS_PROXY": "http://a:1"}]
)
@pytest.mark.parametrize(
    "without", [{}, {"no_proxy": "openai.com"}, {"NO_PROXY": "*"}, {"NO_PROXY": "*", "no_proxy": "x.test"}]
)
def test_clients_of_python_find_their_proxy_as_urllib_does(
    monkeypatch: pytest.MonkeyPatch, first: dict[str, str], second: dict[str, str], without: dict[str, str]
) -> None:
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in {**first, **second, **without}.items():
        monkeypatch.setenv(name, value)
    led = urllib.request.getproxies_environment().get("https") == "http://127.0.0.1:8080"
    led = led and not urllib.request.proxy_bypass_environment("api.openai.com")

    assert (meets("requests", place({**TRUSTED, **first, **second, **without})).outcome == "obeys") is led


def test_ours_among_the_systems_roots_is_enough_for_those_that_read_them() -> None:
    where = place({}, redirected=True, system=True)

    trusting = {kind.name for kind in KINDS if experience(kind, where).outcome == "obeys"}
    assert trusting == {kind.name for kind in KINDS if kind.own == "system"}
    assert (
        experience(
            BY_NAME["node-fetch"], replace(where, environ={"NODE_EXTRA_CA_CERTS": "/t/ca.crt"})
        ).outcome
        == "obeys"
    )
