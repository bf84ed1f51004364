"""`awsssm://NAME[?region=R][#FIELD]`: a parameter of AWS Systems Manager, decrypted; `llm/openai` means `/llm/openai`,
`NAME:3` its third version. Needs the extra `aws`."""

from __future__ import annotations

from pathlib import Path

from llmshield.resolvers._aws import ask
from llmshield.resolvers._parts import picked, split


def resolve(rest: str, base: Path, owner: str | None = None) -> str:
    """The key. Raises: SecretError with what AWS said and what to do."""
    ref = f"awsssm://{rest}"
    parts = split(rest, ref, "region")
    hierarchy = "/" in parts.path and not parts.path.startswith(("/", "arn:"))
    name = f"/{parts.path}" if hierarchy else parts.path
    answer = ask(
        "ssm",
        parts.options.get("region", ""),
        ref,
        lambda client: client.get_parameter(Name=name, WithDecryption=True),
    )
    return picked(str(answer["Parameter"]["Value"]), parts.field, ref)


def warn(rest: str, base: Path) -> str:
    """Nothing: AWS guards it."""
    return ""
