"""`python -m llmshield`: the same as the command `llmshield`."""

from llmshield.cli import main

main()
