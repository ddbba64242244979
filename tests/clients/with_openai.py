"""OpenAI's library."""

import openai
from pydantic import BaseModel

import calls
from seen import KEY, SECONDS, URL, run

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, timeout=SECONDS, max_retries=0)
FUNCTION = {"name": "get_weather", "description": "tells the weather", "parameters": calls.WEATHER}
TOOLS = [{"type": "function", "function": FUNCTION}]
PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{calls.PICTURE}"}}


class Person(BaseModel):
    name: str
    age: int


def chat(text, model=calls.MODEL, **more):
    return client.chat.completions.create(model=model, messages=calls.user(text), **more)


def stream(text, **more):
    return list(chat(text, stream=True, **more))


def responses(text, **more):
    return client.responses.create(model=calls.MODEL, input=text, **more)


def helper(text, **more):
    with client.responses.stream(model=calls.MODEL, input=text, **more) as events:
        return [*events, events.get_final_response()]


def hang_up():
    with chat(calls.HANGS_MIDWAY, stream=True) as chunks:
        next(iter(chunks))
    # The simulator has one slot.
    return chat(calls.SKY)


run({
    "chat": lambda: chat(calls.SKY),
    "chat_stream": lambda: stream(calls.SKY, stream_options={"include_usage": True}),
    "completions": lambda: client.completions.create(model=calls.MODEL, prompt=calls.SKY),
    "completions_stream": lambda: list(client.completions.create(model=calls.MODEL, prompt=calls.SKY, stream=True)),
    "options": lambda: chat(calls.SKY, max_tokens=2, temperature=0),
    "tools": lambda: chat(calls.TOOL, tools=TOOLS),
    "tools_stream": lambda: stream(calls.TWO_TOOLS, tools=TOOLS),
    "thinking": lambda: chat(calls.THINK, reasoning_effort="high"),
    "thinking_stream": lambda: stream(calls.THINK, reasoning_effort="high"),
    "format": lambda: client.chat.completions.parse(model=calls.MODEL, messages=calls.user("x"), response_format=Person),
    "images": lambda: client.chat.completions.create(
        model=calls.MODEL,
        messages=[{"role": "user", "content": [PICTURE, {"type": "text", "text": calls.SKY}]}],
    ),
    "embed": lambda: client.embeddings.create(model="embedding", input=["a", "b"]),
    "list": lambda: [(model.id, model) for model in client.models.list()],
    "show": lambda: client.models.retrieve(calls.MODEL),
    "responses": lambda: responses(calls.SKY),
    "responses_stream": lambda: list(responses(calls.SKY, stream=True)),
    "responses_helper": lambda: helper(calls.SKY),
    "responses_tools": lambda: responses(calls.TOOL, tools=[{"type": "function", "strict": False, **FUNCTION}]),
    "unknown": lambda: chat(calls.SKY, model="nope"),
    "unknown_stream": lambda: stream(calls.SKY, model="nope"),
    "fails_midway": lambda: stream(calls.FAILS_MIDWAY),
    "responses_fail_midway": lambda: list(responses(calls.FAILS_MIDWAY, stream=True)),
    "broken": lambda: chat(calls.BROKEN),
    "broken_stream": lambda: stream(calls.BROKEN),
    "broken_responses": lambda: list(responses(calls.BROKEN, stream=True)),
    "broken_helper": lambda: helper(calls.BROKEN),
    "hang_up": hang_up,
})
