// LangChain's ChatOllama. It takes its key as a header, because `fetch` refuses an address with a key in it.

const { ChatOllama, OllamaEmbeddings } = require("@langchain/ollama");
const { MODEL, SKY, THINK, TOOL, TWO_TOOLS, FAILS_MIDWAY, BROKEN, HANGS_MIDWAY, PICTURE, FUNCTION, SCHEMA } =
  require("./calls.cjs");
const { URL, KEY, all, run } = require("./seen.cjs");

const headers = new Headers({ Authorization: `Bearer ${KEY}` });
const tools = [{ type: "function", function: FUNCTION }];
const model = (more) => new ChatOllama({ model: MODEL, baseUrl: URL, headers, maxRetries: 0, ...more });

// The library lets go of the connection only when the process ends.
async function hangUp() {
  for await (const _ of await model().stream(HANGS_MIDWAY)) break;
}

run({
  chat: () => model().invoke(SKY),
  chat_stream: () => all(model().stream(SKY)),
  options: () => model({ numPredict: 2, temperature: 0 }).invoke(SKY),
  tools: () => model().bindTools(tools).invoke(TOOL),
  tools_stream: () => all(model().bindTools(tools).stream(TWO_TOOLS)),
  thinking: () => model({ think: true }).invoke(THINK),
  thinking_stream: () => all(model({ think: true }).stream(THINK)),
  format: () => model().withStructuredOutput(SCHEMA).invoke("x"),
  images: () =>
    model().invoke([
      ["user", [{ type: "image_url", image_url: `data:image/png;base64,${PICTURE}` }, { type: "text", text: SKY }]],
    ]),
  embed: () => new OllamaEmbeddings({ model: "embedding", baseUrl: URL, headers }).embedDocuments(["a", "b"]),
  unknown: () => model({ model: "nope" }).invoke(SKY),
  unknown_stream: () => all(model({ model: "nope" }).stream(SKY)),
  fails_midway: () => all(model().stream(FAILS_MIDWAY)),
  broken: () => model().invoke(BROKEN),
  broken_stream: () => all(model().stream(BROKEN)),
  hang_up: hangUp,
});
