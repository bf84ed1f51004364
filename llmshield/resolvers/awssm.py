"""`awssm://NAME[?region=R&version=ID&stage=S][#FIELD]`: a secret of AWS Secrets Manager, by name or ARN; of one that is
a JSON object, one field. Needs the extra `aws`."""

from __future__ import annotations

from pathlib import Path

from llmshield.errors import SecretError
from llmshield.resolvers._aws import ask
from llmshield.resolvers._parts import picked, split


def resolve(rest: str, base: Path, owner: str | None = None) -> str:
    """The key. Raises: SecretError with what AWS said and what to do."""
    ref = f"awssm://{rest}"
    parts = split(rest, ref, "region", "version", "stage")
    given = {"VersionId": parts.options.get("version"), "VersionStage": parts.options.get("stage")}
    wanted = {name: value for name, value in given.items() if value}
    answer = ask(
        "secretsmanager",
        parts.options.get("region", ""),
        ref,
        lambda client: client.get_secret_value(SecretId=parts.path, **wanted),
    )
    text = answer.get("SecretString")
    if text is None:
        try:
            text = bytes(answer.get("SecretBinary") or b"").decode("ascii")
        except UnicodeDecodeError:
            raise SecretError(f"{ref}: what is kept there is no text") from None
    return picked(text, parts.field, ref)


def warn(rest: str, base: Path) -> str:
    """Nothing: AWS guards it."""
    return ""
