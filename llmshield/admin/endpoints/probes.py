"""Ask a provider on purpose, to see whether it answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmshield.admin.access import Officer
from llmshield.admin.endpoints.providers import ProviderPath, known_provider
from llmshield.admin.house import House
from llmshield.admin.problems import Flaw, Problem
from llmshield.admin.shapes import ModelName, Shape, TenantPart, Usd
from llmshield.admin.table import Example, route
from llmshield.prices import usd
from llmshield.probing import LONGEST_S, TENANT


class Probe(Shape):
    """What to ask for."""

    ask: Literal["models", "generate"] = Field(
        default="models",
        description="`models`: its list of models, which costs nothing; `generate`: a few tokens.",
    )
    model: ModelName | None = Field(default=None, description="For `generate`: which model.")
    tenant: TenantPart = Field(default=TENANT, description="For `generate`: whose budget pays.")


class Probed(Shape):
    """How it went."""

    ok: bool
    ms: float = Field(description="From the question to the answer's end.")
    status: int | None = Field(description="The provider's status; null where it gave none.")
    reason: str | None = Field(
        description="Why it failed, in a word: `connect`, `timeout`, `status`, `circuit_open`, ..."
    )
    detail: str = Field(description="Why it failed, in a sentence.")
    models: int | None = Field(description="How many models it lists.")
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: Usd | None


@route(
    "POST", "/v1/providers/{provider}/test", role="operate", timeout_s=LONGEST_S + 5,
    example=Example(path="/v1/providers/openai/test", body={"ask": "models"}),
)  # fmt: skip
async def test_provider(house: House, who: Officer, path: ProviderPath, body: Probe) -> Probed:
    """Ask a provider on purpose: for its list of models, or for a few tokens of one.

    With the provider's own key, through its own dialect, 30 s at the most. `generate` is a call like any other: hooks,
    circuits and caps hold, its worst case is reserved before it is sent, it is recorded, and it asks for 16 tokens at
    the most. What it answers is not shown. A provider that fails is a 200 with `ok: false`.
    """
    name = known_provider(house, path.provider)
    if body.ask == "generate" and body.model is None:
        flaw = Flaw(place="body", at="model", message="found nothing, expected the model to ask")
        raise Problem("invalid", "Not as expected in the body: model.", errors=[flaw])
    detail = {"ask": body.ask, "model": body.model, "tenant": body.tenant if body.ask == "generate" else None}
    async with house.probing, house.change(who, "provider.test", name, detail) as done:
        if body.model is not None and body.ask == "generate":
            said = await house.runtime.probe.generate(name, body.model, body.tenant)
        else:
            said = await house.runtime.probe.models(name)
        done |= {"ok": said.ok, "status": said.status, "reason": said.reason}
    return Probed(
        ok=said.ok, ms=said.ms, status=said.status, reason=said.reason, detail=said.detail[:500], models=said.models,
        model=said.model, input_tokens=said.input_tokens, output_tokens=said.output_tokens,
        cost_usd=usd(said.cost_picousd) if said.cost_picousd is not None else None,
    )  # fmt: skip
