"""Addresses, networks and tenants that may not call."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from llmshield import blocks, clock
from llmshield.admin.access import Officer
from llmshield.admin.house import House
from llmshield.admin.problems import Problem
from llmshield.admin.shapes import Length, Moment, Query, Shape, Words, moment
from llmshield.admin.table import Example, route
from llmshield.blocks import Blocked
from llmshield.errors import ShieldError


def _target(text: str) -> str:
    try:
        return blocks.read_target(text)
    except ShieldError as error:
        raise PydanticCustomError("target", "{why}", {"why": str(error)}) from None


Target = Annotated[
    str,
    StringConstraints(min_length=3, max_length=140, pattern=r"^[!-~]+$"),
    AfterValidator(_target),
    Field(
        description="An address, a network or `tenant:NAME`; a single IPv6 address is its /64.",
        examples=["192.0.2.7", "2001:db8::/48", "tenant:acme"],
    ),
]


class Block(Shape):
    """Who may not call."""

    target: str = Field(description="An address, a network or `tenant:NAME`.")
    since: Moment | None = Field(description="When it was blocked.")
    until: Moment | None = Field(description="When that ends; null: not by itself.")
    reason: str = Field(description="For people; callers never see it.")


class BlockList(Shape):
    """All blocks that hold, the oldest first."""

    blocks: tuple[Block, ...]


class NewBlock(Shape):
    """Whom to block."""

    target: Target
    for_: Length | None = Field(
        default=None,
        alias="for",
        description="How long: `30m`, `24h`, `7d`; without it until it is taken back.",
    )
    reason: Words = Field(default="", description="For people; callers never see it.")


class BlockQuery(Query):
    """Which block."""

    target: Target


@route("GET", "/v1/blocks", role="read", example=Example())
async def list_blocks(house: House) -> BlockList:
    """Show who is blocked, until when and why."""
    return BlockList(blocks=tuple(_shown(each) for each in await blocks.everyone(house.store)))


@route(
    "POST", "/v1/blocks", role="operate", status=201,
    example=Example(body={"target": "192.0.2.7", "for": "24h", "reason": "credential stuffing"}),
)  # fmt: skip
async def add_block(house: House, who: Officer, body: NewBlock) -> Block:
    """Block an address, a network or a tenant; again to change how long.

    It holds in every process of the store within a second, before any plugin.
    """
    until_ms = int((clock.now() + body.for_) * 1000) if body.for_ is not None else 0
    detail = {"until": moment(until_ms), "reason": body.reason}
    async with house.change(who, "block.add", body.target, detail):
        made = await blocks.add(house.store, body.target, until_ms, body.reason)
    return _shown(made)


@route("DELETE", "/v1/blocks", role="operate", example=Example(query="target=192.0.2.7"))
async def remove_block(house: House, who: Officer, query: BlockQuery) -> Block:
    """Take a block back; the answer is what it was."""
    there = {each.target: each for each in await blocks.everyone(house.store)}
    found = there.get(query.target)
    if found is None:
        raise Problem("not_found", "This target is not blocked; `GET /v1/blocks` shows who is.")
    async with house.change(who, "block.remove", found.target, {"reason": found.reason}):
        await blocks.remove(house.store, found.target)
    return _shown(found)


def _shown(made: Blocked) -> Block:
    return Block(
        target=made.shown,
        since=moment(made.since_ms),
        until=moment(made.until_ms),
        reason=made.reason,
    )
