"""python read.py <base URL of the scripted model> <script name>...

The Python SDKs read every script; prints one JSON object a line:
{sdk, script, text, calls: [[name, arguments]], finish, threw}
"""

import json
import sys

import anthropic
import openai

base, *scripts = sys.argv[1:]
openai_client = openai.OpenAI(api_key="none", base_url=f"{base}/v1", max_retries=0)
anthropic_client = anthropic.Anthropic(api_key="none", base_url=base, max_retries=0)
messages = [{"role": "user", "content": "hello"}]


def openai_create(model, r):
    stream = openai_client.chat.completions.create(
        model=model, messages=messages, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        for choice in chunk.choices:
            r["text"] += choice.delta.content or choice.delta.refusal or ""
            for call in choice.delta.tool_calls or []:
                while len(r["calls"]) <= call.index:
                    r["calls"].append(["", ""])
                r["calls"][call.index][0] += call.function.name or ""
                r["calls"][call.index][1] += call.function.arguments or ""
            r["finish"] = choice.finish_reason or r["finish"]


def openai_stream(model, r):
    with openai_client.chat.completions.stream(model=model, messages=messages) as stream:
        stream.until_done()
        choice = stream.get_final_completion().choices[0]
    r["text"] = choice.message.content or choice.message.refusal or ""
    r["calls"] = [[c.function.name, c.function.arguments] for c in choice.message.tool_calls or []]
    r["finish"] = choice.finish_reason


def openai_responses_create(model, r):
    for event in openai_client.responses.create(model=model, input="hello", stream=True):
        if event.type in ("response.output_text.delta", "response.refusal.delta"):
            r["text"] += event.delta
        if event.type == "response.output_item.done" and event.item.type == "function_call":
            r["calls"].append([event.item.name, event.item.arguments])
        if event.type == "response.completed":
            r["finish"] = "completed"
        if event.type == "response.incomplete":
            r["finish"] = event.response.incomplete_details.reason


def anthropic_create(model, r):
    stream = anthropic_client.messages.create(model=model, messages=messages, max_tokens=99, stream=True)
    for event in stream:
        if event.type == "content_block_start" and event.content_block.type == "tool_use":
            r["calls"].append([event.content_block.name, ""])
        if event.type == "content_block_delta":
            r["text"] += getattr(event.delta, "text", "")
            if event.delta.type == "input_json_delta":
                r["calls"][-1][1] += event.delta.partial_json
        if event.type == "message_delta":
            r["finish"] = event.delta.stop_reason


def anthropic_stream(model, r):
    with anthropic_client.messages.stream(model=model, messages=messages, max_tokens=99) as stream:
        message = stream.get_final_message()
    for block in message.content:
        if block.type == "text":
            r["text"] += block.text
        if block.type == "tool_use":
            r["calls"].append([block.name, json.dumps(block.input)])
    r["finish"] = message.stop_reason


readers = {
    "openai create": openai_create,
    "openai stream": openai_stream,
    "openai responses create": openai_responses_create,
    "anthropic create": anthropic_create,
    "anthropic stream": anthropic_stream,
}

for script in scripts:
    for sdk, read in readers.items():
        r = {"text": "", "calls": [], "finish": None}
        threw = None
        try:
            read(f"scripted/{script}", r)
        except Exception as error:  # Whatever it is called is the finding.
            threw = type(error).__name__
        print(json.dumps({"sdk": sdk, "script": script, **r, "threw": threw}))
