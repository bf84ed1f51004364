"""secrets: keys, tokens and passwords neither leave nor come back.

Finds credentials by the shapes that some hundred and twenty issuers give them, private keys, JWTs, URLs with a
password, and what a name announces (`DB_PASSWORD=...`), in everything that is sent and in everything that comes
back, in tool arguments and in streams as well; redacts, blocks or flags them by rule or group of rules.

Settings: `action`, `rules`, `min_entropy`, `allow`, `allow_patterns`, `scan`.
Hooks: `pre_request` proposes the edits; `post_response` hangs on the output guard.

    plugins:
      - use: secrets
        action: redact
        rules:
          cloud: block
          private_key: block
          announced: {action: flag, min_entropy: 3.5}
"""

from llmshield_plugins.secrets.plugin import Secrets

__all__ = ["Secrets"]
