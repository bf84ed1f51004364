"""The plugin itself: who has agreed, what is listened to, and what of it goes to the thread that keeps."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from functools import partial

from llmshield import clock
from llmshield.call import Call, Reply
from llmshield.errors import PluginError, SecretError, StoreUnavailable
from llmshield.hookspecs import Plugin, Resources, hookimpl
from llmshield.logs import log, stamp
from llmshield.metrics import Metrics
from llmshield.policy import Policy
from llmshield.transcripts import Kept, Told, Transcripts
from llmshield.transcripts.keeping import LONGEST_USER
from llmshield_plugins.transcripts.settings import TranscriptsSettings
from llmshield_plugins.transcripts.story import Story
from llmshield_plugins.transcripts.writer import Writer

HEADER = "x-llmshield-consent"
PURPOSE = "transcripts"
_CLOSE_S = 5.0
_LONGEST_NAME = 256


class ConsentedTranscripts(Plugin):
    """See the package's docstring and docs/plugins/transcripts.md."""

    Settings = TranscriptsSettings
    once = True
    settings: TranscriptsSettings

    def __init__(self, settings: TranscriptsSettings) -> None:
        super().__init__(settings)
        self._by_header = "header" in settings.consent
        self._tenants: frozenset[str] = frozenset()
        self._roles = frozenset(settings.roles)
        self._transcripts = Transcripts(Kept(settings.store, settings.keys))
        self._writer = Writer(self._transcripts, settings.queue)
        self._started = False
        if not settings.required:
            self.idle = frozenset({"pre_request"})

    async def start(self, resources: Resources) -> None:
        """Open the store and begin to write. Raises: PluginError for a policy that could keep what was not cleaned;
        SecretError without the right master key; StoreUnavailable with `required`."""
        policy = resources.get(Policy)
        self._check_place(policy)
        self._check_cleaners(policy)
        if "tenant" in self.settings.consent:
            self._tenants = frozenset(
                name for name, tenant in policy.tenants.items() if PURPOSE in tenant.consent
            )
        try:
            await asyncio.to_thread(self._transcripts.open)
        except StoreUnavailable as error:
            if self.settings.required:
                raise
            log.warning("transcripts_failed", reason=str(error))
            self._writer.failure = str(error)
        except SecretError as error:
            raise SecretError(f"{error}; transcripts are sealed with LLMSHIELD_SECRET_KEY only") from None
        self._writer.start()
        self._started = True
        self._show(resources.get(Metrics))

    def _check_place(self, policy: Policy) -> None:
        money = policy.server.store
        if money.startswith("sqlite:") and money in {self.settings.store, self.settings.keys}:
            raise PluginError(
                "transcripts may not be in `server.store`: they are bulky, and erasing writes a whole file anew; name another file"
            )

    def _check_cleaners(self, policy: Policy) -> None:
        modes = {entry.name: entry.mode for entry in policy.plugins}
        for name in self.settings.cleaned_by:
            mode = modes.get(name)
            if mode != "enforce":
                found = "is not in the policy" if mode is None else f"is in mode: {mode}"
                raise PluginError(
                    f"cleaned_by names {name!r}, which {found}: no transcript would ever be kept. Put it to work, or name"
                    " what cleans instead (cleaned_by: [] keeps what callers write as it is)"
                )

    def _show(self, metrics: Metrics) -> None:
        writer = self._writer
        for name, help, read in (
            ("kept", "Conversations that were kept.", lambda: float(writer.kept)),
            ("dropped", "Conversations that were lost: the queue was full, or the store away for too long.",
             lambda: float(writer.dropped)),
            ("late", "Conversations not kept because their person was erased meanwhile.", lambda: float(writer.late)),
            ("waiting", "Conversations that wait for the store.", lambda: float(writer.waiting)),
            ("failing", "1 while none can be kept.", lambda: float(writer.failure is not None)),
        ):  # fmt: skip
            metrics.gauge(f"llmshield_transcripts_{name}", help, read=read)

    async def close(self) -> None:
        """Write what waits, and let go of the store."""
        if self._started:
            await asyncio.to_thread(self._writer.close, _CLOSE_S)
        else:
            await asyncio.to_thread(self._transcripts.close)

    # -- who has agreed

    def _consented(self, call: Call) -> str | None:
        """What the consent rests on: `header` or `tenant`; None where there is none. A header that says anything
        else than consent takes it back, also the tenant's."""
        said = call.headers.get(HEADER)
        if said is None:
            return "tenant" if call.tenant in self._tenants else None
        if PURPOSE not in (words := {word.strip().lower() for word in said.split(",")}) or "none" in words:
            return None
        return "header" if self._by_header else "tenant" if call.tenant in self._tenants else None

    @hookimpl
    def pre_request(self, call: Call) -> None:
        """With `required`: who has agreed and can't be kept now is not served. Raises: StoreUnavailable."""
        if (
            (self._writer.failure is not None or self._writer.full)
            and call.enforced
            and call.user
            and call.operation == "generate"
            and self._consented(call) is not None
        ):
            raise StoreUnavailable(
                f"transcripts can't be kept: {self._writer.failure or 'too many wait for the store'}"
            )

    # -- what is kept

    @hookimpl
    def post_response(self, call: Call, reply: Reply) -> None:
        """Listen to the reply, where it may be kept."""
        source = self._consented(call)
        if source is None or call.operation != "generate":
            return
        if not call.user or len(call.user) > LONGEST_USER:
            call.report("transcript", "nobody")  # it could be neither exported nor erased
            return
        if not all(map(call.was_run, self.settings.cleaned_by)):
            call.report("transcript", "unclean")
            return
        if not call.enforced:
            call.report("transcript", "would-keep")
            return
        call.report("transcript", "keep", place=source)
        known = self._transcripts.known_at(call.began)
        story = Story(call, self._roles, self.settings.max_characters, source, clock.now(), known)
        reply.listen(story.begin)
        reply.at_end(partial(self._end, call, story))

    def _end(self, call: Call, story: Story, reply: Reply) -> None:
        """The reply has ended: queue what is kept of the conversation."""
        replies = story.replies()
        if not replies:
            return
        if any(
            map(call.has_failed, self.settings.cleaned_by)
        ):  # in the middle of the reply, and was passed over
            call.report("transcript", "unclean")
            return
        request, cut = story.request()
        texts = request + [each for heard in replies for each in heard.texts()]
        if not texts:
            return
        about = {"at": stamp(story.began), **story.about(reply, replies, cut)}
        for name in ("model", "answered_model", "provider"):
            about[name] = str(about[name])[:_LONGEST_NAME]
        self._writer.put(
            Told(
                call.tenant, call.user, call.id, story.began + self.settings.ttl, story.erasures, about, texts,
                copy_context(),
            )
        )  # fmt: skip
