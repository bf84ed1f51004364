"""Every code of a finding with its place and words; all at once; and no text makes anything else than a finding."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmshield.errors import PolicyError
from llmshield.policy import CODES, Policy, inspect, inspect_text, load, loads
from llmshield.policy.nodes import read

# code, policy (without `version: 1`, which is line 1), line, column, path, words of message or hint
CASES: list[tuple[str, str, int, int, str, str]] = [
    ("LS101", "a: \0", 2, 4, "", "found NUL"),
    ("LS102", "a: 1\n" * 60_000, 1, 1, "", "characters"),
    ("LS103", "server: {listen: 127.0.0.1:1", 2, 29, "", ""),
    ("LS103", "a: b: c", 2, 5, "", "mapping values are not allowed"),
    ("LS104", "server: {}\nserver: {}", 3, 1, "", "'server' twice, the first in line 2"),
    ("LS105", "server: !!map {}", 2, 9, "", "delete the tag"),
    ("LS106", "server: " + "[" * 40, 2, 40, "", "32 levels"),
    ("LS107", "---\na: 1", 2, 1, "", "second YAML document"),
    ("LS109", "? [a]\n: 1", 2, 3, "", "expected a name"),
    ("LS110", "server: *x", 2, 9, "", "without its anchor"),
    ("LS111", "server: {store: 'sqlite:///${DIR}/x.db'}", 2, 17, "server.store", "not put into policies"),
    ("LS112", "server: {limits: {depth: .inf}}", 2, 26, "", "finite number"),
    ("LS201", "serverr: {}", 2, 1, "serverr", "did you mean 'server'?"),
    ("LS201", "server:\n  limits:\n    bdy: 1MiB", 4, 5, "server.limits.bdy", "did you mean 'body'?"),
    ("LS201", "server: {zzz: 1}", 2, 10, "server.zzz", "known: admin, cors"),
    ("LS201", "providers: {x: {dialect: openai, api_kee: env://A}}", 2, 34, "providers.x.api_kee", "did you mean 'api_key'?"),
    ("LS201", "routes:\n- match: {any: true}\n  to: [{provider: app, modell: x}]", 4, 24, "routes[0].to[0].modell", "did you mean 'model'?"),
    ("LS201", "routes: [{match: {any: true}, to: [app], degraded: {mesage: a, message: b}}]\nplugins: [{use: failover}]", 2, 53, "routes[0].degraded.mesage", "did you mean 'message'?"),
    ("LS202", "server: {paths: [{match: /x}]}", 2, 18, "server.paths[0].action", "'action' is missing"),
    ("LS202", "providers: {x: {api_key: env://A}}", 2, 13, "providers.x.dialect", "openai, anthropic, gemini"),
    ("LS203", "defaults: {mode: monitr}", 2, 18, "defaults.mode", "did you mean 'monitor'?"),
    ("LS203", "providers: {x: {dialect: open_ai}}", 2, 26, "providers.x.dialect", "did you mean 'openai'?"),
    ("LS203", "routes: [{match: {any: true}, to: [app], retry: {when: [conect]}}]", 2, 57, "routes[0].retry.when[0]", "did you mean 'connect'?"),
    ("LS203", "routes: [{match: {any: true}, to: [app], retry: {when: [200]}}]", 2, 57, "routes[0].retry.when[0]", "400 to 599"),
    ("LS204", "server: [a]", 2, 1, "server", "found a list, expected a mapping"),
    ("LS204", "routes: {a: 1}", 2, 1, "routes", "found a mapping, expected a list"),
    ("LS204", "providers:", 2, 1, "providers", "found nothing, expected a mapping"),
    ("LS204", "server: {simulation: 'yes'}", 2, 22, "server.simulation", "expected true or false"),
    ("LS204", "server: {limits: {depth: deep}}", 2, 26, "server.limits.depth", "expected a whole number"),
    ("LS204", "routes: [{match: {model: 5}, to: [app]}]", 2, 26, "routes[0].match.model", "found the number 5, expected a list"),
    ("LS204", "routes: [{match: {model: [5]}, to: [app]}]", 2, 27, "routes[0].match.model[0]", "quote it"),
    ("LS205", "server: {limits: {depth: 0}}", 2, 26, "server.limits.depth", "1 or more"),
    ("LS205", "server: {limits: {depth: 501}}", 2, 26, "server.limits.depth", "500 at the most"),
    ("LS205", "routes: [{match: {model: []}, to: [app]}]", 2, 19, "routes[0].match.model", "1 entries or more"),
    ("LS205", "providers: {x: {dialect: openai, circuit: {open_for: 1m, max_open: 1s}}}\nplugins: [{use: failover}]", 2, 68, "providers.x.circuit.max_open", "shorter"),
    ("LS206", "defaults: {timeout: 300}", 2, 21, "defaults.timeout", "write 300s or 300ms"),
    ("LS206", "providers: {'a b': {dialect: openai}}", 2, 13, "providers['a b']", "a name of letters"),
    ("LS206", "server: {paths: [{match: v1, action: pass}]}", 2, 26, "server.paths[0].match", "starts with /"),
    ("LS206", "trusted_proxies: [10.0.0.0/33]", 2, 19, "trusted_proxies[0]", "10.0.0.0/8"),
    ("LS206", "tiers: {a: {budget: 5 EUR/day}}", 2, 21, "tiers.a.budget", "5 USD/day"),
    ("LS206", "apps: [{paths: [/a], texts: {request: [prompt]}}]", 2, 40, "apps[0].texts.request[0]", "JSON pointer"),
    ("LS206", "overrides: [{match: {any: true}, plugins: {no_competitors: {}}, reason: r, until: soon}]", 2, 83, "overrides[0].until", "2027-01-31"),
    ("LS206", "overrides: [{match: {any: true}, plugins: {failover: {}}, reason: r, until: '2099-01-31T12:00:00'}]\nplugins: [{use: failover}]", 2, 77, "overrides[0].until", "with its zone"),
    ("LS207", "routes: [{match: {any: true}}]", 2, 10, "routes[0]", "neither `to` nor `deny`"),
    ("LS207", "routes: [{match: {any: true}, to: [app], deny: {}}]", 2, 10, "routes[0]", "both `to` and `deny`"),
    ("LS207", "routes: [{match: {}, to: [app]}]", 2, 11, "routes[0].match", "write `any: true`"),
    ("LS207", "routes: [{match: {any: true, model: x}, to: [app]}]", 2, 11, "routes[0].match", "`any` beside `model`"),
    ("LS301", "providers: {openai: {dialect: openai}}\nroutes: [{match: {any: true}, to: [opnai]}]", 3, 36, "routes[0].to[0]", "did you mean 'openai'?"),
    ("LS301", "routes:\n- match: {any: true}\n  to:\n  - provider: nobody", 5, 15, "routes[0].to[0].provider", "'nobody', which does not exist"),
    ("LS302", "providers: {a: {dialect: openai, models: {deny: [x-*]}}}\nroutes: [{match: {any: true}, to: [{provider: a, model: X-1}]}]", 3, 36, "routes[0].to[0]", "does not allow"),
    ("LS302", "providers: {a: {dialect: openai, models: {allow: [y]}}}\nroutes: [{match: {model: z}, to: [a]}]", 3, 35, "routes[0].to[0]", "'z'"),
    ("LS303", "routes:\n- match: {any: true}\n  to: [app]\n- match: {model: x}\n  to: [app]", 5, 3, "routes[1].match", "line 3 matches first"),
    ("LS303", "routes:\n- {match: {model: gpt-*}, to: [app]}\n- {match: {model: [gpt-4*, gpt-5], tenant: a}, to: [app]}", 4, 4, "routes[1].match", "line 3"),
    ("LS304", "tiers: {pro: {}}\ntenants: {acme: {tier: por}}", 3, 24, "tenants.acme.tier", "did you mean 'pro'?"),
    ("LS304", "tiers: {pro: {}}\nroutes: [{match: {tier: [pro, por, '*x']}, to: [app]}]", 3, 19, "routes[0].match.tier", "did you mean 'pro'?"),
    ("LS305", "identify: [virtual_kei]", 2, 12, "identify[0]", "did you mean 'virtual_key'?"),
    ("LS305", "identify: ['header:x y']", 2, 12, "identify[0]", "header:NAME"),
    ("LS306", "providers: {a: {dialect: openai, base_url: 'https://a.example/'}}", 2, 44, "providers.a.base_url", "write https://a.example/v1"),
    ("LS306", "providers: {a: {dialect: anthropic, base_url: 'https://a.example/x/v1/'}}", 2, 47, "providers.a.base_url", "write https://a.example/x"),
    ("LS306", "providers: {a: {dialect: gemini, base_url: 'https://a.example/v1beta'}}", 2, 44, "providers.a.base_url", "write https://a.example"),
    ("LS307", "providers: {a: {dialect: openai, base_url: 'a.example/v1'}}", 2, 44, "providers.a.base_url", "https://HOST"),
    ("LS307", "providers: {a: {dialect: openai, base_url: 'https://a:b/v1'}}", 2, 44, "providers.a.base_url", "https://HOST"),
    ("LS307", "providers: {a: {dialect: openai, base_url: 'https://a/v1?x=1'}}", 2, 44, "providers.a.base_url", "query"),
    ("LS308", "providers: {a: {dialect: openai, base_url: 'http://gpu.internal/v1'}}", 2, 44, "providers.a.base_url", "insecure: true"),
    ("LS308", "providers: {a: {dialect: openai, base_url: 'http://10.0.0.5/v1'}}", 2, 44, "providers.a.base_url", "insecure: true"),
    ("LS308", "providers: {a: {dialect: openai, base_url: 'http://127.0.0.1.example/v1'}}", 2, 44, "providers.a.base_url", "insecure: true"),
    ("LS309", "providers: {a: {dialect: openai, api_key: CANARY-1}}", 2, 43, "providers.a.api_key", "env://NAME"),
    ("LS309", "providers: {a: {dialect: openai, api_key: 12345}}", 2, 43, "providers.a.api_key", "env://NAME"),
    ("LS309", "providers: {a: {dialect: openai, api_key: '${CANARY}'}}", 2, 43, "providers.a.api_key", "env://NAME"),
    ("LS309", "providers: {a: {dialect: openai, base_url: 'https://u:CANARY@a.example/v1'}}", 2, 44, "providers.a.base_url", "user or password"),
    ("LS310", "providers: {a: {dialect: openai, api_key: evn://A}}", 2, 43, "providers.a.api_key", "did you mean 'env'?"),
    ("LS311", "tenants: {a: {keys: [CANARY]}}", 2, 22, "tenants.a.keys[0]", "sha256sum"),
    ("LS311", "tenants: {a: {keys: ['sha256:abc']}}", 2, 22, "tenants.a.keys[0]", "sha256: and 3 characters"),
    ("LS312", f"tenants: {{a: {{keys: [sha256:{'A' * 64}]}}, b: {{keys: [sha256:{'a' * 64}]}}}}", 2, 108, "tenants.b.keys[0]", "'a' already"),
    ("LS312", f"admin: {{keys: {{a: {{key: sha256:{'a' * 64}, role: read}}, b: {{key: sha256:{'A' * 64}, role: read}}}}}}", 2, 120, "admin.keys.b.key", "'a' already"),
    ("LS311", "admin: {keys: {a: {key: CANARY, role: read}}}", 2, 25, "admin.keys.a.key", "sha256sum"),
    ("LS202", "admin: {jwt: {issuer: x, audience: y, roles: {a: read}}}", 2, 9, "admin.jwt", "no https address"),
    ("LS313", "plugins: [{use: ./no_competitors.py}]\noverrides: [{match: {any: true}, plugins: {no_competitors: {mode: disabled}}, reason: r, until: 2020-01-31}]", 3, 97, "overrides[0].until", "passed"),
    ("LS314", "plugins: [{use: ./no_competitors.py}]\noverrides: [{match: {any: true}, plugins: {no_competitor: {}}, reason: r, until: 2099-01-31}]", 3, 44, "overrides[0].plugins.no_competitor", "did you mean 'no_competitors'?"),
    ("LS315", "server: {store: 'sqlit:///x'}", 2, 17, "server.store", "did you mean 'sqlite'?"),
    ("LS315", "server: {store: 'sqlite://'}", 2, 17, "server.store", "found no path"),
    ("LS315", "server: {store: 'redis://h:port/0'}", 2, 17, "server.store", "redis://HOST:PORT/NUMBER"),
    ("LS315", "server: {store: 'rediss://:a/b@h:6379/0'}", 2, 17, "server.store", "percent-encode"),
    ("LS316", "providers: {app: {dialect: openai}}", 2, 19, "providers.app.dialect", "another name"),
    ("LS318", "server: {listen: '127.0.0.1:1', admin: '127.0.0.1:1'}", 2, 40, "server.admin", "another port"),
    ("LS319", "identify: ['header:x-tenant']", 2, 12, "identify[0]", "trusted_proxies"),
    ("LS319", "tiers: {a: {budget: 1 USD/day}}", 2, 13, "tiers.a.budget", "use: cost_cap"),
    ("LS319", "tiers: {a: {warn_at: 50%}}", 2, 13, "tiers.a.warn_at", "give it a `budget`"),
    ("LS319", "tiers: {a: {time_zone: Asia/Tokyo}}", 2, 13, "tiers.a.time_zone", "give it a `budget`"),
    ("LS206", "server: {time_zone: Europe/Berln}", 2, 21, "server.time_zone", "did you mean 'Europe/Berlin'?"),
    ("LS206", "tiers: {a: {budget: 5 USD/30s}}", 2, 21, "tiers.a.budget", "a rolling window from 1m to 366d"),
    ("LS319", "tiers: {a: {concurrent: 1}}", 2, 13, "tiers.a.concurrent", "use: rate_limit"),
    ("LS319", "providers: {a: {dialect: openai, circuit: {}}}", 2, 34, "providers.a.circuit", "use: failover"),
    ("LS319", "providers: {a: {dialect: openai}}\nroutes: [{match: {any: true}, to: [a, app]}]", 3, 31, "routes[0].to", "use: failover"),
    ("LS319", "routes: [{match: {any: true}, to: [app], retry: {attempts: 2}}]", 2, 42, "routes[0].retry", "use: failover"),
    ("LS319", "routes: [{match: {any: true}, to: [app], degraded: {message: sorry}}]", 2, 42, "routes[0].degraded", "use: failover"),
    ("LS203", "providers: {a: {dialect: openai, parameters: {n: 4}}}", 2, 34, "providers.a.parameters", "a setting of the model"),
    ("LS203", "providers: {a: {dialect: gemini, parameters: {candidate_count: 4}}}", 2, 34, "providers.a.parameters", "a setting of the model"),
    ("LS301", "providers: {a: {dialect: openai}, b: {dialect: openai}}\nplugins: [{use: ensemble, members: [a, {provider: x}]}]", 3, 51, "plugins[0].members[1].provider", "does not exist"),
    ("LS301", "providers: {a: {dialect: openai}, b: {dialect: openai}}\nplugins: [{use: ensemble, with: {members: [a, b], judge: x}}]", 3, 58, "plugins[0].with.judge", "does not exist"),
    ("LS321", "providers: {a: {dialect: openai, region: us}}\nroutes: [{match: {any: true}, to: [a], regions: [eu]}]", 3, 40, "routes[0].regions", "in us"),
    ("LS319", "providers: {a: {dialect: openai}, b: {dialect: openai}}\nplugins: [{use: failover}]\nroutes: [{match: {any: true}, to: [a], hedge: {after: 1s}}]", 4, 40, "routes[0].hedge", "one target"),
    ("LS319", "providers: {a: {dialect: openai}, b: {dialect: openai}}\nplugins: [{use: failover}]\nroutes: [{match: {any: true}, to: [a], strategy: fastest}]", 4, 40, "routes[0].strategy", "one target"),
    ("LS319", "providers: {a: {dialect: openai}, b: {dialect: openai}}\nplugins: [{use: failover}]\nroutes: [{match: {any: true}, to: [{provider: a, weight: 0}, {provider: b, weight: 0}], strategy: weighted}]", 4, 89, "routes[0].strategy", "is 0"),
    ("LS319", "providers: {a: {dialect: openai}, b: {dialect: openai}}\nplugins: [{use: failover}]\nroutes: [{match: {any: true}, to: [a, b], strategy: by_complexity}]", 4, 43, "routes[0].strategy", "same"),
    ("LS319", "providers: {a: {dialect: openai}, b: {dialect: openai}}\nplugins: [{use: failover}]\nroutes: [{match: {any: true}, to: [{provider: a, weight: 9}, b]}]", 4, 50, "routes[0].to[0].weight", "weighted"),
    ("LS319", "providers: {a: {dialect: openai}, b: {dialect: openai}}\nplugins: [{use: failover}]\nroutes: [{match: {any: true}, to: [a, {provider: b, quality: low}]}]", 4, 53, "routes[0].to[1].quality", "by_complexity"),
    ("LS319", "routes: [{match: {any: true}, to: [app], mid_stream: continue}]", 2, 42, "routes[0].mid_stream", "use: failover"),
    ("LS401", "plugins: [{use: no_such_plugin_anywhere}]", 2, 17, "plugins[0].use", "does not exist"),
    ("LS401", "plugins: [{use: ./missing.py}]", 2, 17, "plugins[0].use", "does not exist"),
    ("LS402", "plugins: [{use: ../x.py}]", 2, 17, "plugins[0].use", "expected ./file.py"),
    ("LS403", "plugins:\n- use: ./no_competitors.py\n- use: ./no_competitors.py", 4, 8, "plugins[1].use", "twice, the first in line 3"),
    ("LS404", "plugins:\n- use: ./no_competitors.py\n  names: [a]\n  with: {names: [b]}", 5, 10, "plugins[0].with.names", "keep one"),
    ("LS405", "plugins:\n- use: cost_cap\n  on_error: open", 4, 13, "plugins[0].on_error", "expected `closed`"),
]  # fmt: skip

ELSEWHERE = {
    "LS108": "test_version and tests/policy/test_nodes.py",
    "LS317": "test_secrets_are_looked_at_when_asked",
    "LS320": "test_open_key_file",
}


@pytest.mark.parametrize(
    ("code", "text", "line", "column", "path", "words"),
    CASES,
    ids=[f"{row[0]}-{index}" for index, row in enumerate(CASES)],
)
def test_finding(code: str, text: str, line: int, column: int, path: str, words: str, judge: Any) -> None:
    policy, findings = judge(f"version: 1\n{text}")

    assert [code] == [item.code for item in findings], "\n".join(map(str, findings))
    found = findings[0]
    assert (line, column, path) == (found.line, found.column, found.path), str(found)
    assert words in f"{found.message} {found.hint}"
    assert found.hint
    assert (policy is None) == (found.severity == "error")
    assert "CANARY" not in str(found)


def test_every_code_has_a_case() -> None:
    assert set(CODES) == {row[0] for row in CASES} | set(ELSEWHERE)


def test_version(judge: Any) -> None:
    policy, findings = judge("server: {}")

    assert findings == ()
    assert policy.version == 1
    assert "LS203" in [item.code for item in judge("version: 2")[1]]
    (quoted,) = judge('version: "1"\n')[1]
    assert (quoted.code, quoted.hint) == ("LS203", "a number has no quotes")
    assert "LS108" in [item.code for item in judge("")[1]]


def test_all_at_once(judge: Any) -> None:
    """One broken piece hides nothing: text, shape, meaning, plugins and what is not built, in one go."""
    policy, findings = judge(
        """\
version: 1
server: {listen: 8787, admn: 1, store: sqlit:///x}
providers:
  a: {dialect: openai, api_key: sk-CANARY1234567890, timeout: {idle: 5}}
  b: {dialect: anthropic, base_url: http://far.example/v1}
routes:
  - {match: {model: 5}, to: [a]}
  - {match: {model: x}, to: [c, a], mid_stream: continue}
tenants: {t: {tier: gold}}
plugins:
  - {use: ./no_competitors.py, nmaes: [x], entities: {EMAIL: {action: hide, keep_last: -1}}}
  - {use: ./nothing.py}
server: {}
"""
    )

    assert policy is None
    assert [(item.code, item.line) for item in findings if item.code != "LS315"] == [
        ("LS206", 2), ("LS201", 2), ("LS309", 4), ("LS206", 4), ("LS306", 5), ("LS308", 5), ("LS204", 7),
        ("LS301", 8), ("LS304", 9), ("LS201", 11), ("LS203", 11), ("LS205", 11), ("LS401", 12),
        ("LS104", 13),
    ]  # fmt: skip
    assert not any("CANARY" in str(item) for item in findings)
    by_code = {item.code: item for item in findings}
    assert by_code["LS203"].path == "plugins[0].entities.EMAIL.action"
    assert "did you mean 'names'?" in [item.hint for item in findings]


def test_error_carries_all_findings(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\nserverr: {}\ndefaults: {mode: no}\n")
    with pytest.raises(PolicyError) as raised:
        load(path)

    assert [item.line for item in raised.value.findings] == [2, 3]
    assert f"{path}:2:1: error LS201: serverr: unknown key 'serverr'" in str(raised.value)
    assert "did you mean 'server'?" in str(raised.value)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.yaml")


def test_what_a_policy_says(folder: Path) -> None:
    (folder / "policy.yaml").write_text(
        """\
version: 1
server: {paths: [{match: "/v1/audio/*", action: pass, price: 0.01 USD/call}], limits: {body: 1MiB}}
providers:
  openai: {dialect: openai, api_key: env://KEY, prices: {input: 0.15, output: 10 USD/Mtok}}
  claude: {dialect: anthropic, base_url: "https://api.example/", connect: "127.0.0.1:9"}
routes:
  - {match: {model: "gpt-*", tags: {team: a}}, to: [{provider: openai, model: gpt-x}]}
  - {match: {model: "gpt-*"}, to: [openai]}
trusted_proxies: [10.0.0.0/8, "::1"]
tenants: {acme: {tier: pro, keys: ["sha256:9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08"]}}
tiers: {pro: {rate: 5/second, concurrent: 2}}
plugins: [{use: ./no_competitors.py, names: [Initech], mode: monitor, with: {timeout: 9, price: 0.25}}]
audit: {sink: file://a.jsonl}
"""
    )
    policy = load(folder / "policy.yaml")

    assert (policy.server.listen.host, policy.server.listen.port) == ("127.0.0.1", 8787)
    assert policy.server.paths[0].matches("/v1/audio/speech")
    assert policy.server.paths[0].price == 10**10
    assert policy.server.limits.body == 2**20
    openai, claude = policy.providers["openai"], policy.providers["claude"]
    assert openai.prices is not None
    assert (openai.prices.input, openai.prices.output) == (150_000, 10_000_000)
    assert (
        openai.name,
        openai.base_url,
        str(openai.api_key),
    ) == ("openai", "https://api.openai.com/v1", "env://KEY")
    assert (claude.base_url, str(claude.connect)) == ("https://api.example", "127.0.0.1:9")
    tagged = policy.route_for("gpt-4", tags={"team": "a"})
    assert tagged is policy.routes[0]
    assert policy.route_for("gpt-4") is policy.routes[1]
    assert policy.route_for("o3") is None
    assert dict(policy.keys) == {
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08": "acme"
    }
    assert [str(network) for network in policy.trusted_proxies] == ["10.0.0.0/8", "::1/128"]
    entry = policy.plugins[0]
    assert (
        entry.name,
        entry.mode,
        entry.on_error,
        entry.timeout,
        entry.line,
    ) == ("no_competitors", "monitor", "closed", 0.3, 12)
    settings: Any = entry.settings
    assert (settings.names, settings.timeout, settings.price) == (["Initech"], 9, 250_000)
    assert entry.plugin.__name__ == "NoCompetitors"


def test_hash_is_about_the_meaning(folder: Path) -> None:
    text = "version: 1\ndefaults: {mode: monitor, timeout: 1s}\nplugins: [{use: ./no_competitors.py}]\n"
    same = "# a comment\nplugins:\n- {use: './no_competitors.py'}\nversion: 0x1\ndefaults:\n  timeout: 1s\n  mode: monitor\n"
    first = loads(text, base=folder).hash

    assert re.fullmatch("sha256:[0-9a-f]{64}", first)
    assert first == loads(same, base=folder).hash
    assert first != loads(text.replace("1s", "2s"), base=folder).hash
    file = folder / "no_competitors.py"
    file.write_text(file.read_text() + "\n# changed\n")
    assert first != loads(text, base=folder).hash


def test_secrets_are_looked_at_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    text = "version: 1\nproviders: {a: {dialect: openai, api_key: env://NO_SUCH_KEY}}"

    assert inspect_text(text, base=tmp_path)[1] == ()
    assert [item.code for item in inspect_text(text, base=tmp_path, secrets=True)[1]] == ["LS317"]
    monkeypatch.setenv("NO_SUCH_KEY", "CANARY-in-the-environment")
    assert inspect_text(text, base=tmp_path, secrets=True)[1] == ()


def test_open_key_file(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("CANARY")
    text = "version: 1\nproviders: {a: {dialect: openai, api_key: 'file://key'}}"
    key.chmod(0o600)
    assert inspect_text(text, base=tmp_path)[1] == ()
    key.chmod(0o644)
    policy, findings = inspect_text(text, base=tmp_path)

    assert policy is not None
    assert [(item.code, item.path) for item in findings] == [("LS320", "providers.a.api_key")]
    assert "chmod 600" in findings[0].message


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(b"version: 1\n# caf\xe9\n")
    policy, findings = inspect(path)

    assert policy is None
    assert [(item.code, item.line, item.column) for item in findings] == [("LS101", 2, 6)]


def test_line_ends_and_marks(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(b"\xef\xbb\xbfversion: 1\r\nserverr: {}\r\n")

    assert [item.line for item in inspect(path)[1]] == [2]


def test_import_is_light() -> None:
    code = (
        "import sys, llmshield.policy\n"
        "heavy = {'aiohttp', 'presidio_analyzer', 'genai_prices', 'spacy', 'typer', 'rich', 'llmshield_plugins'}\n"
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )

    assert subprocess.run([sys.executable, "-c", code], env={**os.environ}, check=False).returncode == 0


GOOD = """\
version: 1
server: {listen: 127.0.0.1:1, limits: {body: 1MiB, depth: 9}, paths: [{match: /a, action: pass, price: 1 USD/call}]}
providers: {a: {dialect: openai, api_key: env://A, prices: {input: 0.1, output: 2}}, b: {dialect: gemini}}
routes: [{match: {model: [a, "b*"], tags: {x: y}}, to: [a, {provider: a, model: z}], retry: {attempts: 2, when: [429, 5xx], backoff: 1s..2s}}]
identify: [virtual_key, "header:x"]
trusted_proxies: [10.0.0.0/8]
tenants: {t: {tier: free}}
tiers: {free: {rate: [1/hour], budget: 1 USD/day, concurrent: 1, models: x}}
overrides: [{match: {any: true}, plugins: {p: {mode: monitor}}, reason: r, until: 2099-01-01}]
apps: [{paths: [/a], texts: {request: [/b]}}]
audit: {sink: stdout}
"""

junk: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.sampled_from(["env://A", "5 USD/day", "1s", "a*", "-1", "9" * 50, "sk-" + "a1" * 12]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def _judged(text: str) -> None:
    try:
        policy = loads(text)
    except PolicyError as error:
        findings = error.findings
        for item in findings:
            assert item.line >= 1  # type: ignore[attr-defined]
            assert item.column >= 1  # type: ignore[attr-defined]
            assert str(item)
    else:
        assert isinstance(policy, Policy)
        return
    assert findings


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="version: 1\n-[]{}&*!'\"#%\t\ré.$<", max_size=80) | st.text())
def test_any_text(text: str) -> None:
    _judged(text)
    _judged(f"version: 1\n{text}")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_value_anywhere(data: st.DataObject) -> None:
    """Put anything in place of any value of a good policy: a policy or findings, never another exception."""
    import json

    root, _ = read(GOOD)
    assert root is not None
    tree = root.plain()
    spot: Any = tree
    while True:
        keys = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(spot[key], dict | list) and spot[key] and data.draw(st.booleans()):
            spot = spot[key]
            continue
        break
    if isinstance(spot, dict) and data.draw(st.booleans()):
        spot[data.draw(st.text(max_size=8))] = data.draw(junk)
    else:
        spot[key] = data.draw(junk)
    _judged(json.dumps(tree, ensure_ascii=data.draw(st.booleans())))


def test_the_good_one_is_good(judge: Any) -> None:
    _, findings = judge(GOOD)

    assert {"LS314", "LS319"} == {item.code for item in findings}


def test_thousands_of_faults_take_no_longer_than_reading() -> None:
    """Masking, suggestions and comparisons are bounded; half a minute without that."""
    import time

    providers = "providers:\n" + "".join(f"  p{i}: {{dialect: openai}}\n" for i in range(600))
    routes = "routes: [" + ",".join(f"{{match: {{model: m{i}*}}, to: [q{i}]}}" for i in range(600)) + "]\n"
    wrong = "overrides: [" + "5," * 6_000 + "]\n"
    start = time.process_time()
    policy, findings = inspect_text(f"version: 1\n{providers}{routes}{wrong}")

    assert time.process_time() - start < 3
    assert policy is None
    assert len(findings) == 200


def test_errors_are_never_crowded_out() -> None:
    """A policy with more findings than are told is refused for an error among those that are not."""
    text = "version: 1\nroutes:\n- {match: {any: true}, to: [app]}\n"
    text += (
        "".join(f"- {{match: {{model: m{i}}}, to: [app]}}\n" for i in range(250)) + "plugins: [{use: ./x.py}]"
    )
    policy, findings = inspect_text(text)

    assert {"LS303"} == {item.code for item in findings}
    assert policy is None
