"""Four turns of a conversation with the openai package, as its users write them.

Arguments: the base URL, and "stream" or "whole". After two turns it says so, and waits for a line:
the test ends the gateway there and starts it again. At the end it prints the ids of the answers.
"""

import json
import sys

from openai import OpenAI

base_url, how = sys.argv[1:]
client = OpenAI(base_url=base_url)


def ask(text, previous):
    request = {"model": "sim-large", "input": text, "previous_response_id": previous}
    if how == "whole":
        return client.responses.create(**request)
    with client.responses.stream(**request) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        response = stream.get_final_response()
    assert response.output_text == text, (response.output_text, text)
    return response


previous = None
ids = []
for turn in range(1, 5):
    response = ask(f"Turn {turn} of the one who asks for {how}", previous)
    assert response.status == "completed", response
    assert response.output_text.startswith(f"Turn {turn} on sim-"), response.output_text
    assert response.usage.input_tokens > 0, response.usage
    previous = response.id
    ids.append(response.id)
    if turn == 2:
        print("half", flush=True)
        sys.stdin.readline()
print(json.dumps(ids), flush=True)
