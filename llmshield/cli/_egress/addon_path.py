"""`llmshield egress addon-path`: where the addon for mitmproxy lies, for those who already run one."""

from __future__ import annotations

import typer


def register(group: typer.Typer) -> None:
    """Add the command."""

    @group.command("addon-path")
    def addon_path() -> None:
        """Print the addon's file: mitmdump -s "$(llmshield egress addon-path)"."""
        from llmshield.egress.running import addon

        print(addon("mitm"))
