"""A provider to rehearse with: OpenAI, Anthropic and Gemini, whole and streamed, with faults on demand.

    llmshield simulate                      a server; every client's base_url may point at it
    async with Simulator() as sim: ...      in a test's own loop: sim.url, sim.calls, sim.say("exact reply")
    with SimulatorThread() as sim: ...      for synchronous clients
    SimulatorApp()                          as an ASGI app

What it answers
    POST [/v1]/chat/completions, /responses, /completions, /embeddings        OpenAI's shapes
    POST [/v1]/messages, /messages/count_tokens; HEAD /                       Anthropic's
    POST [/v1beta|/v1]/models/M:generateContent, :streamGenerateContent, :countTokens, :embedContent,
         :batchEmbedContents                                                  Gemini's; a stream is SSE with
                                                                              alt=sse, else a JSON array
    GET [/v1]/models, /models/M         by the headers anthropic-version and x-goog-api-key, else OpenAI's

By default a friendly sentence that repeats the last user message (or the last tool result). Four characters are a
token; usage, max_tokens, stop sequences, n and log-probabilities follow from that. A JSON schema asked for is met
by its smallest instance. Tools are called when the tool choice forces it, or when the prompt says
`[[call get_weather {"city": "Rome"}]]` (without arguments: the smallest instance of the tool's schema).

How to ask for something else: directives, as `key=value` parted by `,` `;` or `&`. Later sources win, key by key:
    settings        Simulator(fault="429", first=2), or PUT /__sim__/settings while running
    metadata        {"metadata": {"simulate": "..."}} in the request's body
    model           gpt-4o@fault=cut&after=40 (answers as gpt-4o), or sim-429 for a fault alone; google-genai
                    takes no & in a model name: write gemini@fault=cut;after=40
    prompt          [[simulate delay=50ms]] anywhere in the last user message
    header          x-simulate: fault=429, retry_after=2
Exact replies: header `x-simulate-reply` or `metadata.simulate_reply` (a text; or JSON: a list of deltas, or an object
with the fields of `Scripted`), `say(...)`, `script=[...]`, `reply=function`, or POST /__sim__/script.

Control, under /__sim__/: GET health, calls (?since=N), settings, faults, bill; PUT settings; POST script, reset;
DELETE calls. Neither these requests nor their answers are recorded.

`manual()` lists every directive and fault; `llmshield simulate --manual` prints it.
"""

from llmshield.simulator.answer import Scripted
from llmshield.simulator.app import Simulator, SimulatorThread, run
from llmshield.simulator.asgi import SimulatorApp
from llmshield.simulator.directives import Directives
from llmshield.simulator.provider import Provider
from llmshield.simulator.record import Received
from llmshield.simulator.table import FAULTS

__all__ = [
    "Provider",
    "Received",
    "Scripted",
    "Simulator",
    "SimulatorApp",
    "SimulatorThread",
    "manual",
    "run",
]


def manual() -> str:
    """The whole manual as text: this page, the directives, the faults."""
    listed = (Directives.__doc__ or "").partition("\n\n")[2].rstrip()
    faults = "\n".join(f"    {name:18}{fault.doc}" for name, fault in FAULTS.items())
    return f"{__doc__}\nDirectives (times in seconds, or as 200ms; sizes in bytes)\n{listed}\n\nFaults\n{faults}\n"
