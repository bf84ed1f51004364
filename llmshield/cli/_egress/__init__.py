"""The commands of `llmshield egress`, one a file."""
