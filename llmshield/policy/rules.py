"""What must hold between the sections of a policy: names that exist, routes that are reached, addresses that work.

Each rule is one function over the draft; it looks at what is valid and trusts nothing about the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from llmshield import clock, registry
from llmshield.policy import addresses, intercepting
from llmshield.policy.admin import Admin
from llmshield.policy.apps import Audit
from llmshield.policy.entries import used_names
from llmshield.policy.findings import Path, did_you_mean
from llmshield.policy.globs import is_glob
from llmshield.policy.identity import Ways, is_key_set
from llmshield.policy.masking import is_secret_key
from llmshield.policy.overrides import Override
from llmshield.policy.providers import APP, BASE_URLS, ProviderShape
from llmshield.policy.report import Report
from llmshield.policy.routes import Match, Route
from llmshield.policy.server import Server
from llmshield.policy.tenants import Identify, Tenant, Tier
from llmshield.policy.validate import Draft
from llmshield.stores import FROM_ENVIRONMENT

STORE_SCHEMES = {"rediss": "redis"}
"""Schemes that another store serves."""


MOST_COMPARED = 200
"""Routes that later ones are compared with: comparing each with each is quadratic."""


def check(draft: Draft, report: Report) -> None:
    """Apply every rule."""
    for rule in RULES:
        rule(draft, report)


def _server(draft: Draft, report: Report) -> None:
    server: Server = draft.sections["server"]
    if server.admin is not None and server.admin.port and server.admin == server.listen:
        report.add(
            "LS318",
            ("server", "admin"),
            f"found {server.admin} for both `admin` and `listen`",
            "choose another port",
        )
    scheme, _, rest = server.store.partition("://")
    name, known = STORE_SCHEMES.get(scheme, scheme), registry.names("store")
    if server.store.startswith(FROM_ENVIRONMENT):
        return  # the variable is looked at when the store is opened
    if name not in known:
        hint = report.suggest(scheme, known)
        report.add("LS315", ("server", "store"), f"found the store {scheme!r}, which does not exist", hint)
    elif name == "sqlite" and not rest.removeprefix("/"):
        report.add(
            "LS315",
            ("server", "store"),
            "found no path, expected sqlite:///path",
            "write sqlite:///llmshield.db",
        )
    elif name == "redis" and not _is_redis(server.store):
        hint = "percent-encode what is no letter or digit in user and password"
        report.add("LS315", ("server", "store"), "found no address, expected redis://HOST:PORT/NUMBER", hint)


def _is_redis(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (parts.port or 0) >= 0 and (parts.path.strip("/") or "0").isdecimal()
    except ValueError:
        return False


def _providers(draft: Draft, report: Report) -> None:
    shape: ProviderShape
    for name, shape in draft.items("providers").items():
        path = ("providers", name)
        if name == APP:
            for key in ("dialect", "base_url", "api_key", "connect"):
                if getattr(shape, key) is not None:
                    message = f"found `{key}` for {APP!r}, which is the application that the middleware wraps"
                    report.add("LS316", (*path, key), message, "give the provider another name", at="key")
            continue
        if shape.dialect is None:
            choices = ", ".join(BASE_URLS)
            report.add(
                "LS202",
                (*path, "dialect"),
                f"the key 'dialect' is missing, expected one of {choices}",
                at="key",
            )
        addresses.check(shape, path, report)
        if shape.api_key is not None:
            scheme, known = shape.api_key.scheme, registry.names("resolver")
            if scheme not in known:
                hint = did_you_mean(scheme, known) or "write env://NAME or file://PATH"
                report.add(
                    "LS310",
                    (*path, "api_key"),
                    f"found the kind {scheme[:40]!r}, expected one of {', '.join(known)}",
                    hint,
                )
        circuit = shape.circuit
        if circuit is not None and circuit.max_open < circuit.open_for:
            report.add(
                "LS205",
                (*path, "circuit", "max_open"),
                "found a longest break that is shorter than the first, `open_for`",
            )


def _routes(draft: Draft, report: Report) -> None:
    names = dict.fromkeys((*draft.written("providers"), APP))
    shapes: dict[str, ProviderShape] = draft.items("providers")
    before: list[tuple[int, Match]] = []
    route: Route
    for index, route in sorted(draft.items("routes").items()):
        path = ("routes", index)
        if bool(route.targets) == (route.deny is not None):
            what = "both `to` and `deny`" if route.deny else "neither `to` nor `deny`"
            report.add("LS207", path, f"found {what}, expected one of them")
        _match(route.match, (*path, "match"), draft, report)
        by = next((line for line, match in before if match.covers(route.match)), None)
        if by is not None:
            message = f"no call reaches this route: the one in line {by} matches first"
            report.add("LS303", (*path, "match"), message, "move it up, or delete it", at="key")
        if len(before) < MOST_COMPARED:
            before.append((report.line_of((*path, "match")), route.match))
        for position, target in enumerate(route.targets):
            place = (*path, "to", position)
            if target.provider not in names:
                hint = report.suggest(target.provider, names)
                message = f"found the provider {target.provider!r}, which does not exist"
                report.add("LS301", (*place, "provider"), message, hint)
            elif (shape := shapes.get(target.provider)) is not None:
                sent = (target.model,) if target.model else (route.match.model or ())
                for model in sent:
                    if not is_glob(model) and not shape.models.allows(model):
                        report.add(
                            "LS302",
                            place,
                            f"the provider {target.provider!r} does not allow the model {model!r}",
                        )


def _choices(draft: Draft, report: Report) -> None:
    """Words about choosing among a route's targets that choose nothing, or leave nobody."""
    shapes: dict[str, ProviderShape] = draft.items("providers")
    route: Route
    for index, route in draft.items("routes").items():
        path, targets = ("routes", index), route.targets
        if not targets:
            continue
        idle: list[tuple[str, str]] = []
        if route.regions is not None:
            here = [shapes[each.provider].region for each in targets if each.provider in shapes]
            if here and not any(region in route.regions for region in here):
                message = f"`regions` leave nobody to ask: the targets are in {_listed(here)}"
                report.add("LS321", (*path, "regions"), message, "give the providers a `region`", at="key")
        if len(targets) == 1:
            chosen = (("hedge", route.hedge is not None), ("strategy", route.strategy != "ordered"))
            idle += [(key, "there is one target") for key, said in chosen if said]
        elif route.strategy == "weighted" and not any(each.weight for each in targets):
            idle.append(("strategy", "every `weight` is 0"))
        elif route.strategy == "by_complexity" and len({each.quality or "medium" for each in targets}) == 1:
            idle.append(("strategy", "every target has the same `quality`"))
        for key, why in idle:
            report.add("LS319", (*path, key), f"`{key}` has no effect: {why}", at="key")
        for position, each in enumerate(targets):
            for key, strategy in (("weight", "weighted"), ("quality", "by_complexity")):
                if key in each.model_fields_set and route.strategy != strategy:
                    message = f"`{key}` has no effect without `strategy: {strategy}`"
                    report.add("LS319", (*path, "to", position, key), message, at="key")


def _listed(regions: list[str | None]) -> str:
    return ", ".join(dict.fromkeys(region or "none" for region in regions))


def _match(match: Match, path: Path, draft: Draft, report: Report) -> None:
    others = [key for key in ("model", "tenant", "tier", "tags") if getattr(match, key) is not None]
    if match.any and others:
        report.add("LS207", path, f"found `any` beside `{others[0]}`, expected one of them")
    elif not match.any and not others:
        report.add("LS207", path, "found nothing to match", "write `any: true` for every call")
    for tier in match.tier or ():
        if not is_glob(tier) and tier not in (tiers := dict.fromkeys(draft.written("tiers"))):
            hint = report.suggest(tier, tiers)
            report.add("LS304", (*path, "tier"), f"found the tier {tier!r}, which does not exist", hint)


def _tenants(draft: Draft, report: Report) -> None:
    tiers = dict.fromkeys(draft.written("tiers"))
    owners: dict[str, str] = {}
    tenant: Tenant
    for name, tenant in draft.items("tenants").items():
        path = ("tenants", name)
        if tenant.tier is not None and tenant.tier not in tiers:
            hint = report.suggest(tenant.tier, tiers)
            report.add(
                "LS304", (*path, "tier"), f"found the tier {tenant.tier!r}, which does not exist", hint
            )
        for index, key in enumerate(tenant.keys):
            if owners.setdefault(key, name) != name:
                message = f"this key is the one of the tenant {owners[key]!r} already"
                report.add("LS312", (*path, "keys", index), message, "make a key for each tenant")


def _identify(draft: Draft, report: Report) -> None:
    """Ways that lack what they need, and settings of ways that are not used."""
    ways: Ways = draft.sections["identity"]
    written = draft.written("identity")
    used: dict[str, Identify] = {}
    entry: Identify
    for index, entry in draft.items("identify").items():
        used.setdefault(entry.kind, entry)
        if entry.kind == "header" and not draft.tree.get("trusted_proxies"):
            message = f"{entry} is believed from `trusted_proxies` only, and there are none"
            report.add("LS319", ("identify", index), message, "name the proxies that set it")
        if entry.kind not in written and getattr(ways, entry.kind, True) is None:
            message = f"{entry} needs `identity.{entry.kind}`, which is missing"
            report.add("LS202", ("identify", index), message, f"write `{entry.kind}:` under `identity:`")
    for kind in written:
        if kind in Ways.model_fields and kind not in used:
            message = f"`{kind}` has no effect: `identify` does not name it"
            report.add("LS319", ("identity", kind), message, "add it to `identify`", at="key")
    tiers = dict.fromkeys(draft.written("tiers"))
    named: list[tuple[Path, str | None]] = []
    jwt = ways.jwt
    if jwt is not None and jwt.jwks is None and (jwt.issuer[:5] == "file:" or not is_key_set(jwt.issuer)):
        message = "the key 'jwks' is missing, and `issuer` is no https address that could tell"
        report.add("LS202", ("identity", "jwt"), message)
    if ways.jwt is not None:
        named.append((("identity", "jwt", "tier"), ways.jwt.tier))
    tenants = draft.items("tenants")
    for name, signer in ways.signature.signers.items() if ways.signature is not None else ():
        path: Path = ("identity", "signature", "signers", name)
        named.append(((*path, "tier"), signer.tier))
        if signer.tier is None and signer.tenant not in tenants:
            message = f"the tier of {signer.tenant!r} is missing: it is none of `tenants` either"
            report.add("LS202", path, message, "without a tier there would be no limits")
    for kind in ("address", "sni", "uid"):
        for key, tenant in (getattr(ways, kind) or {}).items():
            if tenant not in tenants:
                message = f"found the tenant {tenant!r}, which does not exist"
                hint = report.suggest(tenant, tenants) or "without a tier there would be no limits"
                report.add("LS304", ("identity", kind, str(key)), message, hint)
    for path, tier in named:
        if tier is not None and tier not in tiers:
            hint = report.suggest(tier, tiers)
            report.add("LS304", path, f"found the tier {tier!r}, which does not exist", hint)


def _admin(draft: Draft, report: Report) -> None:
    """Keys of the admin port that are somebody else's already, and tokens whose keys nobody tells."""
    admin: Admin = draft.sections["admin"]
    owners = {
        key: f"the tenant {name!r}" for name, tenant in draft.items("tenants").items() for key in tenant.keys
    }
    for name, held in admin.keys.items():
        owner = owners.setdefault(held.key, f"{name!r}")
        if owner != f"{name!r}":
            message = f"this key is the one of {owner} already"
            report.add("LS312", ("admin", "keys", name, "key"), message, "make a key for each of them")
    jwt = admin.jwt
    if jwt is not None and jwt.jwks is None and (jwt.issuer[:5] == "file:" or not is_key_set(jwt.issuer)):
        message = "the key 'jwks' is missing, and `issuer` is no https address that could tell"
        report.add("LS202", ("admin", "jwt"), message)


def _overrides(draft: Draft, report: Report) -> None:
    names, now = dict.fromkeys(used_names(draft.tree)), clock.now()
    override: Override
    for index, override in draft.items("overrides").items():
        path = ("overrides", index)
        _match(override.match, (*path, "match"), draft, report)
        if not override.active(now):
            report.add(
                "LS313",
                (*path, "until"),
                "its end has passed: it has no effect",
                "delete it, or give it another end",
            )
        for name in override.plugins:
            if name not in names:
                hint = report.suggest(name, names)
                message = f"found the plugin {name!r}, which this policy does not use"
                report.add("LS314", (*path, "plugins", name), message, hint, at="key")


def _budgets(draft: Draft, report: Report) -> None:
    """Words about a budget in a tier that has none."""
    tier: Tier
    for name, tier in draft.items("tiers").items():
        for key in ("time_zone", "warn_at"):
            if getattr(tier, key) and not tier.budget:
                message = f"`{key}` has no effect: this tier has no budget"
                report.add("LS319", ("tiers", name, key), message, "give it a `budget`", at="key")


def _members(draft: Draft, report: Report) -> None:
    """Providers that plugins' settings name: `ensemble` asks them besides the routes."""
    names = dict.fromkeys((*draft.written("providers"), APP))
    for index, item in draft.items("plugins").items():
        if item.use != "ensemble":
            continue
        written: Any = draft.tree["plugins"][index]
        at: Path = ("plugins", index)
        if isinstance(written.get("with"), dict):
            written, at = written["with"], (*at, "with")
        listed = written.get("members")
        members: list[tuple[Path, Any]] = [(("judge",), written.get("judge"))]
        members += [
            (("members", n), each) for n, each in enumerate(listed if isinstance(listed, list) else ())
        ]
        for place, each in members:
            name = each.get("provider") if isinstance(each, dict) else each
            if isinstance(name, str) and name not in names:
                place = (*place, "provider") if isinstance(each, dict) else place
                message = f"found the provider {name!r}, which does not exist"
                report.add("LS301", (*at, *place), message, report.suggest(name, names))


def _audit(draft: Draft, report: Report) -> None:
    """A record that is required and can't be kept, or that would keep what nobody has edited."""
    audit: Audit | None = draft.sections["audit"]
    if audit is None:
        return
    edits = any(item.use == "pii" for item in draft.items("plugins").values())
    for code, key, message, hint in audit.findings(edits=edits):
        report.add(code, ("audit", key), message, hint, at="key")


def _unenforced(draft: Draft, report: Report) -> None:
    """Keys that some plugin must obey, in a policy without that plugin: limits that nobody keeps."""
    used = {item.use for item in draft.items("plugins").values()}
    if any(use not in registry.names("plugin") for use in used):
        return  # the user's own plugin may obey them
    for path, plugin in _obeyed(draft):
        if plugin not in used:
            message = f"`{path[-1]}` has no effect: no plugin of this policy obeys it"
            report.add("LS319", path, message, f"add `- use: {plugin}` to `plugins`", at="key")


def _obeyed(draft: Draft) -> Iterator[tuple[Path, str]]:
    """Every key of the policy that a plugin obeys, with that plugin's name."""
    tier: Tier
    for name, tier in draft.items("tiers").items():
        for key, plugin in (("budget", "cost_cap"), ("rate", "rate_limit"), ("concurrent", "rate_limit")):
            if getattr(tier, key):
                yield ("tiers", name, key), plugin
    shape: ProviderShape
    for name, shape in draft.items("providers").items():
        if shape.circuit is not None:
            yield ("providers", name, "circuit"), "failover"
    route: Route
    for index, route in draft.items("routes").items():
        if len(route.targets) > 1:
            yield ("routes", index, "to"), "failover"
        if route.retry.attempts > 1:
            yield ("routes", index, "retry"), "failover"
        if route.degraded is not None:
            yield ("routes", index, "degraded"), "failover"
        if route.mid_stream != "error":
            yield ("routes", index, "mid_stream"), "failover"
        if route.hedge is not None:
            yield ("routes", index, "hedge"), "failover"
        if route.strategy != "ordered":
            yield ("routes", index, "strategy"), "failover"


def _variables(draft: Draft, report: Report) -> None:
    """`${NAME}` outside of plugins' settings and messages: some readers of YAML put variables in, this does not."""
    todo: list[tuple[Path, Any]] = [((key,), draft.tree[key]) for key in draft.tree if key != "plugins"]
    while todo:
        path, value = todo.pop()
        if isinstance(value, dict):
            todo.extend(((*path, key), item) for key, item in value.items() if not _is_free(key))
        elif isinstance(value, list):
            todo.extend(((*path, index), item) for index, item in enumerate(value))
        elif isinstance(value, str) and "${" in value:
            report.add("LS111", path, "found ${...}: variables are not put into policies, this is taken literally",
                       "keys are written env://NAME; addresses can be given as flags")  # fmt: skip


def _is_free(key: str) -> bool:
    """Whether any text may stand under this key, or another rule looks at it."""
    return key in ("message", "reason") or is_secret_key(key)


RULES: tuple[Callable[[Draft, Report], None], ...] = (
    _server, _providers, _routes, _choices, _tenants, _identify, _admin, _overrides, _budgets, _members, intercepting.check,
    _audit, _unenforced, _variables,
)  # fmt: skip
