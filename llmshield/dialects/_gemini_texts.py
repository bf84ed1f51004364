"""The texts of Gemini's requests: every string leaf is one, unless it is on the written list here.

Rule 1: what this file does not know is a Text. An SDK that grows a field grows a Text.
Rule 2: protobuf's JSON takes every field in camelCase and as it stands in the .proto (snake_case); both are read,
and both at once are refused, since nobody can say which of them counts
(https://protobuf.dev/programming-guides/json/).
Rule 3: names on the list count only where the API's own messages are read; in arguments, results, schemas and
labels there is no list, and names of keys are texts as well.
"""

from __future__ import annotations

from typing import Any

from llmshield.call import Call, Path, Role, Text
from llmshield.dialects._tree import Walker, add_text, add_token, refuse, walk_unknown, walk_value
from llmshield.dialects._wire import folded, is_opaque, refuse_twins, seal_data
from llmshield.errors import WireError

NOT_TEXT: dict[str, str] = {
    "role": "enum; decides the role of the texts beside it",
    "id": "id of a call",
    "model": "name of a model; must be the one in the path",
    "modelName": "name of a model",
    "mimeType": "enum",
    "language": "enum of executableCode",
    "outcome": "enum of codeExecutionResult",
    "mediaResolution": "enum",
    "level": "enum of mediaResolution",
    "mediaProcessing": "enum",
    "scheduling": "enum of functionResponse",
    "willContinue": "flag",
    "toolType": "enum",
    "contentLayers": "enums",
    "startOffset": "duration",
    "endOffset": "duration",
    "fps": "number",
    "category": "enum of safetySettings",
    "threshold": "enum of safetySettings",
    "method": "enum of safetySettings",
    "behavior": "enum of functionDeclarations",
    "mode": "enum",
    "environment": "enum of computerUse",
    "apiSpec": "enum",
    "authType": "enum",
    "httpElementLocation": "enum",
    "startTime": "time stamp",
    "endTime": "time stamp",
    "modelRoutingPreference": "enum",
    "featureSelectionPreference": "enum",
    "responseMimeType": "enum",
    "responseModalities": "enums",
    "outputMimeType": "enum",
    "aspectRatio": "enum",
    "imageSize": "enum",
    "personGeneration": "enum",
    "prominentPeople": "enum",
    "thinkingLevel": "enum",
    "delivery": "enum of responseFormat",
    "resolution": "enum of responseFormat",
    "voiceName": "name of a voice",
    "languageCode": "BCP-47 code",
    "languageCodes": "BCP-47 codes",
    "targetLanguageCode": "BCP-47 code",
    "taskType": "enum of embedContent",
    "serviceTier": "enum",
    "cachedContent": "name of cached content (marked unseen)",
    "promptTemplateName": "name of a template",
    "responseTemplateName": "name of a template",
    "outputUriPrefix": "place where media are stored",
    "gcsUri": "place where media are stored",
    "maxOutputTokens": "number that the API counts with",
    "candidateCount": "number that the API counts with",
    "thinkingBudget": "number that the API counts with",
    "includeThoughts": "flag",
    "outputDimensionality": "number that the API counts with",
    "seed": "number that the API counts with",
    "topK": "number that the API counts with",
    "topP": "number that the API counts with",
    "temperature": "number that the API counts with",
    "logprobs": "number that the API counts with",
    "responseLogprobs": "flag",
    "presencePenalty": "number that the API counts with",
    "frequencyPenalty": "number that the API counts with",
    "latitude": "number",
    "longitude": "number",
}
"""Leaves that no model reads, with the reason; skipped only while they look like what they should be."""

OPAQUE: dict[str, str] = {
    "thoughtSignature": "seal of the API over a thought",
    "continuationToken": "token of the API",
    "voiceSampleAudio": "bytes",
    "consentAudio": "bytes",
    "signature": "seal of the API (voiceConsentSignature)",
    "apiKey": "key for a tool's server; travels to the API only",
    "apiKeyString": "key for a tool's server; travels to the API only",
    "apiKeySecret": "name of a key",
    "apiKeySecretVersion": "name of a key",
    "credentialSecret": "name of a key",
    "accessToken": "key for a tool's server; travels to the API only",
    "idToken": "key for a tool's server; travels to the API only",
    "serviceAccount": "name of an account of the API's user",
}
"""Leaves without blanks that only the API can read; anything with a blank in it is a Text."""

_ROLES: dict[str, Role] = {"user": "user", "model": "assistant", "function": "tool", "system": "system"}

_MEDIA = ("image", "audio", "video")


def snake(name: str) -> str:
    """The .proto spelling of a JSON name."""
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name)


def camel(name: str) -> str:
    """The JSON spelling of a .proto name."""
    head, *rest = name.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in rest)


def refuse_both(node: dict[str, Any], path: Path) -> None:
    """Raises: WireError when a field is there in both spellings."""
    for key in node:
        if "_" in key and (other := camel(key)) != key and other in node:
            place = "".join(f"/{step}" for step in (*path, key))
            raise WireError(f"{other!r} is given in two spellings; keep one of them.", place)


def read_texts(call: Call, body: dict[str, Any], path: Path = ()) -> None:
    """All texts of a request body (also of one inside another), and what the provider holds unseen."""
    refuse_both(body, path)
    for key in body:
        reader = _TOP.get(key)
        if reader is None:
            refuse_twins(key, _TOP_FOLDED)
            walk_unknown(call, "user", body, key, (*path, key))
        else:
            reader(call, "user", body, key, (*path, key))


def mark_unseen(call: Call, what: str) -> None:
    """Note content that the provider holds or makes and no guard reads."""
    if what not in call.unseen:
        call.unseen.append(what)


def _contents(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    value = holder[key]
    if type(value) is list:
        for index in range(len(value)):
            _content(call, role, value, index, (*path, index))
    else:
        _content(call, role, holder, key, path)


def _system(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    _content(call, "system", holder, key, path)


def _content(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """One Content: a role and parts. What a client says in a system instruction's `role` does not count."""
    content = holder[key]
    if type(content) is not dict:
        if content is not None and type(content) is not str:
            refuse("".join(f"/{step}" for step in path), "is no content object")
        walk_value(call, role, holder, key, path)
        return
    said = content.get("role")
    if said is not None and type(said) is not str:
        refuse("".join(f"/{step}" for step in (*path, "role")), "is no string")
    if role != "system" and said:
        role = _ROLES.get(said, "user")
    if len(content) > 2 or "parts" not in content:
        refuse_both(content, path)
    for name in content:
        at = (*path, name)
        if name == "role":
            if said not in _ROLES:
                add_token(call, role, content, name, at)
        elif name == "parts":
            _parts(call, role, content, name, at)
        else:
            _field(call, role, content, name, at)


def _parts(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    parts = holder[key]
    if type(parts) is dict:
        _part(call, role, parts, path)
    elif type(parts) is list:
        for index, part in enumerate(parts):
            if type(part) is dict:
                text = part.get("text")
                if len(part) == 1 and type(text) is str:
                    if text:
                        call.texts.append(Text(call, role, part, "text", (*path, index, "text")))
                else:
                    _part(call, role, part, (*path, index))
            else:
                refuse("".join(f"/{step}" for step in (*path, index)), "is no part object")
    elif parts is not None:
        refuse("".join(f"/{step}" for step in path), "is no list of parts")


def _part(call: Call, role: Role, part: dict[str, Any], path: Path) -> None:
    refuse_both(part, path)
    for name in part:
        _field(call, role, part, name, (*path, name))


def _field(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """One field of one of the API's own messages."""
    reader = _FIELDS.get(key)
    if reader is None:
        walk_unknown(call, role, holder, key, path)
    else:
        reader(call, role, holder, key, path)


def _object(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """One of the API's own messages, or a list of them; something else than that is walked like any value."""
    value = holder[key]
    if type(value) is dict:
        refuse_both(value, path)
        for name in value:
            _field(call, role, value, name, (*path, name))
    elif type(value) is list:
        for index in range(len(value)):
            _object(call, role, value, index, (*path, index))
    else:
        walk_value(call, role, holder, key, path)


def _tool_object(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    _object(call, "tool", holder, key, path)


def _arguments(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """What a function is given or gives back: all strings, names and numbers."""
    walk_value(call, "tool", holder, key, path, numbers=True)


def _schema(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    walk_value(call, "tool", holder, key, path)


def _blob(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """inlineData: bytes in base64; those that hold text become a Text, pictures and sound are unseen."""
    blob = holder[key]
    if type(blob) is not dict:
        walk_value(call, role, holder, key, path)
        return
    refuse_both(blob, path)
    for name in blob:
        at = (*path, name)
        if name == "data" and type(blob[name]) is str:
            before, what = len(call.texts), _media(blob.get("mimeType", blob.get("mime_type")))
            seal_data(call, role, blob, name, at)
            if blob[name] and (len(call.texts) == before or what != "document"):
                mark_unseen(call, what)
        else:
            _field(call, role, blob, name, at)


def _media(mime: Any) -> str:
    if type(mime) is not str:
        return "document"
    kind = mime.partition("/")[0].lower()
    return kind if kind in _MEDIA else "pdf" if mime.lower() == "application/pdf" else "document"


def _file(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """fileData: an uploaded file or an address that the provider fetches; its name and address are texts."""
    if holder[key]:
        mark_unseen(call, "file_id")
    _object(call, role, holder, key, path)


def _tools(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """Functions run at the client; every other tool runs at the provider and puts unseen content into the call."""
    tools = holder[key]
    for tool in tools if type(tools) is list else (tools,):
        if type(tool) is not dict:
            continue
        for name, value in tool.items():
            kind = camel(name)
            if kind == "mcpServers" and value:
                mark_unseen(call, "mcp_servers")
            elif kind not in _CLIENT_TOOLS and value is not None:
                mark_unseen(call, "server_tools")
    _object(call, "tool", holder, key, path)


_CLIENT_TOOLS = ("functionDeclarations", "computerUse")


def _cached(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    if holder[key]:
        mark_unseen(call, "cached_content")
    add_token(call, role, holder, key, path)


def _opaque(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    value = holder[key]
    if type(value) is not str:
        walk_value(call, role, holder, key, path)
    elif not is_opaque(value):
        add_text(call, role, holder, key, path)


def _metadata(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    walk_value(call, role, holder, key, path, "metadata")


def _requests(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """batchEmbedContents: requests of their own."""
    requests = holder[key]
    if type(requests) is not list:
        refuse("".join(f"/{step}" for step in path), "is no list of requests")
    for index, request in enumerate(requests):
        if type(request) is not dict:
            refuse("".join(f"/{step}" for step in (*path, index)), "is no request object")
        read_texts(call, request, (*path, index))


def _request(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """countTokens: a whole request inside."""
    request = holder[key]
    if type(request) is not dict:
        refuse("".join(f"/{step}" for step in path), "is no request object")
    read_texts(call, request, path)


_PLAIN = """
text thought name description title output code displayName fileUri uri jsonPath stringValue numberValue boolValue
nullValue speaker style word speakerLabel visibleCells sheetCount excludedPredefinedFunctions excludeDomains
allowedFunctionNames metadataFilter fileSearchStoreNames datastore dataStore engine filter endpoint index
searchTemplate ragCorpora ragCorpus ragFileIds url topics enableWidget store sseReadTimeout timeout
terminateOnClose audioTimestamp enableEnhancedCivicAnswers duration sourceText customVocabulary adaptationPhrases
blockingConfidence maxResults numHits similarityTopK vectorDistanceThreshold vectorSimilarityThreshold alpha
dynamicThreshold streamFunctionCallArguments numBytes pageCount disable maximumRemoteCalls wordTimestamp
enableAffectiveDialog ignoreCallHistory phraseMatching pageStart pageEnd autoTruncate documentOcr
audioTrackExtraction confidence numberOfSpeakers maxTopK enablePromptInjectionDetection maskedOutput
includeServerSideToolInvocations disabledSafetyPolicies blockedKeywords imageSearch webSearch
"""
"""Fields whose names say nothing: their values are texts, as those of unknown fields; the names are not."""

_OBJECTS = """
videoMetadata documentMetadata spreadsheetMetadata audioMetadata speechMetadata audioTranscription words
executableCode codeExecutionResult parts safetySettings generationConfig speechConfig voiceConfig
prebuiltVoiceConfig replicatedVoiceConfig voiceConsentSignature multiSpeakerVoiceConfig speakerVoiceConfigs
thinkingConfig routingConfig autoMode manualMode modelSelectionConfig imageConfig imageOutputOptions
modelArmorConfig audioTranscriptionConfig languageAuto languageHints generationOutputConfig responseFormat audio
image video translationConfig embedContentConfig
"""

_TOOL_OBJECTS = """
functionCall functionResponse toolCall toolResponse partialArgs toolConfig functionCallingConfig retrievalConfig
latLng functionDeclarations retrieval externalApi apiAuth apiKeyConfig authConfig googleServiceAccountConfig
httpBasicAuthConfig oauthConfig oidcConfig elasticSearchParams simpleSearchParams vertexAiSearch dataStoreSpecs
vertexRagStore ragResources ragRetrievalConfig hybridSearch ranking llmRanker rankService computerUse fileSearch
googleSearch searchTypes timeRangeFilter googleMaps groundingTypes places routing codeExecution
enterpriseWebSearch googleSearchRetrieval dynamicRetrievalConfig parallelAiSearch urlContext mcpServers
streamableHttpTransport exaAiSearch
"""

_CAMEL: dict[str, Walker] = {
    **dict.fromkeys(_PLAIN.split(), walk_value),
    **dict.fromkeys(_OBJECTS.split(), _object),
    **dict.fromkeys(_TOOL_OBJECTS.split(), _tool_object),
    **dict.fromkeys(NOT_TEXT, add_token),
    **dict.fromkeys(OPAQUE, _opaque),
    **dict.fromkeys(("args", "response", "customConfigs", "headers"), _arguments),
    **dict.fromkeys(
        ("parameters", "parametersJsonSchema", "responseJsonSchema", "responseSchema", "schema"), _schema
    ),
    "inlineData": _blob,
    "fileData": _file,
    "parts": _parts,
    "stopSequences": _metadata,
    "partMetadata": _arguments,
}

_CAMEL_TOP: dict[str, Walker] = {
    **_CAMEL,
    "contents": _contents,
    "content": _contents,
    "systemInstruction": _system,
    "tools": _tools,
    "cachedContent": _cached,
    "labels": _metadata,
    "requests": _requests,
    "generateContentRequest": _request,
}

_FIELDS: dict[str, Walker] = {**{snake(name): read for name, read in _CAMEL.items()}, **_CAMEL}
_TOP: dict[str, Walker] = {**{snake(name): read for name, read in _CAMEL_TOP.items()}, **_CAMEL_TOP}
_TOP_FOLDED = folded(_TOP)
