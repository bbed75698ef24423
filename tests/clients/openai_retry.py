"""One request with the openai package, as its users write it: it retries by itself.

Argument: the base URL. Prints the text of the answer.
"""

import sys

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1])
print(client.responses.create(model="sim-large", input="hi").output_text, flush=True)
