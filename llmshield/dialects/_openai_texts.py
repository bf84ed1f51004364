"""Readers of request fields that the OpenAI dialects share: parts, files, tools, metadata.

`call.unseen` gets a word for content that the provider holds, or that is here but no text: `image_url`,
`image_data`, `audio_data`, `audio_id`, `file_data`, `file_id`, `file_url`, `server_tool:NAME`, and from the
responses and embeddings dialects `previous_response_id`, `conversation`, `prompt_id`, `item_reference`,
`background`, `encrypted_content`, `token_ids`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from llmshield.call import Call, Path, Role, TextKind, Tree
from llmshield.dialects._files import is_base64
from llmshield.dialects._tree import (
    Walker,
    add_text,
    add_token,
    seal_base64,
    seal_json,
    walk_unknown,
    walk_value,
)
from llmshield.dialects._wire import refuse_twins

Fields: TypeAlias = "dict[str, Walker]"
"""The readers of an object's fields; what is not in it is unknown and walked."""

_CLIENT_TOOLS = frozenset(("function", "custom", "local_shell", "apply_patch"))
"""Tools that the client runs: they cost the provider nothing but tokens. `computer_use` hands over pictures."""


_SETTINGS = frozenset((int, float, bool, type(None)))
"""What a setting may be that nobody has to look at."""


def mark(call: Call, what: str) -> None:
    """Note content that no guard can read, once."""
    if what not in call.unseen:
        call.unseen.append(what)


def read_body(call: Call, tree: Tree, fields: Fields) -> None:
    """Every field of a request's body by its reader; the names of `fields` are in lower case.

    Raises: WireError for a field that differs from one of these only in case.
    """
    for key in tree:
        reader = fields.get(key)
        if reader is TOKEN and type(tree[key]) in _SETTINGS:
            continue
        if reader is None:
            refuse_twins(key, fields)
            walk_unknown(call, "user", tree, key, (key,))
        else:
            reader(call, "user", tree, key, (key,))


def read_fields(call: Call, role: Role, node: Any, path: Path, fields: Fields) -> None:
    """Every field of an object by its reader."""
    for key in node:
        reader = fields.get(key)
        if reader is None:
            walk_unknown(call, role, node, key, (*path, key))
        else:
            reader(call, role, node, key, (*path, key))


def TOKEN(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """An id, enum member or setting of the written list."""
    kind: TextKind = "metadata" if path == ("model",) else "prompt"
    add_token(call, role, holder, key, path, kind)


def metadata(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """Sent along, read by no model."""
    walk_value(call, role, holder, key, path, "metadata", numbers=True)


def token_map(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """`logit_bias`: token ids to numbers; whatever else stands there is walked."""
    value = holder[key]
    if type(value) is not dict:
        walk_value(call, role, holder, key, path)
        return
    for name, bias in value.items():
        if not (name.isascii() and name.isdigit() and len(name) <= 7 and type(bias) in (int, float)):
            walk_unknown(call, role, value, name, (*path, name))


def read_url(call: Call, role: Role, holder: Any, key: Any, path: Path, what: str) -> None:
    """A URL of a picture or file, or the file itself in a data URL.

    A remote one is metadata (a mail address in its query is personal data, but no model reads it); an inline one
    is scanned when it holds text.
    """
    value = holder[key]
    if type(value) is not str:
        walk_value(call, role, holder, key, path)
    elif value[:5].lower() == "data:":
        sealed = seal_base64(call, role, holder, key, path)
        if not sealed or what == "image":  # a picture is paid for as one, whatever its bytes read like
            mark(call, f"{what}_data")
        if not sealed and ";base64," not in value[:256].lower():
            # Percent-encoded or bare: readable as it stands.
            add_text(call, role, holder, key, path)
    else:
        mark(call, f"{what}_url")
        add_text(call, role, holder, key, path, "metadata")


def read_image(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """`image_url`: an object with a URL and a detail, or (in responses and in loose clients) the bare URL."""
    value = holder[key]
    if type(value) is not dict:
        read_url(call, role, holder, key, path, "image")
        return
    read_fields(call, role, value, path, _IMAGE)


def read_input_audio(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """Sound in base64."""
    value = holder[key]
    mark(call, "audio_data")
    if type(value) is dict:
        read_fields(call, role, value, path, _AUDIO)
    else:
        walk_value(call, role, holder, key, path)


def read_input_file(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """A file: in base64, by id or by URL; the model reads its name."""
    value = holder[key]
    if type(value) is dict:
        read_fields(call, role, value, path, FILE)
    else:
        walk_value(call, role, holder, key, path)


def read_tools(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """Tool definitions: everything in them is read by the model; tools that the provider runs are noted."""
    value = holder[key]
    if type(value) is list:
        for tool in value:
            kind = tool.get("type") if type(tool) is dict else None
            if type(kind) is str and kind not in _CLIENT_TOOLS:
                mark(call, f"server_tool:{kind[:40]}")
    walk_value(call, "tool", holder, key, path)


def _url(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    read_url(call, role, holder, key, path, "image")


def _file_url(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    read_url(call, role, holder, key, path, "file")


def _base64(call: Call, role: Role, holder: Any, key: Any, path: Path, what: str) -> None:
    value = holder[key]
    if type(value) is not str:
        walk_value(call, role, holder, key, path)
    elif value:
        sealed = seal_base64(call, role, holder, key, path)
        if not sealed or what == "image_data":
            mark(call, what)
        if not sealed and not _is_base64(value):
            add_text(call, role, holder, key, path)


def _file_data(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    _base64(call, role, holder, key, path, "file_data")


def _audio_data(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    _base64(call, role, holder, key, path, "audio_data")


def file_id(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """The id of something uploaded before."""
    if holder[key] is not None:
        mark(call, "file_id")
        add_token(call, role, holder, key, path)


def _is_base64(value: str) -> bool:
    """True for a run of base64, bare or behind a data URL's head; other words in such a field are scanned."""
    start = value.find(";base64,", 0, 256)
    return is_base64(value[start + 8 :] if start >= 0 else value)


def picture(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """A picture in base64, bare."""
    _base64(call, role, holder, key, path, "image_data")


def plain(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """Text, or whatever else stands in its place; of a tool, JSON may be in it."""
    if role == "tool":
        result(call, role, holder, key, path)
    else:
        walk_value(call, role, holder, key, path)


def result(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """What a tool gave back. JSON with escapes in it is read by its leaves: in `"\\nal@x.example"` a guard would find
    another address than the model does, and its edit would break the escape. Other text is read as it stands."""
    value = holder[key]
    if type(value) is str and "\\" in value and value.lstrip()[:1] in ("{", "["):
        seal_json(call, role, holder, key, path, numbers=False)
    else:
        walk_value(call, role, holder, key, path, numbers=True)


def definition(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """A schema or a choice of tools: the model reads it with the tools."""
    walk_value(call, "tool", holder, key, path)


def tokens(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """A list of enum members."""
    value = holder[key]
    if type(value) is list:
        for index in range(len(value)):
            add_token(call, role, value, index, (*path, index))
    else:
        walk_value(call, role, holder, key, path)


def marked(what: str) -> Walker:
    """A reader of a field that points at what the provider holds, or does by itself."""

    def read(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
        if holder[key]:
            mark(call, what)
            add_token(call, role, holder, key, path)

    return read


_IMAGE: Fields = {"url": _url, "detail": TOKEN}
_AUDIO: Fields = {"data": _audio_data, "format": TOKEN}
FILE: Fields = {
    "file_data": _file_data,
    "file_id": file_id,
    "file_url": _file_url,
    "filename": plain,
    "detail": TOKEN,
}
