"""The command line: one file for each command, and the file's name is the command's name.

A command file has `register(app: typer.Typer) -> None`, which adds one command or one group of that name. Only
the file of the command that was typed is imported, and none for `--version`: typer alone takes half of the
0.3 s that a command may need to answer. A new command is a new file; nothing is listed here.

Exit status everywhere: 0 good, 1 no (findings, a broken chain, a failure told in one line), 2 usage.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback
from typing import TYPE_CHECKING

from llmshield import __version__
from llmshield.errors import ShieldError
from llmshield.redact import redact

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Run the command in `sys.argv`; the entry point `llmshield`."""
    words = sys.argv[1:]
    if words in (["--version"], ["-V"]):
        print(f"llmshield {__version__}")
        return
    sys.excepthook = _say_redacted
    try:
        build_app(words[0] if words else None)()
    except ShieldError as error:
        _hide_environment()
        print(redact(f"llmshield: {error}"), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)  # what a shell expects of a program that SIGINT ended


def commands() -> list[str]:
    """The names of all commands, in order of the alphabet."""
    return sorted(room.name for room in pkgutil.iter_modules(__path__) if not room.name.startswith("_"))


def build_app(command: str | None = None) -> typer.Typer:
    """The application with one command, or with all of them when the name is none of ours (help, a typo)."""
    import typer

    # Tracebacks with local variables would print keys and prompts.
    app = typer.Typer(
        name="llmshield", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )

    @app.callback()  # with it, typer keeps the command's name even when only one is there
    def llmshield(
        version: bool = typer.Option(False, "--version", "-V", help="Print the version and exit."),
    ) -> None:
        """One policy for every LLM call that a program makes or serves."""
        if version:
            print(f"llmshield {__version__}")
            raise typer.Exit

    known = commands()
    for name in [command] if command in known else known:
        importlib.import_module(f"{__name__}.{name}").register(app)
    return app


def _say_redacted(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """The last word of a crash: the usual traceback, without what looks like a key."""
    _hide_environment()
    sys.stderr.write("".join(redact(line) for line in traceback.format_exception(error)))


def _hide_environment() -> None:
    from llmshield.child_environment import remember_environment

    remember_environment()
