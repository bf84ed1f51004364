"""find(kind, name): the one way from a name in a policy to the code behind it.

A name is a module in the room of its kind, an entry point of an installed distribution, or (`./file.py`) a file
beside the policy. The core imports none of them by name; a module is imported when it is asked for.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import traceback
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias

from llmshield.errors import PluginError
from llmshield.redact import redact

Kind: TypeAlias = Literal["plugin", "dialect", "store", "resolver", "identity", "translator", "holder"]


class Room(NamedTuple):
    """Where a kind lives: its package, its entry-point group, and the base class of its members.

    Without a base class (`module:Class`), the module itself is the member.
    """

    package: str
    group: str
    base: str


ROOMS: dict[Kind, Room] = {
    "plugin": Room("llmshield_plugins", "llmshield.plugins", "llmshield.hookspecs:Plugin"),
    "dialect": Room("llmshield.dialects", "llmshield.dialects", "llmshield.dialects:Dialect"),
    "store": Room("llmshield.stores", "llmshield.stores", "llmshield.stores:Store"),
    "resolver": Room("llmshield.resolvers", "llmshield.resolvers", ""),
    "translator": Room("llmshield.translators", "llmshield.translators", "llmshield.translators:Translator"),
    "identity": Room("llmshield.identity", "llmshield.identity", "llmshield.identity:Way"),
    "holder": Room("llmshield.holders", "llmshield.holders", "llmshield.holders:Holder"),
}


class NotFound(PluginError):
    """Nobody has this name."""


def names(kind: Kind) -> list[str]:
    """All names of a kind, sorted: modules of the room that do not start with "_", and entry points."""
    return sorted(_shipped(kind) | {entry.name for entry in _entries(ROOMS[kind].group)})


def find(kind: Kind, name: str, base: Path | None = None) -> Any:
    """What `name` stands for: a class for plugins, dialects and stores, a module for resolvers.

    `base` is the folder that `./file.py` starts at.

    Raises: NotFound when nobody has the name; PluginError when two have it, when it can't be imported, or when
    its module has none or several members.
    """
    if name.endswith(".py") or name.startswith((".", "/")):
        return _member(kind, load_file(file_path(name, base)), name)
    room = ROOMS[kind]
    shipped = name in _shipped(kind)
    entries = [entry for entry in _entries(room.group) if entry.name == name]
    claims = [f"{room.package}.{name}"] if shipped else []
    claims += [f"{_owner(entry)} ({entry.value})" for entry in entries]
    if len(claims) > 1:
        raise PluginError(f"the {kind} {name!r} is claimed by {' and '.join(claims)}; uninstall one")
    if not claims:
        raise NotFound(f"found the {kind} {name!r}, expected one of {', '.join(names(kind)) or 'none'}")
    try:
        found = importlib.import_module(f"{room.package}.{name}") if shipped else entries[0].load()
    except Exception as error:
        # Importing runs code of others: whatever it raises means that this name can't be used.
        raise PluginError(f"the {kind} {name!r} ({claims[0]}) can't be imported: {_reason(error)}") from error
    return _member(kind, found, name)


def file_path(name: str, base: Path | None) -> Path:
    """The file that `./name.py` means; it lies in `base` or below.

    Raises: PluginError for absolute paths, for `..`, and without a folder to start at; NotFound without a file.
    """
    relative = Path(name)
    if not name.startswith("./") or not name.endswith(".py") or ".." in relative.parts:
        raise PluginError(f"found {name!r}, expected ./file.py in the policy's folder or below")
    if base is None:
        raise PluginError(f"found {name!r}, but this policy has no folder")
    path = base / relative
    if not path.is_file():
        raise NotFound(f"the file {name!r} does not exist in the policy's folder")
    return path


_files: dict[Path, ModuleType] = {}


def load_file(path: Path) -> ModuleType:
    """The module in a user's file, once for each content; under a name that no other module has.

    Raises: PluginError with the user's file and line for whatever its code raises.
    """
    path = path.absolute()
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise PluginError(f"{path.name} can't be read: {error.strerror}") from error
    place = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    module_name = f"llmshield_file_{''.join(c if c.isalnum() else '_' for c in path.stem)}_{place}_{digest}"
    held = _files.get(path)
    if held is not None and held.__name__ == module_name:
        return held
    spec = spec_from_file_location(module_name, path, loader=_FromSource(module_name, str(path)))
    if spec is None or spec.loader is None:  # a loader was given, so this can't happen
        raise PluginError(f"{path.name} can't be loaded")
    module = module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pydantic look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise PluginError(f"{path.name}{_line(error, path)} can't be imported: {_reason(error)}") from error
    if held is not None:
        sys.modules.pop(held.__name__, None)
    _files[path] = module
    return module


class _FromSource(SourceFileLoader):
    """Compiles the source each time: byte code is found by whole seconds, and an edit may be faster."""

    def path_stats(self, path: str) -> Any:
        raise OSError("no byte code beside a policy")


def _member(kind: Kind, found: Any, name: str) -> Any:
    """The class in a module (or the class that an entry point names) that is what its kind wants."""
    module_name, _, class_name = ROOMS[kind].base.partition(":")
    if not class_name:
        return found
    base: type = getattr(importlib.import_module(module_name), class_name)
    if isinstance(found, type):
        if issubclass(found, base) and found is not base:
            return found
        raise PluginError(f"{name!r} is the class {found.__name__}, expected a subclass of {base.__name__}")
    members = [
        value
        for label, value in vars(found).items()
        if isinstance(value, type)
        and issubclass(value, base)
        and not label.startswith("_")
        and (value.__module__ == found.__name__ or value.__module__.startswith(f"{found.__name__}."))
    ]
    if len(members) == 1:
        return members[0]
    what = " and ".join(sorted(member.__name__ for member in members)) or "none"
    hint = "name the others with a leading underscore" if members else f"class Mine({base.__name__}): ..."
    raise PluginError(f"{name!r}: found {what}, expected one public subclass of {base.__name__}; {hint}")


@cache
def _shipped(kind: Kind) -> frozenset[str]:
    """Modules and packages in the room, by their files: nothing is imported but the room itself."""
    out: set[str] = set()
    for folder in importlib.import_module(ROOMS[kind].package).__path__:
        for path in Path(folder).iterdir():
            if path.name.startswith((".", "_")):
                continue
            if path.suffix == ".py" or (path / "__init__.py").is_file():
                out.add(path.stem if path.suffix == ".py" else path.name)
    return frozenset(out)


@cache
def _entries(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def _owner(entry: EntryPoint) -> str:
    return f"the distribution {entry.dist.name}" if entry.dist is not None else "an entry point"


def _line(error: BaseException, path: Path) -> str:
    """`:12` for the deepest line of the user's own file that the error passed through."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f":{error.lineno}"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return f":{lines[-1]}" if lines else ""


def _reason(error: BaseException) -> str:
    """The error in one line, scrubbed of keys."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return redact(f"{type(error).__name__}: {' '.join(text.split())[:300]}")
