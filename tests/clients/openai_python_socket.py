# Four turns over WebSocket with openai for Python, then two lanes beside each other that fork from
# the last of them. Prints an id a line; waits for a line of input after the second turn.
import sys

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1], max_retries=0)


def create(connection, text, previous=None, lane=None):
    event = {"model": "sim-large", "input": [{"role": "user", "content": text}], "store": False}
    if previous:
        event["previous_response_id"] = previous
    if lane:
        event["stream_id"] = lane
    connection.response.create(**event)


def ended(connection):
    for event in connection:
        if event.type == "response.completed":
            return event
        if event.type in ("error", "response.failed", "response.incomplete"):
            raise SystemExit(f"unexpected: {event}")


with client.responses.connect() as connection:
    previous = None
    for turn in range(4):
        create(connection, f"turn {turn}", previous)
        response = ended(connection).response
        previous = response.id
        print(previous, response.output_text, flush=True)
    create(connection, "to the left", previous, "left")
    create(connection, "to the right", previous, "right")
    for _ in range(2):
        event = ended(connection)
        lane = (event.model_extra or {}).get("stream_id") or getattr(event, "stream_id", None)
        print(lane, event.response.output_text, flush=True)
