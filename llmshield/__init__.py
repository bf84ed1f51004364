"""Policy for LLM traffic of software that already exists."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmshield.redact import redact_secret, sanitize_error_message

__all__ = ["__version__", "redact_secret", "sanitize_error_message"]

try:
    __version__ = version("llmshield-sidecar")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """The public functions, loaded when they are asked for: importing the package costs next to nothing."""
    if name in ("redact_secret", "sanitize_error_message"):
        from llmshield import redact

        return getattr(redact, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
