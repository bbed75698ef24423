# An agent with a tool over openai-agents' WebSocket model: four turns, each continuing the one before.
import asyncio
import sys

from agents import Agent, Runner, function_tool, set_tracing_disabled
from agents.models.openai_responses import OpenAIResponsesWSModel
from openai import AsyncOpenAI

set_tracing_disabled(True)


@function_tool
def tide() -> str:
    return "The tide comes in."


async def main():
    client = AsyncOpenAI(base_url=sys.argv[1], max_retries=0)
    model = OpenAIResponsesWSModel("sim-large", client)
    agent = Agent(name="pilot", instructions="You sail.", model=model, tools=[tide])
    previous = None
    for turn in range(4):
        text = "call the tool tide" if turn == 1 else f"turn {turn}"
        result = await Runner.run(agent, text, previous_response_id=previous)
        previous = result.last_response_id
        print(previous, result.final_output, flush=True)


asyncio.run(main())
