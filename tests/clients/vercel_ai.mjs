// A conversation of several turns with a tool, with the Vercel AI SDK as its users write it. Arguments: the
// base URL, and who asks. It sends no previous_response_id: what it knows of earlier turns it sends as item
// references. At the end it prints how many steps it took.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [baseURL, who] = process.argv.slice(2);
const model = createOpenAI({ baseURL, apiKey: process.env.OPENAI_API_KEY })("sim-large");
let measured = 0;
const tools = {
  tide: tool({
    description: "Measures the tide",
    inputSchema: z.object({}),
    execute: async () => {
      measured += 1;
      return { level: 2.5 };
    },
  }),
};

const messages = [];
let steps = 0;
for (let turn = 1; turn <= 3; turn++) {
  messages.push({ role: "user", content: `${who}, turn ${turn}: call the tool tide` });
  const request = { model, tools, messages, stopWhen: stepCountIs(2), maxRetries: 0 };
  const result = turn === 2 ? streamText(request) : await generateText(request);
  if (turn === 2) await result.consumeStream();
  steps += (await result.steps).length;
  messages.push(...(await result.response).messages);
  messages.push({ role: "user", content: `${who}, turn ${turn}: what do you say?` });
  const said = await generateText({ model, tools, messages, maxRetries: 0 });
  if (!said.text.includes("what do you say?")) throw new Error(said.text);
  messages.push(...said.response.messages);
  steps += 1;
}
if (measured < 3) throw new Error(`the tool was called ${measured} times`);
console.log(JSON.stringify({ steps }));
