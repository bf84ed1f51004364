// Asks two addresses the same things with the SDKs for JavaScript and prints what each got, as JSON.
//
//     node parity.mjs STRAIGHT GUARDED      -> {"case": {"straight": ..., "guarded": ...}, ...}
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { embedMany, generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [straight, guarded] = process.argv.slice(2);
globalThis.AI_SDK_LOG_WARNINGS = false;

const ask = "What is the tide like today? \u{1F30A} Grüße\u2028?";
const calls = 'Look both up. [[call weather {"city": "Brest", "days": 2}]] [[call tides {"city": "Brest", "days": 1}]]';
const schema = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};
const tools = ["weather", "tides"].map((name) => ({
  type: "function",
  function: { name, description: `Look up the ${name}.`, parameters: schema },
}));
const claudeTools = ["weather", "tides"].map((name) => ({ name, description: `Look up the ${name}.`, input_schema: schema }));
const aiTools = {
  weather: tool({
    description: "Look up the weather.",
    inputSchema: z.object({ city: z.string(), days: z.number() }),
    execute: async ({ city, days }) => `${days} days of rain in ${city}`,
  }),
};
const chat = { model: "gpt-4o", messages: [{ role: "user", content: ask }] };
const message = { model: "claude-haiku-4-5", max_tokens: 300, messages: [{ role: "user", content: ask }] };
const thinking = { thinking: { type: "enabled", budget_tokens: 1024 }, max_tokens: 2000 };

async function listed(stream) {
  const events = [];
  for await (const event of await stream) events.push(event);
  return events;
}

// What a generation holds besides the HTTP head and the dates of this run.
function told(done) {
  const { text, reasoningText, toolCalls, toolResults, finishReason, usage, totalUsage, sources } = done;
  return { text, reasoningText, toolCalls, toolResults, finishReason, usage, totalUsage, sources };
}

async function streamed(options) {
  const parts = await listed(streamText(options).fullStream);
  for (const part of parts) {
    delete part.request;
    if (part.response) part.response = { id: part.response.id, modelId: part.response.modelId };
  }
  return parts;
}

const cases = {
  "openai chat": (c) => c.openai.chat.completions.create({ ...chat, n: 2, logprobs: true }),
  "openai chat, tools": (c) =>
    c.openai.chat.completions.create({ ...chat, tools, messages: [{ role: "user", content: calls }] }),
  "openai chat, streamed": (c) => listed(c.openai.chat.completions.create({ ...chat, stream: true })),
  "openai chat, streamed with usage": (c) =>
    listed(c.openai.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } })),
  "openai chat, streamed tools": (c) =>
    c.openai.chat.completions
      .stream({ ...chat, tools, messages: [{ role: "user", content: calls }] })
      .finalChatCompletion(),
  "openai responses": (c) => c.openai.responses.create({ model: "gpt-4o", input: ask, max_output_tokens: 200 }),
  "openai responses, streamed": (c) =>
    listed(c.openai.responses.create({ model: "gpt-4o", input: ask, max_output_tokens: 200, stream: true })),
  "openai responses, stream helper": (c) =>
    c.openai.responses.stream({ model: "gpt-4o", input: ask, max_output_tokens: 200 }).finalResponse(),
  "openai completions": (c) =>
    listed(c.openai.completions.create({ model: "gpt-3.5-turbo-instruct", prompt: ask, stream: true })),
  "openai embeddings": (c) => c.openai.embeddings.create({ model: "text-embedding-3-small", input: [ask, "two"] }),
  "openai models": (c) => listed(c.openai.models.list()),
  "anthropic": (c) => c.anthropic.messages.create(message),
  "anthropic, tools": (c) =>
    c.anthropic.messages.create({ ...message, tools: claudeTools, messages: [{ role: "user", content: calls }] }),
  "anthropic, streamed": (c) => listed(c.anthropic.messages.create({ ...message, stream: true })),
  "anthropic, streamed thinking": (c) => c.anthropic.messages.stream({ ...message, ...thinking }).finalMessage(),
  "anthropic, streamed tools": (c) =>
    c.anthropic.messages
      .stream({ ...message, tools: claudeTools, messages: [{ role: "user", content: calls }] })
      .finalMessage(),
  "anthropic, beta": (c) => c.anthropic.beta.messages.create({ ...message, betas: ["context-1m-2025-08-07"] }),
  "anthropic, count": (c) =>
    c.anthropic.messages.countTokens({ model: message.model, messages: message.messages }),
  "anthropic models": (c) => listed(c.anthropic.models.list()),
  "ai, openai responses": async (c) =>
    told(await generateText({ model: c.ai("gpt-4o"), prompt: ask, maxOutputTokens: 200 })),
  "ai, openai chat": async (c) => told(await generateText({ model: c.ai.chat("gpt-4o"), prompt: ask })),
  "ai, openai chat, streamed": (c) => streamed({ model: c.ai.chat("gpt-4o"), prompt: ask }),
  "ai, openai responses, streamed": (c) => streamed({ model: c.ai("gpt-4o"), prompt: ask, maxOutputTokens: 200 }),
  "ai, tools in two steps": async (c) =>
    told(
      await generateText({
        model: c.ai.chat("gpt-4o"),
        tools: aiTools,
        stopWhen: stepCountIs(2),
        prompt: 'Go. [[call weather {"city": "Brest", "days": 2}]]',
      }),
    ),
  "ai, object": async (c) =>
    (await generateObject({ model: c.ai("gpt-4o"), schema: z.object({ city: z.string() }), prompt: ask })).object,
  "ai, embeddings": async (c) =>
    (await embedMany({ model: c.ai.textEmbeddingModel("text-embedding-3-small"), values: [ask, "two"] })).embeddings,
  "ai, anthropic": async (c) => told(await generateText({ model: c.claude("claude-haiku-4-5"), prompt: ask })),
  "ai, anthropic, streamed": (c) => streamed({ model: c.claude("claude-haiku-4-5"), prompt: ask }),
};

function clients(url) {
  return {
    openai: new OpenAI({ baseURL: `${url}/v1`, apiKey: "sk-any" }),
    anthropic: new Anthropic({ baseURL: url, apiKey: "sk-any" }),
    ai: createOpenAI({ baseURL: `${url}/v1`, apiKey: "sk-any" }),
    claude: createAnthropic({ baseURL: `${url}/v1`, apiKey: "sk-any" }),
  };
}

const found = {};
const [a, b] = [clients(straight), clients(guarded)];
for (const [name, run] of Object.entries(cases)) {
  const said = async (c) => {
    try {
      return await run(c);
    } catch (error) {
      return { raised: `${error.name}: ${error.message}` };
    }
  };
  found[name] = { straight: await said(a), guarded: await said(b) };
}
process.stdout.write(JSON.stringify(found), () => process.exit(0));
