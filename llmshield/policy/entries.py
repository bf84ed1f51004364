"""`plugins:`: from `use: NAME` to the plugin's class and its validated settings. Modules are imported here only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError

from llmshield import registry
from llmshield.errors import PluginError
from llmshield.hookspecs import Plugin, breach
from llmshield.policy.report import Report
from llmshield.policy.root import PluginUse
from llmshield.policy.server import Defaults, Mode, OnError
from llmshield.policy.validate import Draft, add_errors


@dataclass(slots=True, frozen=True)
class PluginEntry:
    """One plugin at work, in policy order.

    `use` is what the policy says, `name` what it is called there, `timeout` the base in seconds for one hook,
    `settings` an instance of `plugin.Settings`, `line` where it stands in the policy.
    """

    name: str
    use: str
    mode: Mode
    on_error: OnError
    timeout: float
    settings: BaseModel
    plugin: type[Plugin]
    line: int


def default_name(use: str) -> str:
    """What a plugin is called without `name`: its module's name, or its file's without `.py`."""
    return use.rsplit("/", 1)[-1].removesuffix(".py")


def build(draft: Draft, base: FilePath | None, report: Report) -> tuple[PluginEntry, ...]:
    """Every plugin of the policy that can be used; findings for the others."""
    out: list[PluginEntry] = []
    lines: dict[str, int] = {}
    once: dict[type[Plugin], int] = {}
    for index, item in sorted(draft.items("plugins").items()):
        name = item.name or default_name(item.use)
        line = report.line_of(("plugins", index))
        if name in lines:
            message = f"found the plugin {name!r} twice, the first in line {lines[name]}"
            report.add("LS403", ("plugins", index, "use"), message, "give the second one a `name` of its own")
            continue
        lines[name] = line
        if (entry := _build(item, name, index, line, draft, base, report)) is not None:
            if entry.plugin.once and entry.plugin in once:
                message = (
                    f"found the plugin {item.use!r} again as {name!r}, the first is in line {once[entry.plugin]}; "
                    "it may stand in a policy once"
                )
                report.add("LS403", ("plugins", index, "use"), message, "put both entries' settings into one")
                continue
            once[entry.plugin] = line
            out.append(entry)
    return tuple(out)


def used_names(tree: dict[str, Any]) -> list[str]:
    """Names of all plugins as they are written, valid or not."""
    plugins = tree.get("plugins")
    out: list[str] = []
    for item in plugins if isinstance(plugins, list) else ():
        if isinstance(item, dict):
            name, use = item.get("name"), item.get("use")
            if isinstance(name, str):
                out.append(name)
            elif isinstance(use, str):
                out.append(default_name(use))
    return out


def file_digests(entries: tuple[PluginEntry, ...], base: FilePath | None) -> Iterator[str]:
    """`./file.py` and the digest of its content, for each plugin that is a file: they belong to the policy."""
    for entry in entries:
        if entry.use.startswith("./") and base is not None:
            yield f"{entry.use} {hashlib.sha256((base / entry.use).read_bytes()).hexdigest()}"


def _build(
    item: PluginUse, name: str, index: int, line: int, draft: Draft, base: FilePath | None, report: Report
) -> PluginEntry | None:
    path = ("plugins", index, "use")
    try:
        plugin: type[Plugin] = registry.find("plugin", item.use, base)
    except registry.NotFound as error:
        is_file = item.use.startswith(".")
        known = _files(base) if is_file else registry.names("plugin")
        hint = report.suggest(item.use, known)
        what = str(error) if is_file else f"found the plugin {item.use[:80]!r}, which does not exist"
        report.add("LS401", path, what, hint)
        return None
    except PluginError as error:
        report.add("LS402", path, str(error))
        return None
    if (wrong := breach(plugin)) is not None:
        report.add("LS402", path, f"breaks the hook contract: {wrong}")
        return None
    settings = _settings(plugin, item, index, report)
    if settings is None:
        return None
    defaults: Defaults = draft.sections["defaults"]
    on_error = item.on_error or defaults.on_error
    if plugin.fails_closed and on_error == "open":
        if item.on_error is not None:
            message = (
                f"found on_error: open for {name!r}, whose failure must refuse the call; expected `closed`"
            )
            report.add("LS405", ("plugins", index, "on_error"), message, "leave it out")
        on_error = "closed"
    return PluginEntry(
        name=name,
        use=item.use,
        mode=item.mode or defaults.mode,
        on_error=on_error,
        timeout=item.timeout or defaults.timeout,
        settings=settings,
        plugin=plugin,
        line=line,
    )


def _files(base: FilePath | None) -> list[str]:
    """The Python files beside the policy, as `use` would name them."""
    return sorted(f"./{path.name}" for path in base.glob("*.py")) if base is not None else []


def _settings(plugin: type[Plugin], item: PluginUse, index: int, report: Report) -> BaseModel | None:
    """The plugin's settings, from beside `use` and from `with`; None with findings."""
    model = plugin.Settings
    if not (isinstance(model, type) and issubclass(model, BaseModel)) or model.model_config.get(
        "extra"
    ) not in ("forbid", "allow"):
        message = f"found {plugin.__name__}.Settings that would ignore unknown keys, expected a model that forbids them"
        report.add(
            "LS402", ("plugins", index, "use"), message, "class Settings(llmshield.hookspecs.Settings): ..."
        )
        return None
    beside = item.model_extra or {}
    for key in beside.keys() & item.with_.keys():
        report.add(
            "LS404",
            ("plugins", index, "with", key),
            f"found {key!r} here and beside `use`",
            "keep one of them",
            at="key",
        )
    try:
        return model.model_validate({**beside, **item.with_})
    except ValidationError as error:
        _add_errors(report, error, index, item, model)
        return None
    except Exception as error:  # noqa: BLE001
        # A plugin's own validator failed in a way pydantic does not collect; it must not end the inspection.
        report.add("LS402", ("plugins", index, "use"), f"the settings' check raised {type(error).__name__}")
        return None


def _add_errors(
    report: Report, error: ValidationError, index: int, item: PluginUse, model: type[BaseModel]
) -> None:
    """Findings at the place where each setting is written: beside `use`, or under `with`."""
    add_errors(
        report,
        error,
        ("plugins", index),
        model,
        relocate=lambda loc: ("with", *loc) if loc and loc[0] in item.with_ else loc,
        also=()
        if item.with_
        else tuple(key for key in PluginUse.model_fields if key not in ("with_", "use")),
    )
