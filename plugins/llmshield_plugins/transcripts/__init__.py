"""transcripts: conversations are kept for those who have agreed to it, and for nobody else.

Kept is what the provider saw and wrote: requests behind every plugin's edits (placeholders, not values), replies
behind all guards and before anything is put back. Each person's are sealed under a key of their own, for a time, and
`llmshield privacy export | erase --user ID` gives them out and destroys them.

Settings: `store`, `keys`, `ttl`, `consent`, `cleaned_by`, `roles`, `max_characters`, `queue`, `required`.
Hooks: `post_response` listens to the reply; `pre_request`, with `required`, refuses what could not be kept.

    plugins:
      - use: transcripts
        store: sqlite:///transcripts.db
        ttl: 30d
      - use: pii
"""

from llmshield_plugins.transcripts.plugin import ConsentedTranscripts

__all__ = ["ConsentedTranscripts"]
