// OpenAI's library.

const { OpenAI } = require("openai");
const { MODEL, SKY, THINK, TOOL, TWO_TOOLS, FAILS_MIDWAY, BROKEN, HANGS_MIDWAY, PICTURE, FUNCTION, SCHEMA, user } =
  require("./calls.cjs");
const { URL, KEY, SECONDS, all, run } = require("./seen.cjs");

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY, timeout: SECONDS * 1000, maxRetries: 0 });
const tools = [{ type: "function", function: FUNCTION }];
const chat = (text, more) => client.chat.completions.create({ model: MODEL, messages: user(text), ...more });
const stream = (text, more) => all(chat(text, { ...more, stream: true }));
const responses = (text, more) => client.responses.create({ model: MODEL, input: text, ...more });

async function helper(text) {
  const events = client.responses.stream({ model: MODEL, input: text });
  return [await all(events), await events.finalResponse()];
}

async function hangUp() {
  for await (const _ of await chat(HANGS_MIDWAY, { stream: true })) break;
  // The simulator has one slot.
  return chat(SKY);
}

run({
  chat: () => chat(SKY),
  chat_stream: () => stream(SKY, { stream_options: { include_usage: true } }),
  completions: () => client.completions.create({ model: MODEL, prompt: SKY }),
  completions_stream: () => all(client.completions.create({ model: MODEL, prompt: SKY, stream: true })),
  options: () => chat(SKY, { max_tokens: 2, temperature: 0 }),
  tools: () => chat(TOOL, { tools }),
  tools_stream: () => stream(TWO_TOOLS, { tools }),
  thinking: () => chat(THINK, { reasoning_effort: "high" }),
  thinking_stream: () => stream(THINK, { reasoning_effort: "high" }),
  format: () =>
    chat("x", { response_format: { type: "json_schema", json_schema: { name: "person", schema: SCHEMA } } }),
  images: () =>
    chat([
      { type: "image_url", image_url: { url: `data:image/png;base64,${PICTURE}` } },
      { type: "text", text: SKY },
    ]),
  embed: () => client.embeddings.create({ model: "embedding", input: ["a", "b"] }),
  list: async () => (await all(client.models.list())).map((model) => [model.id, model]),
  show: () => client.models.retrieve(MODEL),
  responses: () => responses(SKY),
  responses_stream: () => all(responses(SKY, { stream: true })),
  responses_helper: () => helper(SKY),
  responses_tools: () => responses(TOOL, { tools: [{ type: "function", strict: false, ...FUNCTION }] }),
  unknown: () => chat(SKY, { model: "nope" }),
  unknown_stream: () => stream(SKY, { model: "nope" }),
  fails_midway: () => stream(FAILS_MIDWAY),
  responses_fail_midway: () => all(responses(FAILS_MIDWAY, { stream: true })),
  broken: () => chat(BROKEN),
  broken_stream: () => stream(BROKEN),
  broken_responses: () => all(responses(BROKEN, { stream: true })),
  broken_helper: () => helper(BROKEN),
  hang_up: hangUp,
});
