"""`llmshield prices`: what models cost here, and what changed.

`show` prints the prices that hold: the bundled list's, or with `--policy` those of its providers, overrides included.
`diff` compares: the bundled list with the overrides of a policy (`--policy`), or what holds now with what another
policy says or with what `show --format json` printed some time ago, under another version perhaps.

USD per million tokens, exact. Exit status: 0 all known, or no difference; 1 a model that was named has no price, or
differences; 2 usage.
"""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmshield.cli._reading import USAGE, policy_at

if TYPE_CHECKING:
    from llmshield.policy import Policy
    from llmshield.prices import ModelPrice, Prices, Rates

GOOD, FOUND = 0, 1

_FAMILIES = ("openai", "anthropic", "gemini")

Row = dict[str, Any]


class Format(enum.StrEnum):
    """How prices are written."""

    table = "table"
    json = "json"


ModelsArgument = Annotated[
    list[str] | None, typer.Argument(help="Models, exact or globs; else all.", show_default=False)
]
PolicyOption = Annotated[
    Path | None,
    typer.Option("--policy", "-p", help="Show its providers, overrides included.", show_default=False),
]
ProviderOption = Annotated[
    str | None, typer.Option(help="One provider: a name of the policy, or a family.", show_default=False)
]
FormatOption = Annotated[Format, typer.Option(help="How prices are written.")]


def register(app: typer.Typer) -> None:
    """Mount the commands."""
    prices = typer.Typer(no_args_is_help=True, help="What models cost here, and what changed.")

    @prices.command("show")
    def show_command(
        models: ModelsArgument = None,
        policy: PolicyOption = None,
        provider: ProviderOption = None,
        format: FormatOption = Format.table,
    ) -> None:
        """Show the prices that hold."""
        raise typer.Exit(show(models or (), policy=policy, provider=provider, format=format))

    @prices.command("diff")
    def diff_command(
        other: Annotated[
            Path | None,
            typer.Argument(
                help="A policy, or what `show --format json` printed; else the bundled list.",
                show_default=False,
            ),
        ] = None,
        models: Annotated[
            list[str] | None, typer.Option("--model", help="These models only (globs).", show_default=False)
        ] = None,
        policy: PolicyOption = None,
        provider: ProviderOption = None,
        format: FormatOption = Format.table,
    ) -> None:
        """Show what differs: there, and here."""
        raise typer.Exit(diff(other, models or (), policy=policy, provider=provider, format=format))

    app.add_typer(prices, name="prices")


def show(
    models: Iterable[str], *, policy: Path | None, provider: str | None = None, format: Format = Format.table
) -> int:
    """Write the prices to standard output and return the exit status."""
    given = policy_at(policy, "prices") if policy is not None else None
    if not _is_known(provider, given):
        return USAGE
    named = tuple(models)
    version, rows = prices_of(given, named, provider)
    if format is Format.json:
        print(
            json.dumps(
                {"version": version, "policy": given.hash if given else None, "prices": rows}, indent=2
            )
        )
    else:
        _table(
            ("provider", "model", *_SHOWN, "from"),
            [
                [row["provider"], row["model"], *_cells(each, row), _from(row["source"], version)]
                for row in rows
                for each in (row, *row["tiers"])
            ],
        )
        print(f"USD per million tokens. list: {version}")
    # The whole list has models that nobody prices: that is no finding of who asked for all of it.
    return GOOD if rows and (not named or all(row["source"] for row in rows)) else FOUND


def diff(
    other: Path | None,
    models: Iterable[str],
    *,
    policy: Path | None,
    provider: str | None = None,
    format: Format = Format.table,
) -> int:
    """Write what differs to standard output and return the exit status."""
    from llmshield.prices import Prices

    if other is None and policy is None:
        print("llmshield prices diff: nothing to compare; name a file, or --policy FILE", file=sys.stderr)
        return USAGE
    given = policy_at(policy, "prices") if policy is not None else None
    if not _is_known(provider, given):
        return USAGE
    globs = tuple(models)
    if other is None:
        assert given is not None
        there = _rows(given, Prices(_without_overrides(given)), globs, provider)
    else:
        read = _read(other, globs, provider)
        if read is None:
            return USAGE
        there = read
    here = prices_of(given, globs, provider)[1]
    changes = list(compare(there, here))
    if format is Format.json:
        print(json.dumps(changes, indent=2))
    else:
        _table(
            ("provider", "model", "price", "there", "here"),
            [
                [str(change[key]) for key in ("provider", "model", "price", "there", "here")]
                for change in changes
            ],
        )
    return FOUND if changes else GOOD


def prices_of(policy: Policy | None, globs: tuple[str, ...], provider: str | None) -> tuple[str, list[Row]]:
    """The list's version, and each model's price at each provider of a policy, or at each family."""
    from llmshield.prices import Prices

    prices = Prices(policy.providers if policy is not None else {})
    prices.warm()
    return prices.version, _rows(policy, prices, globs, provider)


def compare(there: list[Row], here: list[Row]) -> Iterable[Row]:
    """What differs, a row for each price: `None` where a price or a model is not known."""
    before = {(row["provider"], row["model"]): _flat(row) for row in there}
    after = {(row["provider"], row["model"]): _flat(row) for row in here}
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key, {}), after.get(key, {})
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                yield {
                    "provider": key[0], "model": key[1], "price": name, "there": old.get(name), "here": new.get(name),
                }  # fmt: skip


def _rows(policy: Policy | None, prices: Prices, globs: tuple[str, ...], only: str | None) -> list[Row]:
    from llmshield.policy.globs import compile_globs

    matches = compile_globs(globs or ("*",))
    families: Mapping[str, str] = (
        {name: each.dialect or "" for name, each in policy.providers.items()}
        if policy is not None
        else {family: family for family in _FAMILIES}
    )
    out: list[Row] = []
    for name, family in families.items():
        if only is not None and name != only:
            continue
        known = [model for model in prices.models(name, family) if matches(model)]
        # An exact name is asked for whether the list knows it or not: patterns of the list may match it.
        exact = [glob for glob in globs if not set("*?") & set(glob) and glob not in known]
        for model in sorted([*known, *exact]):
            if policy is None or policy.providers[name].models.allows(model):
                out.append(_row(name, model, prices.price(name, family, model)))
    if len(families) > 1 and only is None:
        # Where one family knows a model, the others' ignorance says nothing; what nobody knows is told once.
        told = {row["model"] for row in out if row["source"]}
        for row in [row for row in out if not row["source"]]:
            if row["model"] in told:
                out.remove(row)
            told.add(row["model"])
    return out


def _row(provider: str, model: str, price: ModelPrice | None) -> Row:
    row: Row = {"provider": provider, "model": model, "source": price.source if price is not None else None}
    if price is None:
        return {
            **row,
            "rates": {},
            "tiers": [],
            "tools": {},
            "call": None,
            "context": None,
            "max_output": None,
        }
    return {
        **row,
        "rates": _rates(price.rates),
        "tiers": [{"above": above, "rates": _rates(rates)} for above, rates in price.tiers],
        "tools": {kind: _usd(fee) for kind, fee in sorted(price.tools.items())},
        "call": _usd(price.per_call) if price.per_call else None,
        "context": price.context,
        "max_output": price.max_output,
    }


def _rates(rates: Rates) -> dict[str, str]:
    return {name: _usd(rate) for name, rate in rates._asdict().items() if rate is not None}


def _usd(picousd: int) -> str:
    from llmshield.prices import usd

    return f"{Decimal(usd(picousd)).normalize():f}"


def _flat(row: Row) -> dict[str, str | int]:
    """One level: `input`, `output above 200000`, `tool web_search`, `call`, `context`."""
    flat: dict[str, Any] = dict(row["rates"])
    for tier in row["tiers"]:
        flat |= {f"{name} above {tier['above']}": rate for name, rate in tier["rates"].items()}
    flat |= {f"tool {kind}": fee for kind, fee in row["tools"].items()}
    flat |= {name: row[name] for name in ("call", "context", "max_output")}
    return {name: value for name, value in flat.items() if value is not None}


def _without_overrides(policy: Policy) -> dict[str, Any]:
    from dataclasses import replace

    return {name: replace(each, prices=None) for name, each in policy.providers.items()}


def _read(path: Path, globs: tuple[str, ...], provider: str | None) -> list[Row] | None:
    """The prices of a file; None, with a word to the user, where it holds none."""
    if path.suffix in (".yaml", ".yml"):
        return prices_of(policy_at(path, "prices"), globs, provider)[1]
    from llmshield.policy.globs import compile_globs

    try:
        rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))["prices"]
        for row in rows:
            _flat(row)
        matches = compile_globs(globs or ("*",))
        return [row for row in rows if matches(row["model"]) and provider in (None, row["provider"])]
    except OSError as error:
        said = error.strerror or "it can't be read"
    except (ValueError, LookupError, TypeError, AttributeError):
        said = "neither a policy (.yaml) nor what `llmshield prices show --format json` printed"
    print(f"llmshield prices diff: {path}: {said}", file=sys.stderr)
    return None


def _is_known(provider: str | None, policy: Policy | None) -> bool:
    names = list(policy.providers) if policy is not None else list(_FAMILIES)
    if provider is None or provider in names:
        return True
    print(
        f"llmshield prices: no provider is called {provider!r}; there are {', '.join(names)}", file=sys.stderr
    )
    return False


_SHOWN = ("input", "output", "cache read", "cache write", "call", "context", "longest answer")


def _cells(each: Row, row: Row) -> list[str]:
    """The figures of a price, or of one of its tiers."""
    rates = each["rates"]
    figures = [rates.get(name) for name in ("input", "output", "cache_read", "cache_write")]
    if each is row:
        figures += [row["call"], row["context"], row["max_output"]]
    else:
        figures += [None, f"> {each['above']}", None]
    return ["" if figure is None else str(figure) for figure in figures]


def _from(source: str | None, version: str) -> str:
    return "unknown" if source is None else "list" if source == version else source


def _table(columns: Iterable[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])
    Console(width=None if sys.stdout.isatty() else 200).print(table)
