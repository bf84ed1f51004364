"""The variables, and whether each shell reads what is written for it, whatever is in the path."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from llmshield.egress import environment
from llmshield.egress.environment import FORMS, JAVA, merged, proxy_variables, render, trust_variables

WANTED = {
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "JAVA_TOOL_OPTIONS", "AWS_CA_BUNDLE", "DENO_CERT", "GIT_SSL_CAINFO", "PIP_CERT",
}  # fmt: skip
NASTY = '/a b/it\'s $HOME `x` "q" \\ 100%'


def test_what_replaces_roots_is_given_the_bundle_and_what_adds_to_them_ours_alone() -> None:
    found = trust_variables(Path("/t"))

    assert set(found) == WANTED
    assert {found[name] for name in environment.REPLACE} == {"/t/bundle.pem"}
    assert {found[name] for name in environment.ADD} == {"/t/ca.crt"}
    assert "-Djavax.net.ssl.trustStore=/t/truststore.p12" in found[JAVA].split()


def test_java_options_of_others_stay_and_ours_do_not_pile_up() -> None:
    once = trust_variables(Path("/t"), {JAVA: "-Xmx1g -Dhttps.proxyHost=old"})
    twice = trust_variables(Path("/u"), once | proxy_variables("127.0.0.1", 8080, once))

    assert once[JAVA].split()[0] == "-Xmx1g"
    assert "old" not in once[JAVA]
    assert twice[JAVA].split().count("-Xmx1g") == 1
    assert twice[JAVA].count("trustStore=") == 1
    assert "/t/" not in twice[JAVA]


def test_the_proxys_variables() -> None:
    trusted = trust_variables(Path("/t"))
    found = proxy_variables("::1", 8080, trusted)

    assert {found[name] for name in environment.PROXY} == {"http://[::1]:8080"}
    assert found["NO_PROXY"] == found["no_proxy"] == "localhost,127.0.0.1,::1"
    assert found[JAVA].startswith(trusted[JAVA])
    assert "-Dhttps.proxyHost=::1" in found[JAVA].split()
    assert proxy_variables("::1", 8080, found)[JAVA] == found[JAVA]


@pytest.mark.parametrize("shell", ["sh", "fish"])
def test_a_shell_reads_what_is_written_for_it(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    script = render({"SSL_CERT_FILE": NASTY}, shell) + "env"

    done = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True).stdout
    assert f"SSL_CERT_FILE={NASTY}" in done.splitlines()


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("powershell", "$env:A = '/it''s'\n"),
        ("docker", """--env 'A=/it'"'"'s'\n"""),
        ("env-file", "A=/it's\n"),
        ("systemd", 'Environment="A=/it\'s"\n'),
    ],
)
def test_other_forms(form: str, expected: str) -> None:
    assert render({"A": "/it's"}, form) == expected


def test_json() -> None:
    assert json.loads(render({"A": NASTY, "B": ""}, "json")) == {"A": NASTY, "B": ""}


def test_systemd_escapes_its_own_characters() -> None:
    assert render({"A": NASTY}, "systemd") == f'Environment="A={NASTY}"\n'.replace(
        NASTY, '/a b/it\'s $HOME `x` \\"q\\" \\\\ 100%%'
    )


def test_every_form_writes_every_variable() -> None:
    for form in FORMS:
        assert all(name in render(trust_variables(Path("/t")), form) for name in WANTED), form


def test_the_later_wins() -> None:
    assert merged({"A": "1", "B": "1"}, {"A": "2"}, {"A": "3"}) == {"A": "3", "B": "1"}
