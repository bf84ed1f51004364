"""What every resolver asks of a value before it may become a header: not empty, one line, printable ASCII."""

from __future__ import annotations

from llmshield.errors import SecretError

MAX_CHARACTERS = 16_384


def clean(value: str, ref: str) -> str:
    """The value without blanks around it.

    Raises: SecretError, naming only the reference, for what no provider takes as a key: nothing, several lines
    (which would split a header), control characters, or more than 16,384 characters.
    """
    value = value.strip()
    if not value:
        raise SecretError(f"{ref} is empty; put the key there")
    if len(value) > MAX_CHARACTERS:
        raise SecretError(f"{ref} holds more than {MAX_CHARACTERS} characters; expected one key")
    if not all("\x21" <= char <= "\x7e" for char in value):
        raise SecretError(f"{ref} holds blanks, several lines or characters outside ASCII; expected one key")
    return value
