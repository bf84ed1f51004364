"""What a file of roots is worth to a client of some user: can they read it, and whom does it trust."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12

from llmshield.egress import trust
from llmshield.egress.clients import Trust


def judge(path: str, ours: Sequence[x509.Certificate], uid: int) -> Trust:
    """What a file of roots has, for a client of this user: ours, the system's, both."""
    file = Path(path)
    try:
        data = file.read_bytes()
        if not readable(file, uid):
            return "missing"
        if path.endswith((".p12", ".pfx", ".jks")):
            held = _java(data)
        else:
            held = trust.certificates_in(file)
    except (OSError, ValueError):
        return "missing"
    if not held:
        return "missing"
    if not ours or not set(ours) <= set(held):
        return "others"
    return "both" if len(held) > len(ours) else "ours"


def readable(file: Path, uid: int) -> bool:
    """Whether a user may read a file, by the modes of it and of the folders above; of groups only the owner's counts."""
    if uid == 0:
        return True
    for place, wanted in ((file, 0o4), *((parent, 0o1) for parent in file.absolute().parents)):
        status = place.stat()
        if not status.st_mode & (wanted << 6 if status.st_uid == uid else wanted):
            return False
    return True


def system_trusts(ours: Sequence[x509.Certificate]) -> bool:
    """Whether the system's own roots have ours."""
    for place in trust.SYSTEM:
        if Path(place).is_file():
            return bool(ours) and set(ours) <= set(trust.certificates_in(Path(place)))
    return False


def _java(data: bytes) -> tuple[x509.Certificate, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some old roots have negative serial numbers
        held = pkcs12.load_pkcs12(data, trust.PASSWORD.encode())
    return tuple(entry.certificate for entry in held.additional_certs)
