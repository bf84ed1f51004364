"""Kinds of user agents: SDKs and the apps of customers are no bots."""

import pytest

from llmshield_plugins.bots.agents import kind_of, missing_marks

CHROME = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
)

KINDS = [
    ("OpenAI/Python 3.51.0", "sdk"),
    ("AsyncOpenAI/Python 3.51.0", "sdk"),
    ("AzureOpenAI/Python 3.51.0", "sdk"),
    ("AsyncAzureOpenAI/Python 3.51.0", "sdk"),
    ("OpenAI/JS 6.49.0", "sdk"),
    ("Anthropic/Python 2.10.0", "sdk"),
    ("AsyncAnthropic/Python 2.10.0", "sdk"),
    ("Anthropic/JS 1.10.0", "sdk"),
    ("google-genai-sdk/3.3.0 gl-python/3.12.8", "sdk"),
    ("claude-cli/2.1.197 (external, cli)", "sdk"),
    ("codex_cli_rs/0.169.0 (Ubuntu 24.4.0; x86_64)", "sdk"),
    ("ai/6.0.326 ai-sdk/openai/2.0 runtime/node.js/24", "sdk"),
    ("litellm/1.106.2", "sdk"),
    ("pydantic-ai/2.62.0", "sdk"),
    ("curl/8.5.0", "library"),
    ("python-requests/2.32.3", "library"),
    ("python-httpx/0.28.1", "library"),
    ("Python/3.12 aiohttp/3.13", "library"),
    ("Go-http-client/2.0", "library"),
    ("axios/1.7.9", "library"),
    ("node", "library"),
    ("PostmanRuntime/7.43.0", "library"),
    (CHROME, "browser"),
    ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_2 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148", "browser"),
    (CHROME.replace("Chrome/", "HeadlessChrome/"), "tool"),
    ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "tool"),
    ("GPTBot/1.2", "tool"),
    ("Scrapy/2.12 (+https://scrapy.org)", "tool"),
    ("my-crawler", "tool"),
    ("sqlmap/1.9", "tool"),
    ("Mozilla/5.0 zgrab/0.x", "tool"),
    ("", "none"),
    ("   ", "none"),
    ("acme-mobile/4.2 (iOS 18.2)", "other"),
    ("support-chatbot/1.2", "other"),
    ("chat-bot-frontend/3", "other"),
    ("abbott-labs-app/1.0", "other"),
    ("Robotics-Dashboard/2", "other"),
]


@pytest.mark.parametrize(("agent", "kind"), KINDS)
def test_the_kind_of_a_client(agent: str, kind: str) -> None:
    assert kind_of(agent.lower(), {}) == kind


@pytest.mark.parametrize("name", ["x-stainless-lang", "x-goog-api-client"])
def test_an_sdk_is_known_by_its_headers(name: str) -> None:
    """Applications replace its user agent by their own."""
    assert kind_of("acme-backend/2", {name: "python"}) == "sdk"


MARKS = [
    ({"accept-language": "de", "sec-fetch-site": "same-origin", "origin": "https://app.example.com"}, 0.0),
    ({"accept-language": "de", "sec-fetch-mode": "cors", "referer": "https://app.example.com/"}, 0.0),
    ({"accept-language": "de", "origin": "https://app.example.com"}, 1 / 3),
    ({"accept-language": "de"}, 2 / 3),
    ({"accept": "*/*"}, 1.0),
]


@pytest.mark.parametrize(("headers", "missing"), MARKS)
def test_the_marks_of_a_browser(headers: dict[str, str], missing: float) -> None:
    assert missing_marks(headers) == pytest.approx(missing)
