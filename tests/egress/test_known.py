"""Known hosts: names as they come from the wire, and a list that is in order."""

import pytest

from llmshield.egress import known


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("api.openai.com", "OpenAI"),
        ("API.OpenAI.com.", "OpenAI"),
        ("eu.api.openai.com", "OpenAI"),
        ("xapi.openai.com", None),
        ("api.openai.com.evil.example", None),
        ("my-resource.openai.azure.com", "Azure OpenAI"),
        ("a.b.openai.azure.com", None),
        ("bedrock-runtime.eu-central-1.amazonaws.com", "Amazon Bedrock"),
        ("bedrock-runtime.eu-central-1.amazonaws.com.cn", None),
        ("us-central1-aiplatform.googleapis.com", "Google Vertex AI"),
        ("storage.googleapis.com", None),
        ("", None),
    ],
)
def test_whose_host_it_is(host: str, provider: str | None) -> None:
    assert known.provider_of(host) == provider


def test_the_list_is_names_in_lower_case() -> None:
    assert len(known.hosts()) > 60
    for host, name in known.hosts().items():
        assert host == host.lower().strip("."), host
        assert name.strip()
        assert set(host) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-*"), host
