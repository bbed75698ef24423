// Four turns of a conversation with the openai package, as its users write them. The same as
// openai_python.py, with the same arguments.
import { once } from "node:events";
import OpenAI from "openai";

const [baseURL, how] = process.argv.slice(2);
const client = new OpenAI({ baseURL });

async function ask(text, previous) {
  const request = { model: "sim-large", input: text, previous_response_id: previous };
  if (how === "whole") return await client.responses.create(request);
  const stream = client.responses.stream(request);
  return await stream.finalResponse();
}

let previous = null;
const ids = [];
for (let turn = 1; turn <= 4; turn++) {
  const response = await ask(`Turn ${turn} of the one who asks for ${how}`, previous);
  if (!response.output_text.startsWith(`Turn ${turn} on sim-`)) throw new Error(response.output_text);
  previous = response.id;
  ids.push(response.id);
  if (turn === 2) {
    console.log("half");
    await once(process.stdin, "data");
  }
}
console.log(JSON.stringify(ids));
process.exit(0);
