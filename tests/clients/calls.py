"""What every client asks for. The simulator's scripted model answers by the last letter of a prompt."""

MODEL = "scripted"
SKY = "The sky is"
THINK = "Think about it"
TOOL = "Call the tool for Paris, c"
TWO_TOOLS = "Call it for Oslo and Bern, d"
FAILS_MIDWAY = "sim:fault=stream-error@2"
BROKEN = "sim:fault=error=500"
HANGS_MIDWAY = "sim:fault=hang@2"
# A picture of one point.
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WEATHER = {
    "type": "object",
    "required": ["city"],
    "properties": {"city": {"type": "string", "description": "the name of the city"}},
}
SCHEMA = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
}


def user(text):
    return [{"role": "user", "content": text}]
