"""Policy for LLM traffic of software that already exists."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("llmshield-sidecar")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
