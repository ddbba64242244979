"""Anthropic's library, which sends its key as `x-api-key`."""

import anthropic

import calls
from seen import KEY, SECONDS, URL, run

client = anthropic.Anthropic(base_url=URL, api_key=KEY, timeout=SECONDS, max_retries=0)
TOOLS = [{"name": "get_weather", "description": "tells the weather", "input_schema": calls.WEATHER}]
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": calls.PICTURE}}


def chat(text, model=calls.MODEL, max_tokens=2048, **more):
    return client.messages.create(model=model, max_tokens=max_tokens, messages=calls.user(text), **more)


def stream(text, **more):
    return list(chat(text, stream=True, **more))


def helper(text):
    with client.messages.stream(model=calls.MODEL, max_tokens=2048, messages=calls.user(text)) as events:
        return [*events, events.get_final_message()]


def hang_up():
    with chat(calls.HANGS_MIDWAY, stream=True) as events:
        for event in events:
            if event.type == "content_block_delta":
                break
    # The simulator has one slot.
    return chat(calls.SKY)


THINKING = {"type": "enabled", "budget_tokens": 1024}

run({
    "chat": lambda: chat(calls.SKY),
    "chat_stream": lambda: stream(calls.SKY),
    "helper": lambda: helper(calls.SKY),
    "options": lambda: chat(calls.SKY, max_tokens=2, system="Be brief."),
    "tools": lambda: chat(calls.TOOL, tools=TOOLS),
    "tools_stream": lambda: stream(calls.TWO_TOOLS, tools=TOOLS),
    "thinking": lambda: chat(calls.THINK, thinking=THINKING),
    "thinking_stream": lambda: stream(calls.THINK, thinking=THINKING),
    "images": lambda: chat([PICTURE, {"type": "text", "text": calls.SKY}]),
    "unknown": lambda: chat(calls.SKY, model="nope"),
    "unknown_stream": lambda: stream(calls.SKY, model="nope"),
    "fails_midway": lambda: stream(calls.FAILS_MIDWAY),
    "broken": lambda: chat(calls.BROKEN),
    "broken_stream": lambda: stream(calls.BROKEN),
    "hang_up": hang_up,
})
