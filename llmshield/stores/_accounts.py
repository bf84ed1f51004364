"""The accounts of the memory store, and which of them are steps of one rolling window."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

from llmshield.stores import MAX_AMOUNT, Line, Standing
from llmshield.stores._ages import STEP_KEPT_MS


@dataclass(slots=True)
class Account:
    """One account in one window."""

    ends_ms: int
    spent: int = 0
    held: int = 0
    requests: int = 0
    tokens: int = 0


class Accounts:
    """All accounts, by name and window."""

    def __init__(self) -> None:
        self.by_key: dict[tuple[str, str], Account] = {}
        self._steps: dict[tuple[str, str], list[str]] = {}
        """Steps of rolling windows that there are, in order, by account and kind."""

    def at(self, line: Line) -> Account:
        """The account of a line, made if it is missing."""
        key = (line.account, line.window)
        account = self.by_key.get(key)
        if account is None:
            account = self.by_key[key] = Account(line.ends_ms)
            if line.window[:1].isdigit():
                insort(self._steps.setdefault(_kind(*key), []), line.window)
        return account

    def standing(self, line: Line) -> Standing:
        """What counts for a line's limit."""
        if not line.since:
            account = self.by_key.get((line.account, line.window))
            return Standing(account.spent, account.held) if account is not None else Standing(0, 0)
        names = self._steps.get(_kind(line.account, line.since), [])
        spent = held = 0
        oldest = ""
        for at in range(bisect_left(names, line.since), len(names)):
            step = self.by_key[line.account, names[at]]
            if step.spent or step.held:
                oldest = oldest or names[at]
                spent += step.spent
                held += step.held
        return Standing(min(spent, MAX_AMOUNT), min(held, MAX_AMOUNT), oldest)

    def forget(self, age_ms: int, kept_ms: int) -> None:
        """Drop what was over so long before this moment, and holds nothing."""
        for key, account in list(self.by_key.items()):
            is_step = key[1][:1].isdigit()
            if 0 < account.ends_ms < age_ms - (STEP_KEPT_MS if is_step else kept_ms) and not account.held:
                del self.by_key[key]
                if is_step:
                    kind = _kind(*key)
                    self._steps[kind].remove(key[1])
                    if not self._steps[kind]:
                        del self._steps[kind]

    def clear(self) -> None:
        """Drop everything."""
        self.by_key.clear()
        self._steps.clear()


def _kind(account: str, step: str) -> tuple[str, str]:
    """Where the steps of one rolling window are listed."""
    return account, step.partition(":")[0]
