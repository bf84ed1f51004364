"""`egress:`: hosts and their providers, what they may look like, and what else stands there."""

from __future__ import annotations

from typing import Any

import pytest

from llmshield.policy.egress import Egress

TWO = "version: 1\nproviders: {openai: {dialect: openai}, azure: {dialect: openai}}\negress:\n"


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("api.openai.com", "openai"),
        ("API.OpenAI.com.", "openai"),
        ("xapi.openai.com", None),
        ("api.openai.com.evil.example", None),
        ("eu.azure.example", "azure"),
        ("a.b.azure.example", "azure"),
        ("azure.example", None),
        ("xazure.example", None),
        ("eu.special.azure.example", "openai"),
        ("", None),
    ],
)
def test_whom_a_host_stands_for(host: str, provider: str | None) -> None:
    egress = Egress.model_validate(
        {
            "hosts": {
                "Api.openai.com": "openai",
                "*.azure.example": "azure",
                "*.special.azure.example": "openai",
            }
        }
    )

    assert provider == egress.provider_of(host)


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("  hosts: {api.openai.com: openai, '*.azure.example': azure}", set()),
        ("  hosts: {api.openai.com: opnai}", {"LS301"}),
        ("  hosts: {api.openai.com: app}", {"LS301"}),
        ("  hosts: {}", {"LS319"}),
        ("  hosts: {'*': openai}", {"LS206"}),
        ("  hosts: {'api.*.com': openai}", {"LS206"}),
        ("  hosts: {'https://api.openai.com': openai}", {"LS206"}),
        ("  hosts: {10.0.0.1: openai}", {"LS206"}),
        ("  hosts: {api.openai.com: openai}\n  unlisted: allow", {"LS203"}),
        ("  hosts: {api.openai.com: openai}\n  bypass: {hosts: [other.example]}", {"LS319"}),
        ("  hosts: {api.openai.com: openai}\n  bypass: {clients: [10.0.0.0/33]}", {"LS206"}),
        ("  hosts: {api.openai.com: openai}\n  ports: []", {"LS205"}),
        ("  hosts: {api.openai.com: openai}\n  ports: [70000]", {"LS205"}),
        ("  hosts: {api.openai.com: openai}\n  on_crash: open", {"LS203"}),
        (
            "  hosts: {api.openai.com: openai}\n  mode: transparent\n  listen: '[::1]:8080'\n  ca: /var/lib/ca\n"
            "  websocket: pass\n  grpc: pass\n  on_no_sni: block\n  ports: [443]",
            set(),
        ),
    ],
)
def test_findings(text: str, codes: set[str], judge: Any) -> None:
    findings = judge(TWO + text)[1]

    assert codes == {item.code for item in findings}, "\n".join(map(str, findings))


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("identify: [address]\nidentity: {address: {10.0.0.0/8: acme}}", set()),
        ("identify: [address]\nidentity: {address: {10.0.0.0/8: nobody}}", {"LS304"}),
        ("identify: [address]\nidentity: {address: {nowhere: acme}}", {"LS206"}),
        ("identify: [address]", {"LS202"}),
        ("identity: {sni: {a.test: acme}}", {"LS319"}),
        ("identify: [sni, uid]\nidentity: {sni: {a.test: acme}, uid: {'1000': acme}}", set()),
        ("identify: [uid]\nidentity: {uid: {root: acme}}", {"LS206"}),
        ("identify: ['uid:1000']\nidentity: {uid: {'1000': acme}}", {"LS305"}),
    ],
)
def test_who_is_calling(text: str, codes: set[str], judge: Any) -> None:
    findings = judge(f"version: 1\ntenants: {{acme: {{}}}}\n{text}")[1]

    assert codes <= {item.code for item in findings}, "\n".join(map(str, findings))
    assert bool(codes) == bool(findings)
