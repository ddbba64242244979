"""Ollama's own library."""

import ollama

import calls
from seen import KEY, SECONDS, URL, run

client = ollama.Client(host=URL, headers={"authorization": f"Bearer {KEY}"}, timeout=SECONDS)
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "tells the weather", "parameters": calls.WEATHER}}]


def chat(text, model=calls.MODEL, **more):
    return client.chat(model=model, messages=calls.user(text), **more)


def stream(text, **more):
    return list(chat(text, stream=True, **more))


def hang_up():
    for _ in chat(calls.HANGS_MIDWAY, stream=True):
        break
    # The simulator has one slot.
    return chat(calls.SKY)


run({
    "chat": lambda: chat(calls.SKY),
    "chat_stream": lambda: stream(calls.SKY),
    "generate": lambda: client.generate(model=calls.MODEL, prompt=calls.SKY),
    "generate_stream": lambda: list(client.generate(model=calls.MODEL, prompt=calls.SKY, stream=True)),
    "options": lambda: chat(calls.SKY, options={"num_predict": 2, "temperature": 0}),
    "tools": lambda: chat(calls.TOOL, tools=TOOLS),
    "tools_stream": lambda: stream(calls.TWO_TOOLS, tools=TOOLS),
    "thinking": lambda: chat(calls.THINK, think=True),
    "thinking_stream": lambda: stream(calls.THINK, think=True),
    "format": lambda: chat("x", format=calls.SCHEMA),
    "format_stream": lambda: stream("x", format="json"),
    "images": lambda: client.chat(model=calls.MODEL, messages=[{**calls.user(calls.SKY)[0], "images": [calls.PICTURE]}]),
    "embed": lambda: client.embed(model="embedding", input=["a", "b"]),
    "embeddings": lambda: client.embeddings(model="embedding", prompt="a"),
    "list": client.list,
    "ps": client.ps,
    "show": lambda: client.show(calls.MODEL),
    "unknown": lambda: chat(calls.SKY, model="nope"),
    "unknown_stream": lambda: stream(calls.SKY, model="nope"),
    "fails_midway": lambda: stream(calls.FAILS_MIDWAY),
    "broken": lambda: chat(calls.BROKEN),
    "broken_stream": lambda: stream(calls.BROKEN),
    "hang_up": hang_up,
})
