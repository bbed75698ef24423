"""What belongs to an account besides a chain of responses, with the openai package as its users write
it: a response in the background, conversations, files. The argument is the base URL. It makes several of
each, so that they lie on several accounts, and prints nothing but "well" at the end.
"""

import sys

import openai
from openai import OpenAI

client = OpenAI(base_url=sys.argv[1], max_retries=0)

# In the background: made, asked for until it has ended, resumed, cancelled, deleted.
for number in range(4):
    made = client.responses.create(model="sim-large", input=f"Think about {number}", background=True)
    assert made.status == "queued", made
    polls = 0
    while made.status in ("queued", "in_progress"):
        made = client.responses.retrieve(made.id)
        polls += 1
        assert polls < 10, made
    assert made.status == "completed" and f"Think about {number}" in made.output_text, made
    whole = list(client.responses.retrieve(made.id, stream=True))
    resumed = list(client.responses.retrieve(made.id, stream=True, starting_after=whole[2].sequence_number))
    assert [event.sequence_number for event in resumed] == [event.sequence_number for event in whole[3:]]
    items = client.responses.input_items.list(made.id)
    assert items.data[0].content[0].text == f"Think about {number}", items

    other = client.responses.create(model="sim-large", input="Think long", background=True)
    assert client.responses.cancel(other.id).status == "cancelled"
    client.responses.delete(made.id)
    try:
        client.responses.retrieve(made.id)
        raise AssertionError("it was deleted")
    except openai.NotFoundError:
        pass

# Conversations, two at a time, in turns.
conversations = [client.conversations.create(metadata={"number": str(number)}) for number in range(2)]
for turn in range(1, 4):
    for conversation in conversations:
        answer = client.responses.create(model="sim-large", input=f"Turn {turn}", conversation=conversation.id)
        assert answer.output_text.startswith("Turn "), answer.output_text
for conversation in conversations:
    assert client.conversations.retrieve(conversation.id).metadata == conversation.metadata
    items = list(client.conversations.items.list(conversation.id, limit=2))
    assert len(items) == 6, items
    assert client.conversations.delete(conversation.id).deleted

# Files: up, used, listed page by page, down, deleted.
files = [client.files.create(file=(f"{number}.txt", f"tide {number}".encode()), purpose="user_data") for number in range(5)]
store = client.vector_stores.create(name="tides", file_ids=[file.id for file in files])
answer = client.responses.create(
    model="sim-large",
    input=[{"role": "user", "content": [{"type": "input_file", "file_id": file.id} for file in files]}],
    tools=[{"type": "file_search", "vector_store_ids": [store.id]}],
)
assert answer.status == "completed", answer
assert {file.id for file in client.files.list(limit=2)} == {file.id for file in files}
for number, file in enumerate(files):
    assert client.files.content(file.id).read() == f"tide {number}".encode()
    assert client.files.delete(file.id).deleted
assert list(client.files.list()) == []

# Chats and models.
with client.chat.completions.stream(model="sim-large", messages=[{"role": "user", "content": "hi"}]) as stream:
    assert "hi" in stream.get_final_completion().choices[0].message.content
assert {model.id for model in client.models.list()} == {"sim-large", "sim-small"}
assert len(client.embeddings.create(model="sim-small", input=["a", "b"]).data) == 2

print("well")
