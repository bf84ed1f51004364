"""The hash-chained record on disk: segments, their anchors, and the proof that they are what was written."""

from llmshield.evidence.heads import anchor_path, heads_path
from llmshield.evidence.segments import GENESIS, EvidenceError, Segment, Stream, segments
from llmshield.evidence.verifying import Report, verify

__all__ = [
    "GENESIS", "EvidenceError", "Report", "Segment", "Stream", "anchor_path", "heads_path", "segments", "verify",
]  # fmt: skip
