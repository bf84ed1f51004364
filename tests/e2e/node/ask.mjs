// Asks with Node's own fetch and two SDKs, whole and streamed, and prints what each got: {"client whole": ...}, as JSON.
//
//     node ask.mjs OPENAI_URL ANTHROPIC_URL
//
// Nothing here knows of a proxy. A client that fails gives its error's name and words.
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const [openaiUrl, anthropicUrl] = process.argv.slice(2);
const messages = [{ role: "user", content: "Please write to ada.lovelace@example.com \u{1F30A} Grüße\u2028!" }];
const chat = { model: "gpt-4o", messages };
const message = { model: "claude-haiku-4-5", max_tokens: 300, messages };
const openai = new OpenAI({ baseURL: `${openaiUrl}/v1`, apiKey: "sk-any", maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: anthropicUrl, apiKey: "sk-ant-any", maxRetries: 0 });

async function listed(stream) {
  const events = [];
  for await (const event of await stream) events.push(event);
  return events;
}

async function fetched(stream) {
  const reply = await fetch(`${openaiUrl}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: "Bearer sk-any", "content-type": "application/json" },
    body: JSON.stringify({ ...chat, stream }),
  });
  const parts = [];
  for await (const part of reply.body) parts.push(part);
  return Buffer.concat(parts).toString("base64");
}

const clients = {
  "node-fetch": fetched,
  "openai-node": (stream) =>
    stream ? listed(openai.chat.completions.create({ ...chat, stream })) : openai.chat.completions.create(chat),
  "anthropic-node": (stream) =>
    stream ? listed(anthropic.messages.create({ ...message, stream })) : anthropic.messages.create(message),
};
const found = {};
for (const [name, ask] of Object.entries(clients)) {
  for (const stream of [false, true]) {
    const key = `${name} ${stream ? "stream" : "whole"}`;
    try {
      found[key] = await ask(stream);
    } catch (error) {
      found[key] = `${error.constructor.name}: ${error.message} ${error.cause?.code ?? error.cause?.cause?.code ?? ""}`;
    }
  }
}
console.log(JSON.stringify(found));
