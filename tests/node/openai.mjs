// node openai.mjs URL KEY MODEL TOY: OpenAI's own SDK against a gateway. MODEL is a real model, TOY a
// simulated device's. Prints one object of JSON; an exception that no scene expects ends it.
import OpenAI from "openai";

const [url, apiKey, model, toy] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0, timeout: 60_000 });
const asks = (content) => [{ role: "user", content }];
const question = {
  model, messages: asks("What is the capital of France?"), max_tokens: 24, temperature: 0,
};
const told = {};

told.models = (await client.models.list()).data.map(({ id }) => id);

const whole = await client.chat.completions.create(question);
told.whole = whole.choices[0].message.content;

told.streamed = "";
const stream = await client.chat.completions.create({
  ...question, stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  told.streamed += chunk.choices[0]?.delta.content ?? "";
  if (chunk.usage) told.usage = chunk.usage;
}

const parameters = {
  type: "object", properties: { city: { type: "string" } }, required: ["city"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "weather", parameters } }];
const forced = { type: "function", function: { name: "weather" } };
const turns = asks("What is the weather in Paris?");
const called = await client.chat.completions.create({
  ...question, max_tokens: 64, messages: turns, tools, tool_choice: forced,
});
told.call = called.choices[0].message.tool_calls[0].function;
// The SDK's own loop around a stream puts the pieces of a call together
const runner = client.chat.completions.stream({
  ...question, max_tokens: 64, messages: turns, tools, tool_choice: forced,
});
told.streamedCall = (await runner.finalMessage()).tool_calls[0].function;
const [{ id }] = called.choices[0].message.tool_calls;
const after = await client.chat.completions.create({
  ...question, tools,
  messages: [
    ...turns, called.choices[0].message, { role: "tool", tool_call_id: id, content: "sunny" },
  ],
});
told.after = after.choices[0].message;

const schema = { type: "object", properties: { capital: { enum: ["Paris", "Rome"] } },
  required: ["capital"], additionalProperties: false };
const formed = await client.chat.completions.parse({
  ...question, response_format: { type: "json_schema", json_schema: { name: "c", schema } },
});
told.formed = formed.choices[0].message.content;

const endless = { model: toy, messages: asks("say 1000 20") };
const left = await client.chat.completions.create({ ...endless, stream: true });
for await (const chunk of left) if (chunk.choices[0].delta.content) break; // disconnects
const abort = new AbortController();
setTimeout(() => abort.abort(), 1000);
told.aborted = await nameOf(client.chat.completions.create(endless, { signal: abort.signal }));

const fails = (text) => client.chat.completions.create({ model: toy, messages: asks(text) });
told.errors = {
  stranger: await nameOf(client.withOptions({ apiKey: "ek-no" }).models.list()),
  unknown: await nameOf(client.chat.completions.create({ ...question, model: "gpt-4o" })),
  field: await nameOf(client.chat.completions.create({ ...question, n: 2 })),
  busy: await nameOf(fails("refuse queue_full")),
  conflict: await nameOf(fails("refuse id_conflict")),
  schema: await nameOf(fails("refuse invalid_schema")),
  crashed: await nameOf(fails("fail worker_crashed")),
};
console.log(JSON.stringify(told));

async function nameOf(promise) {
  try {
    await promise;
  } catch (error) {
    return [error.constructor.name, error.code ?? null];
  }
  return ["none", null];
}
