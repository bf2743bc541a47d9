#!/usr/bin/env python3
"""OpenAI's own Python package against `kto serve`, as its users write it.

    openai_client.py URL
"""

import sys

import openai


def main():
    client = openai.OpenAI(base_url=sys.argv[1] + "v1", api_key="not asked for", max_retries=0)
    names = [model.id for model in client.models.list()]
    assert names[1:] == ["base"], names
    question = {"messages": [{"role": "user", "content": "On the use of meta learning for code review at the edge"}]}

    whole = client.chat.completions.create(model=names[0], seed=1, **question)
    text = whole.choices[0].message.content
    assert len(text) > 10 and whole.choices[0].finish_reason == "stop" and whole.choices[0].message.role == "assistant"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

    pieces, usage = [], None
    for chunk in client.chat.completions.create(
        model=names[0], seed=1, stream=True, stream_options={"include_usage": True}, **question
    ):
        if chunk.choices:
            pieces.append(chunk.choices[0].delta.content or "")
            last = chunk.choices[0].finish_reason
        usage = chunk.usage or usage
    assert "".join(pieces) == text, (pieces, text)
    assert len(pieces) >= 3 and last == "stop" and usage == whole.usage, (pieces, last, usage)

    with client.chat.completions.stream(model=names[0], seed=1, **question) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.content == text

    completion = client.completions.create(model="base", prompt="Reject:", max_tokens=3)
    assert completion.object == "text_completion" and completion.usage.completion_tokens <= 3
    assert "".join(c.choices[0].text for c in client.completions.create(model="base", prompt="A", stream=True)) is not None

    for change, error in [
        ({"model": "gpt-4"}, openai.NotFoundError),
        ({"n": 2}, openai.BadRequestError),
        ({"temperature": 1000}, openai.BadRequestError),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, openai.BadRequestError),
    ]:
        try:
            client.chat.completions.create(**{"model": names[0], **question, **change})
        except error as problem:
            assert problem.body["message"], problem
        else:
            raise AssertionError(f"{change} was taken")
    print(f"openai {openai.__version__}: models, chat, stream, completions, errors")


main()
