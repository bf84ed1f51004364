"""Who has agreed, what is listened to, what is kept of it; each hook as the engine runs it."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield import registry, vault
from llmshield.call import Attempt, Channel, Reply
from llmshield.channels import Channels
from llmshield.errors import CallError, PluginError, PolicyError, SecretError, StoreUnavailable
from llmshield.filtering import filters_of
from llmshield.metrics import Metrics
from llmshield.steps import Took
from llmshield.testing import Lent, policy, read, run_hook

Plugin = registry.find("plugin", "transcripts")
YES = {"x-llmshield-consent": "transcripts"}
POLICY = """
providers: {openai: {dialect: openai, base_url: "http://127.0.0.1:9/v1"}}
tenants: {acme: {consent: [transcripts]}, other: {}}
plugins:
  - use: transcripts
    store: memory://
  - use: pii
"""


@pytest.fixture(autouse=True)
def master(monkeypatch):
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", vault.new_key())


async def started(text=POLICY, **settings):
    plugin = Plugin(Plugin.Settings(**{"store": "memory://", **settings}))
    await plugin.start(Lent(policy(text), Metrics()))
    return plugin


def asked(words="Hello", *, user="alice", headers=YES, tenant="other", clean=True, **body):
    call = read(
        {"model": "m", "messages": [{"role": "user", "content": words}], **body},
        headers=headers,
        tenant=tenant,
    )
    call.user = user
    call._trail = [Took("pii", "pre_request", "allow", True, 0.1)] if clean else []
    return call


def attempt_of(call, number=1, outcome="ok"):
    attempt = Attempt(call, number=number, provider="openai", model="m", dialect=call.dialect, body={})
    attempt.outcome = outcome
    return attempt


async def told(plugin, call, says=(("content", "Hello."),), *, outcome="ok", finish="stop", enforced=True):
    """What the plugin would keep of a call and a reply: the Told in its queue, or None; and what it reports."""
    plugin._writer._thread = None
    reply = Reply(provider="openai", model="m-1", dialect=call.dialect, stream=False)
    run = await run_hook(plugin, "post_response", call, reply, enforced=enforced)
    attempt = attempt_of(call, outcome=outcome)
    channels = Channels(filters_of(reply, attempt), lambda attached, what: None)
    for kind, text in says:
        channel = Channel(kind)
        assert channels.feed(channel, text) == text
    channels.flush_all()
    reply.finish = finish
    queued = []
    plugin._writer.put = queued.append
    for _, _, fn in reply._on_end:
        fn(reply)
    return (queued[0] if queued else None), [(each.type, each.action, each.place) for each in run.findings]


@pytest.mark.parametrize(
    ("headers", "tenant", "sources", "source"),
    [
        (YES, "other", ("header", "tenant"), "header"),
        (YES, "acme", ("header", "tenant"), "header"),
        (YES, "anonymous", ("header",), "header"),
        ({}, "acme", ("header", "tenant"), "tenant"),
        ({}, "acme", ("tenant",), "tenant"),
        ({}, "acme", ("header",), None),
        ({}, "other", ("header", "tenant"), None),
        ({}, "anonymous", ("header", "tenant"), None),
        (YES, "other", ("tenant",), None),
        (YES, "acme", ("tenant",), "tenant"),
        (YES, "acme", (), None),
        ({"x-llmshield-consent": " Transcripts "}, "other", ("header",), "header"),
        ({"x-llmshield-consent": "training, transcripts"}, "other", ("header",), "header"),
        ({"x-llmshield-consent": "none"}, "acme", ("header", "tenant"), None),
        ({"x-llmshield-consent": "transcripts, none"}, "acme", ("header", "tenant"), None),
        ({"x-llmshield-consent": "none"}, "acme", ("tenant",), None),
        ({"x-llmshield-consent": ""}, "acme", ("header", "tenant"), None),
        ({"x-llmshield-consent": "yes"}, "acme", ("header", "tenant"), None),
        ({"x-llmshield-consent": "true"}, "other", ("header", "tenant"), None),
        ({"x-llmshield-consent": "no-transcripts"}, "other", ("header", "tenant"), None),
        ({"x-llmshield-consent": "transcripts;q=0"}, "other", ("header", "tenant"), None),
        ({"x-llmshield-consent": "tran\u017fcripts"}, "other", ("header", "tenant"), None),
    ],
)
async def test_who_has_agreed(headers, tenant, sources, source):
    plugin = await started(consent=sources)
    kept, said = await told(plugin, asked(headers=headers, tenant=tenant))

    assert said == ([("transcript", "keep", source)] if source else [])
    assert (kept is not None) == (source is not None)
    assert kept is None or kept.about["consent"] == source
    await plugin.close()


@given(st.text(max_size=40))
def test_no_other_word_is_consent(said):
    plugin = Plugin(Plugin.Settings(store="memory://"))
    words = {word.strip().lower() for word in said.split(",")}

    consented = plugin._consented(asked(headers={"x-llmshield-consent": said})) is not None
    assert consented == ("transcripts" in words and "none" not in words)


@pytest.mark.parametrize(
    ("call", "enforced", "says"),
    [
        (lambda: asked(user=""), True, [("transcript", "nobody", "")]),
        (lambda: asked(user="a" * 1025), True, [("transcript", "nobody", "")]),
        (lambda: asked(clean=False), True, [("transcript", "unclean", "")]),
        (lambda: asked(), False, [("transcript", "would-keep", "")]),
    ],
)
async def test_what_is_not_kept_in_spite_of_consent(call, enforced, says):
    plugin = await started()
    kept, said = await told(plugin, call(), enforced=enforced)

    assert (kept, said) == (None, says)
    await plugin.close()


@pytest.mark.parametrize(
    "took",
    [
        Took("pii", "pre_request", "error", True, 0.1),
        Took("pii", "pre_request", "would-redact", False, 0.1),
        Took("pii", "post_response", "allow", True, 0.1),
        Took("secrets", "pre_request", "allow", True, 0.1),
    ],
)
async def test_a_cleaner_must_have_done_its_work(took):
    plugin = await started()
    call = asked()
    call._trail = [took]
    kept, said = await told(plugin, call)

    assert (kept, said) == (None, [("transcript", "unclean", "")])
    await plugin.close()


async def test_what_is_kept():
    plugin = await started(ttl="2h")
    call = asked("Hello, you.", stream=True)
    call.texts[0].replace(0, 5, "Hi")  # an edit of another plugin, as the engine applies it
    call.texts[0]._write("Hi, you.")
    kept, _ = await told(plugin, call, [("reasoning", "Hm."), ("content", "Good "), ("content", "day.")])

    assert kept.texts == [
        ["user", "/messages/0/content", "Hi, you."],
        ["output", "reasoning[0.0]", "Hm."],
        ["output", "content[0.0]", "Good day."],
    ]
    assert (kept.tenant, kept.user, kept.id) == ("other", "alice", call.id)
    assert abs(kept.until - time.time() - 7200) < 60
    about = dict(kept.about)
    assert about.pop("at").endswith("Z")
    assert about == {
        "dialect": "openai_chat", "model": "m", "answered_model": "m-1", "provider": "openai", "stream": False,
        "complete": True, "finish": "stop", "consent": "header", "cut": {"request": 0, "reply": 0},
        "input_tokens": None, "output_tokens": None,
    }  # fmt: skip
    await plugin.close()


@pytest.mark.parametrize(
    ("outcome", "finish", "says", "kept", "complete"),
    [
        ("ok", "stop", [("content", "a")], True, True),
        ("ok", "tool_calls", [], True, True),
        ("cancelled", None, [("content", "a")], True, False),
        ("failed", None, [("content", "a")], True, False),
        ("blocked", None, [("content", "a")], False, None),
        ("skipped", None, [], False, None),
    ],
)
async def test_how_replies_end(outcome, finish, says, kept, complete):
    plugin = await started()
    found, _ = await told(plugin, asked(), says, outcome=outcome, finish=finish)

    assert (found is not None) == kept
    assert found is None or found.about["complete"] is complete
    await plugin.close()


async def test_roles():
    plugin = await started(roles=["user"])
    call = read(
        {"model": "m", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]},
        headers=YES,
    )
    call.user, call._trail = "alice", [Took("pii", "pre_request", "redact", True, 0.1)]
    kept, _ = await told(plugin, call, [("content", "x")])
    assert kept.texts == [["user", "/messages/1/content", "u"]]
    await plugin.close()


@given(
    st.lists(st.text(max_size=400), max_size=6),
    st.lists(
        st.tuples(st.sampled_from(["content", "reasoning", "refusal"]), st.text(max_size=300)), max_size=8
    ),
)
def test_bounds(history, pieces):
    """The newest of a request and the first of a reply are kept, and what is cut is counted to the character."""

    async def run():
        plugin = await started(max_characters=256)
        body = {"model": "m", "messages": [{"role": "user", "content": each} for each in history]}
        call = read(body, headers=YES)
        call.user, call._trail = "alice", [Took("pii", "pre_request", "allow", True, 0.1)]
        kept, _ = await told(plugin, call, pieces)
        words = "".join(history)
        said = "".join(text for _, text in pieces)
        if kept is None:
            assert (words, said) == ("", "")
        else:
            request = "".join(text for role, _, text in kept.texts if role != "output")
            reply = [text for role, _, text in kept.texts if role == "output"]
            assert request == words[-256:]
            assert sum(map(len, reply)) == min(256, len(said))
            assert kept.about["cut"] == {
                "request": max(0, len(words) - 256),
                "reply": max(0, len(said) - 256),
            }
        await plugin.close()

    asyncio.run(run())


async def test_a_text_that_the_provider_says_again_at_the_end_is_kept_once():
    plugin = await started()
    call = asked()
    reply = Reply(provider="openai", model="m", dialect=call.dialect, stream=True)
    await run_hook(plugin, "post_response", call, reply)
    channels = Channels(filters_of(reply, attempt_of(call)), lambda attached, what: None)
    channel = Channel("content")
    for piece in ("Good ", "day"):
        channels.feed(channel, piece)
    channels.flush(channel)
    assert channels.repeat(channel, "Good day.") == "Good day."
    arguments = Channel("tool_arguments", index=1, tool="send")
    channels.feed(arguments, '{"to": "a\\u00e9", "n"')
    channels.feed(arguments, ": 12}")
    channels.flush_all()
    reply.finish = "tool_calls"
    queued = []
    plugin._writer.put = queued.append
    for _, _, fn in reply._on_end:
        fn(reply)
    assert [tuple(each[1:]) for each in queued[0].texts[1:]] == [
        ("content[0.0]", "Good day."), ("tool_arguments[0.1]/*", "ton"), ("tool_arguments[0.1]/to", "aé"),
        ("tool_arguments[0.1]/n", "12"),
    ]  # fmt: skip
    await plugin.close()


async def test_leaves_whose_names_are_not_shown_are_kept_each():
    plugin = await started()
    call = asked()
    reply = Reply(provider="openai", model="m", dialect=call.dialect, stream=True)
    await run_hook(plugin, "post_response", call, reply)
    channels = Channels(filters_of(reply, attempt_of(call)), lambda attached, what: None)
    channels.feed(Channel("tool_arguments"), '{"a b@c": "one", "d e@f": "one two"}')
    channels.flush_all()
    queued = []
    plugin._writer.put = queued.append
    for _, _, fn in reply._on_end:
        fn(reply)
    assert [tuple(each[1:]) for each in queued[0].texts[2:]] == [
        ("tool_arguments[0.0]/*", "one"), ("tool_arguments[0.0]/*", "one two"),
    ]  # fmt: skip
    await plugin.close()


async def test_what_is_cut_of_a_request_are_tools_first():
    plugin = await started(max_characters=256)
    tools = [{"type": "function", "function": {"name": "send", "description": "d" * 200, "parameters": {}}}]
    call = asked("w" * 150, tools=tools)
    kept, _ = await told(plugin, call)
    by_role = {
        role: sum(len(text) for who, _, text in kept.texts if who == role) for role in ("user", "tool")
    }
    assert by_role == {"user": 150, "tool": 106}
    assert kept.about["cut"]["request"] == sum(len(text.value) for text in call.prompts()) - 256
    assert kept.texts[0][1].startswith("/messages")
    await plugin.close()


async def test_an_erasure_while_a_call_is_asked_comes_before_what_it_says():
    """It began before, its reply begins after: it is of before."""
    plugin = await started()
    call = asked()
    plugin._transcripts.erase("somebody", None)
    kept, _ = await told(plugin, call)
    assert (kept.erasures, plugin._transcripts.people.erasures) == (0, 1)
    kept, _ = await told(plugin, asked())
    assert kept.erasures == 1
    await plugin.close()


async def test_several_attempts_leave_the_one_that_was_the_answer():
    plugin = await started()
    call = asked()
    reply = Reply(provider="a", model="m", dialect=call.dialect, stream=True)
    await run_hook(plugin, "post_response", call, reply)
    lines = []
    for number, outcome in enumerate(["cancelled", "ok", "failed"]):
        attempt = attempt_of(call, number, outcome)
        lines.append(Channels(filters_of(reply, attempt), lambda attached, what: None))
    for turn in range(3):  # they speak at once, as in a race
        for number, channels in enumerate(lines):
            channels.feed(Channel("content"), f"{number}{turn} ")
    reply.finish = "stop"
    queued = []
    plugin._writer.put = queued.append
    for _, _, fn in reply._on_end:
        fn(reply)
    assert [each[2] for each in queued[0].texts[1:]] == ["10 11 12 "]
    await plugin.close()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("store: 5", "store"),
        ("store: mysql://x", "expected one of memory, redis, sqlite"),
        ("ttl: -1s", "ttl"),
        ("consent: [verbal]", "consent"),
        ("max_characters: 5", "max_characters"),
        ("roles: [model]", "roles"),
        ("unknown: 1", "unknown"),
    ],
)
def test_what_a_policy_may_not_say(given, said):
    with pytest.raises(PolicyError) as caught:
        policy(POLICY.replace("store: memory://", given))
    assert said in str(caught.value)


def test_a_purpose_that_there_is_not():
    with pytest.raises(PolicyError, match="transcripts"):
        policy(POLICY.replace("consent: [transcripts]", "consent: [transcript]"))


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        (POLICY.replace("  - use: pii\n", ""), {}, "'pii', which is not in the policy"),
        (
            POLICY.replace("  - use: pii\n", "  - {use: pii, mode: monitor}\n"),
            {},
            "'pii', which is in mode: monitor",
        ),
        (POLICY, {"cleaned_by": ["pii", "secrets"]}, "'secrets', which is not in the policy"),
        (
            "server: {store: 'sqlite:///a.db'}\n" + POLICY,
            {"store": "sqlite:///a.db"},
            "may not be in `server.store`",
        ),
    ],
)
async def test_a_policy_that_would_never_keep_anything_does_not_start(text, settings, said):
    with pytest.raises(PluginError, match=said):
        await started(text, **settings)


async def test_kept_as_it_is_only_in_so_many_words():
    plugin = await started(POLICY.replace("  - use: pii\n", ""), cleaned_by=[])
    kept, _ = await told(plugin, asked(clean=False))
    assert kept is not None
    await plugin.close()


async def test_without_a_master_key_it_does_not_start(monkeypatch):
    monkeypatch.delenv("LLMSHIELD_SECRET_KEY")
    with pytest.raises(SecretError, match=r"LLMSHIELD_SECRET_KEY is not set.*vault key"):
        await started()


async def test_a_store_that_is_away_keeps_nobody_from_starting_unless_required():
    plugin = await started(store="redis://127.0.0.1:1/0")
    assert "pre_request" in plugin.idle
    assert plugin._writer.failure is not None
    await plugin.close()
    with pytest.raises(StoreUnavailable, match="nobody listens"):
        await started(store="redis://127.0.0.1:1/0", required=True)


async def test_required_refuses_who_could_not_be_kept():
    plugin = await started(required=True, queue=1)
    assert "pre_request" not in plugin.idle
    assert (await run_hook(plugin, "pre_request", asked())).verdict is None
    plugin._writer.failure = "the disk is full"

    with pytest.raises(CallError) as caught:
        await run_hook(plugin, "pre_request", asked())
    assert caught.value.kind == "store_unavailable"
    for call in (asked(headers={}), asked(user="")):
        assert (await run_hook(plugin, "pre_request", call)).verdict is None
    assert (await run_hook(plugin, "pre_request", asked(), enforced=False)).verdict is None
    await plugin.close()
