"""LangChain's ChatOllama, which takes its key from the address."""

from langchain_ollama import ChatOllama, OllamaEmbeddings

import calls
from seen import KEY, SECONDS, URL, run

HOST = URL.replace("://", f"://x:{KEY}@")
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "tells the weather", "parameters": calls.WEATHER}}]
PICTURE = {"type": "image_url", "image_url": f"data:image/png;base64,{calls.PICTURE}"}


def model(name=calls.MODEL, **more):
    return ChatOllama(model=name, base_url=HOST, client_kwargs={"timeout": SECONDS}, **more)


def hang_up():
    for _ in model().stream(calls.HANGS_MIDWAY):
        break
    # The simulator has one slot.
    return model().invoke(calls.SKY)


run({
    "chat": lambda: model().invoke(calls.SKY),
    "chat_stream": lambda: list(model().stream(calls.SKY)),
    "options": lambda: model(num_predict=2, temperature=0).invoke(calls.SKY),
    "tools": lambda: model().bind_tools(TOOLS).invoke(calls.TOOL),
    "tools_stream": lambda: list(model().bind_tools(TOOLS).stream(calls.TWO_TOOLS)),
    "thinking": lambda: model(reasoning=True).invoke(calls.THINK),
    "thinking_stream": lambda: list(model(reasoning=True).stream(calls.THINK)),
    "format": lambda: model().with_structured_output({"title": "Person", **calls.SCHEMA}).invoke("x"),
    "images": lambda: model().invoke([("user", [PICTURE, {"type": "text", "text": calls.SKY}])]),
    "embed": lambda: OllamaEmbeddings(model="embedding", base_url=HOST).embed_documents(["a", "b"]),
    "unknown": lambda: model("nope").invoke(calls.SKY),
    "unknown_stream": lambda: list(model("nope").stream(calls.SKY)),
    "fails_midway": lambda: list(model().stream(calls.FAILS_MIDWAY)),
    "broken": lambda: model().invoke(calls.BROKEN),
    "broken_stream": lambda: list(model().stream(calls.BROKEN)),
    "hang_up": hang_up,
})
