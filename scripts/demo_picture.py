"""Draws what `llmshield demo` prints into docs/img/demo.svg: the README's picture is the real output.

.venv/bin/python scripts/demo_picture.py
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from llmshield.cli._scenes import Stage, play
from llmshield.cli.demo import ADMIN_TOKEN, sidecar
from llmshield.simulator import SimulatorThread

TARGET = Path(__file__).resolve().parent.parent / "docs" / "img" / "demo.svg"


def main() -> int:
    """Play the demo on a recording console; returns how many checks failed."""
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=150, highlight=False, file=nowhere, force_terminal=True)
        with (
            tempfile.TemporaryDirectory() as folder,
            SimulatorThread(name="primary", delay="15ms") as primary,
            SimulatorThread(name="backup") as backup,
            sidecar(Path(folder), primary.url, backup.url) as (url, admin),
        ):
            failed = play(
                Stage(url=url, admin=admin, token=ADMIN_TOKEN, primary=primary, backup=backup), console
            )
        svg = console.export_svg(title="llmshield demo", theme=MONOKAI)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # no fonts from elsewhere
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(svg, encoding="utf-8")
    return failed


if __name__ == "__main__":
    sys.exit(main())
