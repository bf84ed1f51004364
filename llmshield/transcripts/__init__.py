"""Transcripts: conversations that are kept, sealed for each person with a key of their own, until their time is over.

    kept = Transcripts(Kept("sqlite:///transcripts.db"))
    kept.open()
    kept.put([Told(...)])                 # sealed, each for its person
    kept.export("alice", None)            # opened
    kept.erase("alice", None)             # the key is destroyed, and the rows with it

`people.py` has their keys, `keeping.py` seals, `places/` keeps rows: one file for each kind of place, one contract for all.
"""

from llmshield.transcripts.keeping import Destroyed, Kept, Stored, Told, Transcripts

__all__ = ["Destroyed", "Kept", "Stored", "Told", "Transcripts"]
