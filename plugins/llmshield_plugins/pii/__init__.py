"""pii: personal data and secrets never leave; values come back in the answer.

Finds more than ninety kinds (e-mail, cards, IBAN, phones, national numbers, addresses, names, keys, tokens) in
everything that is sent and in everything that comes back, in disguise as well, and replaces, masks, hashes,
redacts, blocks or flags them by kind.

Settings: `entities`, `restore`, `scan`, `hold_back`, `recognisers`, `allow`, `hash_key`, `presidio`, `names`, `conversation`.
Hooks: `pre_request` proposes the edits; `post_response` hangs on the output guard and the restorer.

    plugins:
      - use: pii
        entities:
          "*": {action: replace}
          CREDIT_CARD: {action: mask, keep_last: 4}
          US_SSN: {action: block}
"""

from llmshield_plugins.pii.plugin import Pii

__all__ = ["Pii"]
