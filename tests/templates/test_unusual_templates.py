"""Templates that write what people said in another way, or take it only in parts: that is learned, and told."""

import pytest
from test_chat_template import CHAT, CHATML, END, FIRST, LOOP, SECOND, TAGGED, learned, made

from lora_playground.data.encoding import encode
from lora_playground.errors import DataError
from lora_playground.models.plain_tokenizer import PlainTokenizer
from lora_playground.models.prompts import prompt_ids, prompt_text


def split(content):
    """ChatML whose contents are rewritten, apart from its marks: what is joined to a filter's result is escaped too."""
    return CHATML.replace("m.content + '<|im_end|>", "}}{{ " + content + " }}{{ '<|im_end|>").replace(
        "'\n' + }}", "'\n' }}"
    )


QUOTED = [
    {"role": "user", "content": 'Is <b>"it"</b> & so?'},
    {"role": "assistant", "content": '<b>It\'s</b> "so" & so.\n'},
]


@pytest.mark.parametrize(
    ("template", "expected", "closed"),
    [
        (split("m.content | e"), "&lt;b&gt;It&#39;s&lt;/b&gt; &#34;so&#34; &amp; so.\n<|im_end|>", 0),
        (split("m.content | tojson"), '"<b>It\'s</b> \\"so\\" & so.\\n"<|im_end|>', 0),
        (split("m.content | tojson | trim"), '"<b>It\'s</b> \\"so\\" & so.\\n"<|im_end|>', 0),
        (split("m.content | replace('so', '')"), '<b>It\'s</b> "" & .\n<|im_end|>', 0),
        # Joined to what is escaped, the template's own marks are escaped too, and are none any more.
        (CHATML.replace("m.content", "(m.content | e)"),
         "&lt;b&gt;It&#39;s&lt;/b&gt; &#34;so&#34; &amp; so.\n&lt;|im_end|&gt;\n</s>", 1),
    ],
    ids=["html", "json", "json, trimmed", "a part left out", "own marks too"],
)  # fmt: skip
def test_templates_that_write_contents_in_another_way(tmp_path, template, expected, closed):
    tokenizer = made(tmp_path, template, "</s>")
    texts, done = learned(tokenizer, QUOTED)
    assert texts == [expected] and (done.changed, done.closed) == (1, closed)
    assert any("1 answer in another way" in note for note in done.notes())
    asked, ids = prompt_ids(tokenizer, QUOTED[:1]), done.examples[0].ids.tolist()
    assert ids[: len(asked)] == asked and done.examples[0].learned[len(asked)]
    if not closed:
        assert ids == list(tokenizer.apply_chat_template(QUOTED, tokenize=True, return_dict=True)["input_ids"])
    assert not learned(tokenizer, CHAT[2:])[1].changed


def test_a_template_that_makes_a_special_token_of_what_is_written_is_refused(tmp_path):
    tokenizer = made(tmp_path, split("m.content | replace('< ', '<')"), "</s>")
    rows = [{"messages": CHAT}, {"messages": [CHAT[0], {"role": "assistant", "content": "a < b<|im_end|>c"}]}]
    done = encode(tokenizer, rows, 4096)
    assert len(done.examples) == 1 and "makes the special token <|im_end|>" in done.refused[0]


PARTS = (
    "<|im_start|>" + LOOP + "{{ m.role | capitalize + ': ' }}{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}" + END
    + "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)  # fmt: skip


@pytest.mark.parametrize("tagged", [False, True])
def test_templates_that_read_texts_as_parts_alone(tmp_path, tagged):
    """As those of models that see: given a text by itself they leave it out, and the model would learn only ends."""
    inner = "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    marked = (
        "{% if m.role == 'assistant' %}{% generation %}"
        + inner
        + "{% endgeneration %}{% else %}"
        + inner
        + "{% endif %}"
    )
    tokenizer = made(tmp_path, PARTS.replace(inner, marked) if tagged else PARTS, "</s>")
    chat = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in CHAT]
    texts, done = learned(tokenizer, CHAT)
    space = "" if tagged else " "
    assert texts == [f"{space}{FIRST}<|im_end|>", f"{space}{SECOND}<|im_end|>"]
    assert (
        done.examples[0].ids.tolist()
        == tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"]
    )
    assert learned(PlainTokenizer(tmp_path), CHAT)[0] == texts
    assert "And the <b>cat</b>?" in prompt_text(tokenizer, CHAT[:-1])


def test_tags_do_not_hide_that_a_turn_is_left_out(tmp_path):
    tokenizer = made(tmp_path, TAGGED.replace("{% else %}{{ m.content + ", "{% else %}{{ "), "</s>")
    with pytest.raises(DataError, match="leaves out, or rewrites, the user's turn 1"):
        learned(tokenizer, CHAT)
