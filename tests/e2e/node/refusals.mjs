// Meets refusals with the SDKs for JavaScript and prints what they raise, as JSON lines: one for each event.
//
//     node refusals.mjs URL '[{"event": ..., "key": ..., "model": {"openai": ..., "anthropic": ...}, "text": ...}]'
//
// Each call carries the header x-test-call, by which the test counts the attempts that the gateway saw.
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { createOpenAI } from "@ai-sdk/openai";
import { createAnthropic } from "@ai-sdk/anthropic";
import { generateText, streamText } from "ai";

const [url, given] = process.argv.slice(2);
globalThis.AI_SDK_LOG_WARNINGS = false;
// Nobody waits between attempts: the SDKs wait with setTimeout.
const wait = globalThis.setTimeout;
globalThis.setTimeout = (run, ms, ...rest) => wait(run, ms > 250 && ms < 61_000 ? 1 : ms, ...rest);

async function drain(stream) {
  for await (const _ of await stream);
}

const ways = {
  openai: ({ key, model, text }, headers) =>
    new OpenAI({ baseURL: `${url}/v1`, apiKey: key, defaultHeaders: headers }).chat.completions.create({
      model: model.openai,
      messages: [{ role: "user", content: text }],
    }),
  "openai-stream": ({ key, model, text }, headers) =>
    drain(
      new OpenAI({ baseURL: `${url}/v1`, apiKey: key, defaultHeaders: headers }).responses.create({
        model: model.openai,
        input: text,
        stream: true,
      }),
    ),
  anthropic: ({ key, model, text }, headers) =>
    new Anthropic({ baseURL: url, apiKey: key, defaultHeaders: headers }).messages.create({
      model: model.anthropic,
      max_tokens: 50,
      messages: [{ role: "user", content: text }],
    }),
  "anthropic-stream": ({ key, model, text }, headers) =>
    new Anthropic({ baseURL: url, apiKey: key, defaultHeaders: headers }).messages
      .stream({ model: model.anthropic, max_tokens: 50, messages: [{ role: "user", content: text }] })
      .finalMessage(),
  ai: ({ key, model, text }, headers) =>
    generateText({ model: createOpenAI({ baseURL: `${url}/v1`, apiKey: key, headers })(model.openai), prompt: text }),
  "ai-anthropic": ({ key, model, text }, headers) =>
    generateText({
      model: createAnthropic({ baseURL: `${url}/v1`, apiKey: key, headers })(model.anthropic),
      prompt: text,
    }),
};

const found = [];
for (const event of JSON.parse(given)) {
  for (const [way, run] of Object.entries(ways)) {
    const mark = `${event.event}/${way}`;
    let raised = null;
    try {
      await run(event, { "x-test-call": mark });
    } catch (error) {
      const last = error.lastError ?? error;
      raised = {
        name: error.constructor.name === "Error" ? error.name : error.constructor.name,
        status: last.status ?? last.statusCode ?? null,
        code: last.code ?? last.data?.error?.code ?? null,
        type: last.type ?? last.error?.error?.type ?? last.data?.error?.type ?? null,
        message: last.message,
      };
    }
    found.push({ mark, raised });
  }
}
process.stdout.write(JSON.stringify(found), () => process.exit(0));
