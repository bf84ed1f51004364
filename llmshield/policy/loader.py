"""load, loads, inspect: YAML text -> Policy, with all findings at once.

Order: read the text, validate every piece by itself, refuse what is not built, check what must hold between the
pieces, import the plugins. A policy with one error is not used at all.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llmshield import resolvers
from llmshield.deployment import is_production
from llmshield.errors import PolicyError, SecretError
from llmshield.policy import entries, literals, providers, rules
from llmshield.policy.findings import Finding
from llmshield.policy.nodes import MAX_BYTES, Flaw, decode, read
from llmshield.policy.policy import Policy
from llmshield.policy.report import Report
from llmshield.policy.validate import Draft, draft


def load(path: str | Path) -> Policy:
    """The policy in a file.

    Raises: PolicyError with every finding when it can't be used; OSError when the file can't be read.
    """
    return _usable(*inspect(path))


def loads(text: str, source: str = "policy.yaml", base: Path | None = Path()) -> Policy:
    """The policy in a text; `source` names it in findings, `base` is where its relative paths start.

    With `base` None, `./file.py` plugins are refused.

    Raises: PolicyError with every finding when it can't be used.
    """
    return _usable(*inspect_text(text, source, base))


def inspect(path: str | Path, *, secrets: bool = False) -> tuple[Policy | None, tuple[Finding, ...]]:
    """The policy in a file, or None, and every finding about it; with `secrets`, references are resolved too.

    Raises: OSError when the file can't be read; never because of what it says.
    """
    path = Path(path)
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    text, flaw = decode(data)
    return _inspect(text, str(path), path.parent, secrets, flaw)


def inspect_text(
    text: str, source: str = "policy.yaml", base: Path | None = None, *, secrets: bool = False
) -> tuple[Policy | None, tuple[Finding, ...]]:
    """The same for a text; never raises."""
    return _inspect(text, source, base, secrets, None)


def _usable(policy: Policy | None, findings: tuple[Finding, ...]) -> Policy:
    if policy is None:
        raise PolicyError(findings)
    return policy


def _inspect(
    text: str, source: str, base: Path | None, secrets: bool, flaw: Flaw | None
) -> tuple[Policy | None, tuple[Finding, ...]]:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    root, flaws = (None, [flaw]) if flaw is not None else read(text)
    report = Report(source, text, root)
    for item in flaws:
        report.add_flaw(item)
    if root is None:
        return None, report.findings
    tree: dict[str, Any] = root.plain()
    pieces = draft(tree, report)
    if is_production():
        literals.check(tree, report)
    rules.check(pieces, report)
    used = entries.build(pieces, base, report)
    _check_secrets(pieces, base, secrets, report)
    if report.failed:
        return None, report.findings
    return _compile(pieces, used, source, base, report.findings), report.findings


def _check_secrets(pieces: Draft, base: Path | None, resolve: bool, report: Report) -> None:
    """Key files that others may read; with `resolve`, references without a value as well."""
    folder = base or Path()
    references: list[tuple[tuple[Any, ...], Any, str]] = [
        (("providers", name, "api_key"), shape.api_key, name)
        for name, shape in pieces.items("providers").items()
        if shape.api_key is not None
    ]
    signature = pieces.sections["identity"].signature
    for name, signer in signature.signers.items() if signature is not None else ():
        place = ("identity", "signature", "signers", name, "secret")
        references.append((place, signer.secret, f"signer:{name}"))
    for path, reference, owner in references:
        try:
            if warning := resolvers.warn(reference, folder):
                report.add("LS320", path, warning)
            if resolve:
                resolvers.resolve(reference, folder, owner)
        except SecretError as error:
            if resolve:
                report.add("LS317", path, str(error))


def _compile(
    pieces: Draft,
    used: tuple[entries.PluginEntry, ...],
    source: str,
    base: Path | None,
    findings: tuple[Finding, ...],
) -> Policy:
    sections = pieces.sections
    providing = {name: providers.build(name, shape) for name, shape in pieces.items("providers").items()}
    tenants = pieces.items("tenants")
    return Policy(
        file=source,
        base=base,
        hash=_hash(pieces.tree, tuple(entries.file_digests(used, base))),
        version=sections["version"],
        server=sections["server"],
        admin=sections["admin"],
        defaults=sections["defaults"],
        providers=MappingProxyType(providing),
        routes=tuple(pieces.items("routes").values()),
        identify=tuple(pieces.items("identify").values()),
        identity=sections["identity"],
        trusted_proxies=tuple(pieces.items("trusted_proxies").values()),
        tenants=MappingProxyType(tenants),
        tiers=MappingProxyType(pieces.items("tiers")),
        keys=MappingProxyType({key: name for name, tenant in tenants.items() for key in tenant.keys}),
        plugins=used,
        overrides=tuple(pieces.items("overrides").values()),
        apps=tuple(pieces.items("apps").values()),
        egress=sections["egress"],
        audit=sections["audit"],
        warnings=findings,
    )


def _hash(tree: dict[str, Any], files: tuple[str, ...]) -> str:
    """What identifies a policy: its data in canonical JSON (sorted keys, no blanks) and its own plugin files."""
    canonical = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256("\n".join((canonical, *files)).encode()).hexdigest()
