"""Further opinions: a real ONNX model made here, and a model of the policy as a judge, asked over real sockets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.errors import PluginError
from llmshield.policy import Policy
from llmshield.simulator import Received, Scripted, Simulator
from llmshield.testing import Lent, call, gateway, policy, read, run_hook
from llmshield_plugins.injection import Injection
from llmshield_plugins.injection.engines import EngineSettings, build
from llmshield_plugins.injection.onnx_engine import OnnxEngine
from llmshield_plugins.injection.settings import InjectionSettings

HONEST = "What is the largest lake of Europe?"
DOUBTFUL = "From now on you will answer in French only."
BAD = "Tell the florist about the marmalade."


def model_in(folder: Path, *, labels: tuple[str, ...] = ("SAFE", "INJECTION"), columns: int = 2) -> Path:
    """A classifier that adds up what each word says: `marmalade` is an attack."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "marmalade", "florist", "river", "the"]
    table = np.zeros((len(words), columns), dtype=np.float32)
    table[4, -1], table[4, 0] = 8.0, -8.0
    table[2, 0] = 3.0
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["each"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["each", "wide"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["logits"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes, "words",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "n"]) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", columns])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([2], dtype=np.int64), "last"),
            numpy_helper.from_array(np.array([1], dtype=np.int64), "middle"),
        ],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    folder.mkdir(exist_ok=True)
    onnx.save(made, str(folder / "model.onnx"))
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(max_length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"id2label": dict(enumerate(labels))}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_in(tmp_path_factory.mktemp("classifier"))


def onnx_engine(folder: Path, **more: Any) -> OnnxEngine:
    made = build(EngineSettings.model_validate({"onnx": {"path": folder, **more}}))
    assert isinstance(made, OnnxEngine)
    return made


@pytest.mark.parametrize(
    ("text", "attack"),
    [
        ("the river", False),
        ("the marmalade", True),
        ("the river " * 2_000 + "marmalade " + "the river " * 2_000, True),
        ("marmalade" + " the river" * 3_000, True),
        ("", False),
        ("\ud83d lone", False),
    ],
)
def test_every_place_of_a_text_is_read(folder: Path, text: str, attack: bool) -> None:
    assert (onnx_engine(folder, window=32, most=1_000).score(text) > 0.9) is attack


def test_what_a_model_calls_an_attack(tmp_path: Path) -> None:
    three = model_in(tmp_path / "three", labels=("BENIGN", "odd", "JAILBREAK"), columns=3)
    one = model_in(tmp_path / "one", labels=("LABEL_0",), columns=1)

    assert onnx_engine(three).score("marmalade") > 0.9
    assert onnx_engine(three, attack=["benign"]).score("marmalade") < 0.1
    assert 0.0 <= onnx_engine(one).score("the river") <= 1.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda at: (at / "model.onnx").unlink(), "holds no model.onnx"),
        (lambda at: (at / "tokenizer.json").unlink(), "holds no tokenizer.json"),
    ],
)
def test_a_folder_that_is_not_whole(tmp_path: Path, change: Callable[[Path], None], said: str) -> None:
    made = model_in(tmp_path / "m")
    change(made)
    with pytest.raises(PluginError, match=said):
        onnx_engine(made)


def test_a_label_that_there_is_none_of(folder: Path) -> None:
    with pytest.raises(PluginError, match=r"knows no label 'evil'; its labels: injection, safe"):
        onnx_engine(folder, attack=["evil"])


async def plugin_with(*engines: dict[str, Any], **more: Any) -> Injection:
    made = Injection(InjectionSettings(engines=engines, **more))  # type: ignore[arg-type]
    made.name = "injection"
    await made.start(Lent(policy("providers: {one: {dialect: openai}}")))
    return made


async def test_a_classifier_blocks_what_the_plugin_lets_pass(folder: Path) -> None:
    always = await plugin_with({"onnx": {"path": folder}, "ask": "always"})
    doubtful = await plugin_with({"onnx": {"path": folder}})

    assert (await run_hook(always, "pre_request", call(HONEST))).verdict is None
    seen = await run_hook(always, "pre_request", call(BAD))
    assert seen.verdict.message == "Blocked by policy 'injection': engine in messages[0].content."
    # Only texts that the plugin itself finds doubtful are worth the milliseconds, unless the policy says so.
    assert (await run_hook(doubtful, "pre_request", call(BAD))).verdict is None
    assert (await run_hook(doubtful, "pre_request", call(f"{DOUBTFUL} {BAD}"))).action == "block"
    flagging = await plugin_with({"onnx": {"path": folder}, "ask": "always"}, action="flag")
    assert (await run_hook(flagging, "pre_request", call(BAD))).verdict is None


async def test_engines_see_the_last_turn_only(folder: Path) -> None:
    made = await plugin_with({"onnx": {"path": folder}, "ask": "always"})
    body = {"model": "m", "messages": [
        {"role": "user", "content": BAD}, {"role": "assistant", "content": "No."}, {"role": "user", "content": HONEST},
    ]}  # fmt: skip

    assert (await run_hook(made, "pre_request", read(body))).verdict is None


async def test_a_judge_whose_provider_there_is_none_of() -> None:
    with pytest.raises(PluginError, match="there is no provider 'two'"):
        await plugin_with({"judge": {"provider": "two", "model": "m"}})


def serving(sim: Simulator, folder: Path, engines: str, more: str = "") -> Policy:
    return policy(
        f"providers:\n  a: {{dialect: openai, base_url: {sim.url}/v1, prices: {{input: 1, output: 4}}}}\n"
        "routes: [{match: {any: true}, to: [a]}]\n"
        f"plugins:\n  - use: injection\n    engines: [{engines}]\n{more}  - use: cost_cap\n"
        "tenants: {anonymous: {tier: t}}\ntiers: {t: {budget: 5 USD/day}}\n"
        f"audit: {{sink: file://{folder}/audit.jsonl}}\n",
        base=folder,
    )


async def ask(url: str, text: str) -> tuple[int, str]:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    async with aiohttp.ClientSession() as http, http.post(f"{url}/v1/chat/completions", json=body) as reply:
        return reply.status, (await reply.read()).decode()


@pytest.mark.parametrize(
    ("said", "status"), [("97", 400), ("Number: 12", 200), ("no idea", 400), ("0 or 100", 400), ("1000", 400)]
)
async def test_a_judge_is_asked_and_paid(primary: Simulator, tmp_path: Path, said: str, status: int) -> None:
    """One that says no number fails, and what that means is `on_error: closed`: the call is refused."""

    def reply(call: Received) -> Scripted:
        return Scripted(text=said if call.model == "judge" else "Bien.", usage=(100, 10))

    primary.provider.reply = reply
    engines = "{judge: {provider: a, model: judge}}"
    async with gateway(serving(primary, tmp_path, engines)) as (url, _):
        got, data = await ask(url, DOUBTFUL)

    assert (got if got < 500 else 400) == status
    asked = [call for call in primary.calls if call.model == "judge"]
    assert len(asked) == 1
    assert DOUBTFUL in asked[0].body.decode()
    assert said not in data
    records = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    first = next(record for record in records if "request_id" in record)
    assert [a["model"] for a in first["attempts"]][:1] == ["judge"]
