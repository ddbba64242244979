// Runs named calls of a client and prints what its user sees, as one JSON document.
//
//     node SCRIPT URL KEY SECONDS [--together] NAME...
//
// Times and ids are blanked, because they differ between two runs of one call. Must never hide anything else.

const [URL, KEY, SECONDS, ...NAMES] = process.argv.slice(2);

const DIFFERS = new Set([
  "created_at", "created", "completed_at", "id", "item_id", "request_id", "total_duration", "load_duration",
  "prompt_eval_duration", "eval_duration", "expires_at", "call_id", "_request_id", "tool_call_id",
]);

// Node's own HTTP client, with this time-out for each read. Node gives no other way to its settings without a package.
fetch("data:,").catch(() => {});
const DISPATCHER = Symbol.for("undici.globalDispatcher.1");
const Agent = globalThis[DISPATCHER].constructor;
globalThis[DISPATCHER] = new Agent({ headersTimeout: SECONDS * 1000, bodyTimeout: SECONDS * 1000 });

const blanked = (key, value) => (DIFFERS.has(key) ? null : value);

async function seen(call) {
  try {
    const answer = await call();
    return { answer: JSON.parse(JSON.stringify(answer ?? null, blanked)) };
  } catch (error) {
    const status = error.status ?? error.status_code ?? null;
    return { error: { class: error.constructor.name, status, message: error.message } };
  }
}

/** Every chunk of a stream. */
async function all(stream) {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
}

/** Runs the calls that the command line names, one after the other or all of them together. */
async function run(calls) {
  const together = NAMES.includes("--together");
  const named = NAMES.filter((name) => name !== "--together");
  const document = {};
  const running = [];
  for (const name of named.length ? named : Object.keys(calls)) {
    const one = seen(calls[name]).then((what) => (document[name] = what));
    if (together) running.push(one);
    else await one;
  }
  await Promise.all(running);
  process.stdout.write(JSON.stringify(document), () => process.exit());
}

module.exports = { URL, KEY, SECONDS, all, run };
