// Ollama's own library.

const { Ollama } = require("ollama");
const { MODEL, SKY, THINK, TOOL, TWO_TOOLS, FAILS_MIDWAY, BROKEN, HANGS_MIDWAY, PICTURE, FUNCTION, SCHEMA, user } =
  require("./calls.cjs");
const { URL, KEY, all, run } = require("./seen.cjs");

const client = new Ollama({ host: URL, headers: { Authorization: `Bearer ${KEY}` } });
const tools = [{ type: "function", function: FUNCTION }];
const chat = (text, more) => client.chat({ model: MODEL, messages: user(text), ...more });
const stream = (text, more) => all(chat(text, { ...more, stream: true }));

async function hangUp() {
  const chunks = await chat(HANGS_MIDWAY, { stream: true });
  for await (const _ of chunks) {
    chunks.abort();
    break;
  }
  // The simulator has one slot.
  return chat(SKY);
}

run({
  chat: () => chat(SKY),
  chat_stream: () => stream(SKY),
  generate: () => client.generate({ model: MODEL, prompt: SKY }),
  generate_stream: () => all(client.generate({ model: MODEL, prompt: SKY, stream: true })),
  options: () => chat(SKY, { options: { num_predict: 2, temperature: 0 } }),
  tools: () => chat(TOOL, { tools }),
  tools_stream: () => stream(TWO_TOOLS, { tools }),
  thinking: () => chat(THINK, { think: true }),
  thinking_stream: () => stream(THINK, { think: true }),
  format: () => chat("x", { format: SCHEMA }),
  images: () => client.chat({ model: MODEL, messages: [{ role: "user", content: SKY, images: [PICTURE] }] }),
  embed: () => client.embed({ model: "embedding", input: ["a", "b"] }),
  embeddings: () => client.embeddings({ model: "embedding", prompt: "a" }),
  list: () => client.list(),
  ps: () => client.ps(),
  show: () => client.show({ model: MODEL }),
  unknown: () => chat(SKY, { model: "nope" }),
  unknown_stream: () => stream(SKY, { model: "nope" }),
  fails_midway: () => stream(FAILS_MIDWAY),
  broken: () => chat(BROKEN),
  broken_stream: () => stream(BROKEN),
  hang_up: hangUp,
});
