"""The responses API: items, repeated texts, sequence numbers, and every way to end."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmshield.call import AttachedFilter, Call, Usage
from llmshield.dialects import WireRequest
from llmshield.dialects._sse import write_event
from llmshield.dialects._tree import dump, parse_body
from llmshield.dialects.openai_responses import OpenAIResponses
from llmshield.errors import CallError, WireError

API = OpenAIResponses()
MANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(**body) -> Call:
    raw = dump({"model": "gpt-5", "input": "hi", **body})
    return API.read_call("c1", "generate", WireRequest("POST", "/v1/responses", body=raw), parse_body(raw))


def texts(call: Call) -> list[tuple]:
    return [(text.role, text.place, text.value) for text in call.texts if not text.is_name]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"input": "a"}, [("user", "/input", "a")]),
        ({"input": "", "instructions": "be nice"}, [("user", "/instructions", "be nice")]),
        ({"input": [{"role": "developer", "content": "a"}]}, [("system", "/input/0/content", "a")]),
        (
            {"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]}]},
            [("user", "/input/0/content/0/text", "a")],
        ),
        (
            {"input": [{"role": "assistant", "content": [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"}]}]},
            [("assistant", "/input/0/content/0/text", "a"), ("assistant", "/input/0/content/1/refusal", "b")],
        ),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a":12}'}]},
            [("tool", "/input/0/name", "f"), ("tool", "/input/0/arguments/a", "12")],
        ),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": "done: a b"}]},
            [("tool", "/input/0/output", "done: a b")],
        ),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "x"}]}]},
            [("tool", "/input/0/output/0/text", "x")],
        ),
        (
            {"input": [{"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "{free"}]},
            [("tool", "/input/0/name", "f"), ("tool", "/input/0/input", "{free")],
        ),
        (
            {"input": [{"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]}]},
            [("assistant", "/input/0/summary/0/text", "hm")],
        ),
        (
            {"input": [{"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["cat", "a b"]}}]},
            [("tool", "/input/0/action/type", "exec"), ("tool", "/input/0/action/command/0", "cat"), ("tool", "/input/0/action/command/1", "a b")],
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"description": "d e"}}}},
            [("user", "/input", "hi"), ("tool", "/text/format/name", "n"), ("tool", "/text/format/schema/description", "d e")],
        ),
        (
            {"input": None, "prompt": {"id": "pmpt_1", "version": "2", "variables": {"city": "a b", "doc": {"type": "input_text", "text": "c"}}}},
            [("user", "/prompt/variables/city", "a b"), ("user", "/prompt/variables/doc/text", "c")],
        ),
    ],
)  # fmt: skip
def test_every_text_has_its_role_and_place(body, expected):
    assert texts(read(**body)) == expected


@pytest.mark.parametrize(
    ("body", "unseen"),
    [
        ({}, []),
        ({"previous_response_id": "resp_1"}, ["previous_response_id"]),
        ({"previous_response_id": None, "conversation": None, "prompt": None, "background": False}, []),
        ({"conversation": {"id": "conv_1"}}, ["conversation"]),
        ({"conversation": "conv_1"}, ["conversation"]),
        ({"prompt": {"id": "p"}}, ["prompt_id"]),
        ({"background": True}, ["background"]),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, ["item_reference"]),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, ["item_reference"]),
        ({"input": [{"type": "reasoning", "encrypted_content": "gAAAA+/="}]}, ["encrypted_content"]),
        (
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_image", "image_url": "https://x.example"}]}
                ]
            },
            ["image_url"],
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}]},
            ["file_id"],
        ),
        (
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_file", "file_url": "https://x.example"}]}
                ]
            },
            ["file_url"],
        ),
        ({"input": [{"type": "image_generation_call", "result": "iVBORw0KGgo="}]}, ["image_data"]),
        (
            {
                "tools": [
                    {"type": "web_search"},
                    {"type": "function", "name": "f"},
                    {"type": "mcp", "server_url": "u"},
                ]
            },
            ["server_tool:web_search", "server_tool:mcp"],
        ),
    ],
)
def test_what_the_provider_holds_or_runs_is_marked(body, unseen):
    assert read(**body).unseen == unseen


def test_sealed_reasoning_travels_verbatim():
    call = read(input=[{"type": "reasoning", "summary": [], "encrypted_content": "gAAAAAB" + "+/=x" * 500}])

    assert call.texts == []
    assert read(input=[{"type": "reasoning", "encrypted_content": "no seal but words"}]).texts != []


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"input": 5}, "/input"),
        ({"input": {"role": "user"}}, "/input"),
        ({"max_output_tokens": "9"}, "/max_output_tokens"),
        ({"max_output_tokens": -1}, "/max_output_tokens"),
        ({"stream": "x"}, "/stream"),
        ({"model": []}, "/model"),
        ({"Max_Output_Tokens": 9}, ""),
    ],
)
def test_what_we_rely_on_must_have_its_type(body, place):
    with pytest.raises(WireError) as caught:
        read(**body)
    assert caught.value.place == place


def test_bounds_and_paths():
    call = read(max_output_tokens=50)
    body = API.write_call(call, "gpt-5-mini")
    API.clamp(body, 20)

    assert (call.output_bound, API.bound(body), body["model"]) == (50, 20, "gpt-5-mini")
    assert API.target(call, "m") == ("/responses", "")
    for path in ("/v1/responses/resp_1", "/v1/responses/resp_1/cancel", "/v1/responses/input_tokens"):
        assert [API.claims(method, path, {}) for method in ("GET", "DELETE", "POST")] == [None] * 3


# Replies

LOGPROBS = [{"token": "sec", "logprob": -1}, {"token": "ret", "logprob": -1}]
OUTPUT = [
    {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "a secret"}], "encrypted_content": "secret"},
    {
        "id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
        "content": [
            {
                "type": "output_text", "text": "secret", "logprobs": LOGPROBS,
                "annotations": [{"type": "url_citation", "title": "the secret", "url": "u", "start_index": 1, "end_index": 2}],
            },
            {"type": "refusal", "refusal": "secret!"},
        ],
    },
    {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"a":"\\u0073ecret"}', "status": "completed"},
    {"id": "ct_1", "type": "custom_tool_call", "call_id": "call_2", "name": "g", "input": "{secret"},
    {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "secret"}},
    {"id": "ci_1", "type": "code_interpreter_call", "code": "secret", "outputs": [{"type": "logs", "logs": "secret"}]},
    {"id": "ig_1", "type": "image_generation_call", "result": "secretsecret"},
    {"id": "mc_1", "type": "mcp_call", "name": "f", "arguments": '{"a":"secret"}', "output": "secret", "server_label": "s"},
]  # fmt: skip


def response(output, **more) -> dict:
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "gpt-5-2025",
        "error": None, "incomplete_details": None, "instructions": "keep the secret", "output": output,
        "tools": [{"type": "function", "name": "secret"}], "metadata": {}, "text": {"format": {"type": "text"}},
        "usage": {
            "input_tokens": 5, "output_tokens": 9, "total_tokens": 14,
            "input_tokens_details": {"cached_tokens": 2}, "output_tokens_details": {"reasoning_tokens": 3},
        },
        **more,
    }  # fmt: skip


SENT = {"instructions": "keep the secret", "tools": [{"type": "function", "name": "secret"}]}
"""What `response` repeats."""


def test_every_text_of_a_whole_reply_is_filtered_and_the_echo_of_the_request_is_not(filtered, replacing):
    reply = API.read_reply(read(**SENT), response(json.loads(json.dumps(OUTPUT))))
    tree = filtered(reply, replacing("secret", "X"))
    out = tree["output"]

    assert out[0]["summary"][0]["text"] == "a X"
    assert out[0]["encrypted_content"] == "secret"
    assert out[1]["content"][0] == {
        "type": "output_text", "text": "X", "logprobs": None,
        "annotations": [{"type": "url_citation", "title": "the X", "url": "u", "start_index": None, "end_index": None}],
    }  # fmt: skip
    assert out[1]["content"][1]["refusal"] == "X!"
    assert json.loads(out[2]["arguments"]) == {"a": "X"}
    assert out[3]["input"] == "{X"
    assert out[4]["action"]["query"] == "X"
    assert (out[5]["code"], out[5]["outputs"][0]["logs"]) == ("X", "X")
    assert out[6]["result"] == "secretsecret"
    assert (out[7]["arguments"], out[7]["output"]) == ('{"a":"X"}', "X")
    assert (tree["instructions"], tree["tools"][0]["name"]) == ("keep the secret", "secret")
    assert reply.usage == Usage(
        5,
        9,
        cache_read=2,
        reasoning=3,
        tool_requests=1,
        tools={"code_interpreter": 1, "image_generation": 1, "mcp": 1},
    )
    assert (reply.finish, reply.model) == ("tool_calls", "gpt-5-2025")


@pytest.mark.parametrize(
    ("more", "finish"),
    [
        ({}, "stop"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ({"status": "incomplete", "incomplete_details": None}, "length"),
        ({"status": "failed"}, "error"),
        ({"status": "queued"}, None),
        ({"status": 5}, None),
    ],
)
def test_how_a_response_ended(more, finish):
    assert API.read_reply(read(), response([], **more)).finish == finish


@pytest.mark.parametrize(
    "tree", [None, [], {}, {"output": None}, {"output": [1]}, response([], error={"code": "server_error"})]
)
def test_what_is_no_response_is_an_error(tree):
    assert API.read_reply(read(), tree).error is not None


# Streams


def events(*trees: dict) -> bytes:
    return b"".join(
        write_event(
            {**tree, "type": f"response.{tree['type']}", "sequence_number": number},
            f"response.{tree['type']}",
        )
        for number, tree in enumerate(trees)
    )


TEXT = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
CALL = {"item_id": "fc_1", "output_index": 1}
FINAL = [
    {"id": "msg_1", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "my secret se", "annotations": []}]},
    {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": '{"to":"secret"}'},
]  # fmt: skip


def _stream() -> bytes:
    return events(
        {"type": "created", "response": response([], status="in_progress", usage=None)},
        {"type": "output_item.added", "output_index": 0, "item": {**FINAL[0], "content": []}},
        {
            "type": "content_part.added",
            **TEXT,
            "part": {"type": "output_text", "text": "", "annotations": []},
        },
        {"type": "output_text.delta", **TEXT, "delta": "my sec", "logprobs": []},
        {"type": "output_text.delta", **TEXT, "delta": "ret se", "logprobs": [], "obfuscation": "x8"},
        {"type": "output_text.done", **TEXT, "text": "my secret se", "logprobs": []},
        {"type": "content_part.done", **TEXT, "part": FINAL[0]["content"][0]},
        {"type": "output_item.done", "output_index": 0, "item": FINAL[0]},
        {"type": "output_item.added", "output_index": 1, "item": {**FINAL[1], "arguments": ""}},
        {"type": "function_call_arguments.delta", **CALL, "delta": '{"to":"se'},
        {"type": "function_call_arguments.delta", **CALL, "delta": 'cret"}'},
        {"type": "function_call_arguments.done", **CALL, "arguments": '{"to":"secret"}'},
        {"type": "output_item.done", "output_index": 1, "item": FINAL[1]},
        {"type": "completed", "response": response(FINAL)},
    )


STREAM = _stream()


@MANY
@given(cuts=st.lists(st.integers(0, 9000), max_size=12))
def test_a_text_says_the_same_everywhere_it_appears(cuts, relay, replacing):
    codec = API.open_stream(read(stream=True, **SENT))
    got = relay(codec, STREAM, replacing("secret", "X"), cuts)
    by_type: dict[str, list] = {}
    for tree in got.trees:
        by_type.setdefault(tree["type"].removeprefix("response."), []).append(tree)
    joined = "".join(tree["delta"] for tree in by_type["output_text.delta"])

    assert joined == "my X se"
    assert by_type["output_text.done"][0]["text"] == joined
    assert by_type["content_part.done"][0]["part"]["text"] == joined
    assert by_type["output_item.done"][0]["item"]["content"][0]["text"] == joined
    assert "".join(tree["delta"] for tree in by_type["function_call_arguments.delta"]) == '{"to":"X"}'
    assert by_type["function_call_arguments.done"][0]["arguments"] == '{"to":"X"}'
    last = by_type["completed"][0]["response"]
    assert last["output"][0]["content"][0]["text"] == joined
    assert last["output"][1]["arguments"] == '{"to":"X"}'
    assert last["instructions"] == "keep the secret"
    assert [tree["sequence_number"] for tree in got.trees] == list(range(len(got.trees)))
    assert len(got.trees) == STREAM.count(b"\n\n") + 1, "one delta for what was held when the text was done"
    assert (codec.ended, codec.finish, codec.model) == (True, "tool_calls", "gpt-5-2025")
    assert codec.usage == Usage(5, 9, cache_read=2, reasoning=3)


def test_what_is_echoed_of_no_prompt_is_put_back(relay, replacing):
    more = {"user": "secret", "metadata": {"who": "secret"}, "safety_identifier": "x"}
    raw = events(
        {"type": "created", "response": response([], **more)},
        {"type": "completed", "response": response([], **more)},
    )
    got = relay(API.open_stream(read(stream=True)), raw, replacing("secret", "ann"))

    for tree in got.trees:
        assert (tree["response"]["user"], tree["response"]["metadata"]) == ("ann", {"who": "ann"})
        assert tree["response"]["instructions"] == "keep the ann"


ECHOED = {
    "instructions": "call <P> at noon",
    "tools": [{"type": "function", "name": "f", "parameters": {"properties": {"<P>": {"description": "as <P> says"}}}}],
    "prompt": {"id": "pmpt_1", "variables": {"who": "<P>"}},
    "metadata": {"who": "<P>"},
    "user": "<P>",
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"description": "what <P> said"}}},
}  # fmt: skip
"""A request as it was sent, with a placeholder for a value."""


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("field", ECHOED)
def test_values_come_back_in_what_is_echoed_and_guards_do_not_judge_it(
    field, streams, relay, filtered, replacing
):
    (restore,) = replacing("<P>", "ann")
    (guard,) = replacing("<P>", "seen by a guard")
    filters = [guard, AttachedFilter("r", restore.factory, "restore", 64, True, False)]
    call = read(stream=streams, **{field: json.loads(json.dumps(ECHOED[field]))})
    tree = response([], **{field: json.loads(json.dumps(ECHOED[field]))})
    if streams:
        raw = events({"type": "created", "response": tree}, {"type": "completed", "response": tree})
        found = [got["response"] for got in relay(API.open_stream(call), raw, filters).trees]
    else:
        found = [filtered(API.read_reply(call, tree), filters)]

    expected = json.loads(json.dumps(ECHOED[field]).replace("<P>", "ann"))
    assert [got[field] for got in found] == [expected] * len(found)


@pytest.mark.parametrize("field", ["instructions", "tools", "prompt"])
@pytest.mark.parametrize("sent", [True, False])
def test_what_a_held_prompt_brings_with_it_is_judged(field, sent, filtered, replacing):
    """`prompt: {id}`: the response shows the instructions that the provider holds, and nobody has seen them."""
    held = json.loads(json.dumps(ECHOED[field]).replace("<P>", "secret"))
    body = {field: ECHOED[field]} if sent else {}
    tree = filtered(API.read_reply(read(**body), response([], **{field: held})), replacing("secret", "X"))

    assert tree[field] == json.loads(json.dumps(held).replace("secret", "X"))


def test_a_stream_that_nothing_changes_comes_out_as_it_went_in(relay, replacing):
    assert relay(API.open_stream(read(stream=True)), STREAM).raw == STREAM
    assert relay(API.open_stream(read(stream=True)), STREAM, replacing("never", "")).raw == STREAM


@pytest.mark.parametrize(
    ("kind", "field", "more"),
    [
        ("refusal", "refusal", {"content_index": 0}),
        ("reasoning_text", "text", {"content_index": 0}),
        ("reasoning_summary_text", "text", {"summary_index": 1}),
        ("custom_tool_call_input", "input", {}),
        ("mcp_call_arguments", "arguments", {}),
        ("code_interpreter_call_code", "code", {}),
        ("shell_call_command", "command", {"command_index": 0}),
        ("output_audio_transcript", "transcript", {}),
        ("something_new", "text", {"content_index": 2}),
    ],
)
def test_every_kind_of_delta_is_a_channel_and_its_end_repeats_it(kind, field, more, relay, replacing):
    place = {"item_id": "i_1", "output_index": 3, **more}
    raw = events(
        {"type": f"{kind}.delta", **place, "delta": '"a se'},
        {"type": f"{kind}.delta", **place, "delta": 'cret s"'},
        {"type": f"{kind}.done", **place, field: '"a secret s"'},
        {"type": "completed", "response": response([])},
    )
    got = relay(API.open_stream(read(stream=True)), raw, replacing("secret", "X"))
    deltas = [tree["delta"] for tree in got.trees if tree["type"].endswith(".delta")]
    done = next(tree for tree in got.trees if tree["type"].endswith(".done"))

    assert "".join(deltas) == '"a X s"' == done[field]


def test_what_a_shell_printed_is_a_channel_for_each_of_its_streams(relay, replacing):
    place = {"item_id": "i_1", "output_index": 3}

    def printed(command, **streams):
        return {
            "type": "shell_call_output_content.delta",
            **place,
            "command_index": command,
            "delta": streams,
        }

    raw = events(
        printed(0, stdout='"a sec', stderr="no se"),
        printed(1, stdout="ret, a sec", stderr=""),
        printed(0, stdout='ret\n" se', stderr="cret"),
        {"type": "shell_call_output_content.done", **place, "command_index": 0, "output": [
            {"stdout": '"a secret\n" se', "stderr": "no secret", "outcome": {"type": "exit", "exit_code": 0}}]},
        printed(1, stdout="ret.", stderr=""),
        {"type": "output_item.done", "output_index": 3, "item": {"type": "shell_call_output", "output": []}},
        {"type": "completed", "response": response([])},
    )  # fmt: skip
    got = relay(API.open_stream(read(stream=True)), raw, replacing("secret", "X"))
    said: dict[tuple[int, str], str] = {}
    for tree in got.trees:
        for stream, text in tree["delta"].items() if "delta" in tree else ():
            said[tree["command_index"], stream] = said.get((tree["command_index"], stream), "") + text

    assert said == {
        (0, "stdout"): '"a X\n" se',
        (0, "stderr"): "no X",
        (1, "stdout"): "ret, a X.",
        (1, "stderr"): "",
    }
    done = next(tree for tree in got.trees if tree["type"].endswith("content.done"))
    assert [done["output"][0][stream] for stream in ("stdout", "stderr")] == [
        said[0, "stdout"],
        said[0, "stderr"],
    ]
    assert [tree["sequence_number"] for tree in got.trees] == list(range(len(got.trees)))


@pytest.mark.parametrize("kind", ["output_text", "something_new"])
def test_text_that_is_left_of_an_unknown_text_is_no_json(kind, relay, replacing):
    raw = events(
        {"type": f"{kind}.delta", **TEXT, "delta": '"a"\n"b"'},
        {"type": "completed", "response": response([])},
    )
    got = relay(API.open_stream(read(stream=True)), raw, replacing('"a"\n"b"c', ""))

    assert "".join(tree.get("delta", "") for tree in got.trees) == '"a"\n"b"'


def test_texts_that_end_without_done_come_out_before_the_last_event(relay, replacing):
    raw = events(
        {"type": "output_text.delta", **TEXT, "delta": "a secre"},
        {"type": "completed", "response": response([])},
    )
    got = relay(API.open_stream(read(stream=True)), raw, replacing("secret", "X"))

    assert [tree.get("delta") for tree in got.trees] == ["a ", "secre", None]
    assert got.trees[1]["item_id"] == "msg_1"


def test_log_probabilities_beside_deltas():
    codec = API.open_stream(read(stream=True))
    (good,) = codec.feed(
        events({"type": "output_text.delta", **TEXT, "delta": "secret", "logprobs": LOGPROBS})
    )
    (lying,) = codec.feed(events({"type": "output_text.delta", **TEXT, "delta": "hi", "logprobs": LOGPROBS}))
    (bare,) = codec.feed(events({"type": "output_text.delta", **TEXT, "delta": "", "logprobs": LOGPROBS}))

    assert good.pieces[0].shadows == ((good.tree, "logprobs"),)
    assert good.tree["logprobs"] == LOGPROBS
    assert lying.tree["logprobs"] == bare.tree["logprobs"] == []


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({"type": "failed", "response": response([], status="failed", error={"code": "server_error", "message": "x"})}, "error_in_stream"),
        ({"type": "failed", "response": {"error": {"code": "context_length_exceeded"}}}, "context_length"),
        ({"type": "completed"}, "malformed"),
    ],
)  # fmt: skip
def test_streams_that_fail(tree, reason, relay):
    got = relay(API.open_stream(read(stream=True)), events(tree))

    assert got.error is not None
    assert got.error.reason == reason


def test_usage_of_a_failed_response_is_metered():
    codec = API.open_stream(read(stream=True))
    codec.feed(events({"type": "failed", "response": response([], error={"code": "x"})}))

    assert codec.usage is not None
    assert codec.usage.output == 9


def test_an_error_event_is_an_error():
    codec = API.open_stream(read(stream=True))
    (event,) = codec.feed(write_event({"type": "error", "code": "server_error", "message": "x"}, "error"))

    assert event.error is not None
    assert event.error.code == "server_error"


def test_a_stop_is_a_failed_response_with_the_next_number(relay):
    codec = API.open_stream(read(stream=True))
    relay(codec, STREAM[: STREAM.index(b"event: response.output_text.done")])
    out = codec.stop(CallError("blocked", "No.", plugin="guard"))
    tree = json.loads(out.partition(b"\ndata: ")[2])

    assert out.startswith(b"event: response.failed\n")
    assert (tree["type"], tree["sequence_number"]) == ("response.failed", 5)
    assert tree["response"]["id"] == "resp_1"
    assert (tree["response"]["status"], tree["response"]["output"]) == ("failed", [])
    assert tree["response"]["error"] == {
        "code": "invalid_prompt",
        "message": "Blocked by policy 'guard': No.",
    }


def test_an_abort_has_an_error_object_so_that_the_sdk_raises():
    out = API.open_stream(read(stream=True)).abort(CallError("upstream_error", "broke"), "r")
    tree = json.loads(out.partition(b"\ndata: ")[2])

    assert (tree["type"], tree["code"], tree["sequence_number"]) == ("error", "upstream_error", 0)
    assert tree["error"]["message"] == "broke"
