// What every client asks for, as in calls.py.

const WEATHER = {
  type: "object",
  required: ["city"],
  properties: { city: { type: "string", description: "the name of the city" } },
};

module.exports = {
  MODEL: "scripted",
  SKY: "The sky is",
  THINK: "Think about it",
  TOOL: "Call the tool for Paris, c",
  TWO_TOOLS: "Call it for Oslo and Bern, d",
  FAILS_MIDWAY: "sim:fault=stream-error@2",
  BROKEN: "sim:fault=error=500",
  HANGS_MIDWAY: "sim:fault=hang@2",
  // A picture of one point.
  PICTURE: "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
  FUNCTION: { name: "get_weather", description: "tells the weather", parameters: WEATHER },
  SCHEMA: {
    type: "object",
    required: ["name", "age"],
    properties: { name: { type: "string" }, age: { type: "integer" } },
  },
  user: (text) => [{ role: "user", content: text }],
};
