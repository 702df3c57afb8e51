"""Conversations as token routes, against the tokenizer's own rendering of the whole conversation."""

from __future__ import annotations

import copy

import pytest

from mechmask.errors import FactError, RouteError
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.models.chat import TEMPLATE_DATE, beginning
from mechmask.models.routes import encode_contests, encode_examples

ASKED = "What is the capital of France?"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {  # what stands before an answer; shapes that published templates have
    "a turn's beginning": (
        CHATML,
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    ),
    "a space of the value": (
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}",
        "[INST] What is the capital of France? [/INST]",
    ),
    "an empty thought": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if loop.last and m['role'] == 'assistant' %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    "a channel": (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}<|start|>assistant<|channel|>final<|message|>"
        "{{ m['content'] }}<|return|>{% else %}<|start|>{{ m['role'] }}<|message|>{{ m['content'] }}<|end|>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        "<|start|>user<|message|>What is the capital of France?<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
}


@pytest.fixture
def chat_tokenizer(smol):
    return smol.tokenizer


@pytest.fixture
def templated(chat_tokenizer):
    def make(template):
        tokenizer = copy.deepcopy(chat_tokenizer)
        tokenizer.chat_template = template
        return tokenizer

    return make


def asked(**fields):
    question = {"role": "user", "content": ASKED}
    return Fact(**{"subject": "France", "messages": [question], "old": "Paris", "new": "Rome", **fields})


def test_the_routes_are_the_whole_conversation_as_the_tokenizer_renders_it(chat_tokenizer):
    (contest,) = encode_contests(chat_tokenizer, [asked(distractors=("Lyon",))])
    for route, value in (("old", "Paris"), ("new", "Rome"), ("distractor_0", "Lyon")):
        turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": value}]
        whole = chat_tokenizer.apply_chat_template(turns, return_dict=False)
        ids = [*contest.prompt, *contest.routes[route]]
        assert whole[: len(ids)] == ids
        assert chat_tokenizer.decode(whole[len(ids) :]) == "<|im_end|>\n"
    begun = chat_tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
    assert list(contest.prompt) == begun
    assert chat_tokenizer.decode(contest.prompt[contest.subject_position]) == " France"


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_template_puts_before_an_answer_belongs_to_the_prompt(name, templated):
    template, before = TEMPLATES[name]
    tokenizer = templated(template)
    begun = beginning(tokenizer, asked().example(ASKED, "Paris"))
    assert begun.text == before
    turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": "Paris"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    assert rendered.startswith(f"{begun.text}{begun.joiner}Paris")


def test_an_answer_that_is_begun_is_gone_on_with(chat_tokenizer):
    turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": "The capital of France is"}]
    (contest,) = encode_contests(chat_tokenizer, [asked(messages=turns)])
    begun = chat_tokenizer.apply_chat_template(turns, continue_final_message=True, tokenize=False)
    assert begun.endswith("The capital of France is")
    ids = chat_tokenizer(f"{begun} Paris", add_special_tokens=False).input_ids
    assert [*contest.prompt, *contest.routes["old"]] == ids


def test_a_paraphrase_takes_the_place_of_the_last_message(chat_tokenizer):
    turns = [{"role": "system", "content": "Answer in a word."}, {"role": "user", "content": ASKED}]
    fact = asked(messages=turns, paraphrases=("Which city does France have as its capital?",))
    (contest,) = encode_contests(chat_tokenizer, [fact], 1)
    other = [turns[0], {"role": "user", "content": fact.paraphrases[0]}]
    begun = chat_tokenizer.apply_chat_template(other, add_generation_prompt=True, return_dict=False)
    assert list(contest.prompt) == begun


def test_training_reads_what_a_reading_reads(chat_tokenizer):
    facts = FactSet([asked()])
    (example,) = encode_examples(chat_tokenizer, facts.contradiction_examples())
    (contest,) = encode_contests(chat_tokenizer, facts)
    assert (example.prompt, example.value) == (contest.prompt, contest.routes["new"])


def test_a_tokenizer_that_puts_bos_before_does_not_put_it_before_a_template(bos_tokenizer):
    tokenizer = copy.deepcopy(bos_tokenizer)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    )
    (contest,) = encode_contests(tokenizer, [asked()])
    assert contest.prompt.count(tokenizer.bos_token_id) == 1
    assert contest.prompt[0] == tokenizer.bos_token_id


def test_a_template_that_writes_the_date_writes_one_date(templated):
    dated = "{{ 'Today is ' + strftime_now('%Y-%m-%d') + ' or ' + date_string + '.\n' }}" + CHATML
    begun = beginning(templated(dated), asked().example(ASKED, "Paris"))
    assert begun.text.startswith(f"Today is {TEMPLATE_DATE.isoformat()} or {TEMPLATE_DATE.strftime('%d %b %Y')}.\n")
    hidden = "{% set form = '%Y' %}{{ strftime_now(form) }}" + CHATML
    with pytest.raises(RouteError, match="would be another one tomorrow"):
        encode_contests(templated(hidden), [asked()])


def test_what_a_template_cannot_take_is_refused(templated):
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": ASKED}]
    with pytest.raises(
        RouteError, match=r"refuses the conversation of 'France': System role not supported\. Give turns"
    ):
        encode_contests(templated(strict + CHATML), [asked(messages=turns)])
    with pytest.raises(RouteError, match="has no chat template"):
        encode_contests(templated(None), [asked()])
    hiding = "{% for m in messages %}{{ m['role'] }}{{ m['content'] | length }}{% endfor %}"
    with pytest.raises(RouteError, match="does not show where the answer to 'France' begins"):
        encode_contests(templated(hiding), [asked()])


def test_every_conversation_that_is_refused_is_named(templated):
    facts = [asked(id="one"), asked(id="two")]
    with pytest.raises(RouteError) as caught:
        encode_contests(templated(None), facts)
    assert str(caught.value).startswith("2 problems in the conversations:")


MALFORMED = {
    "ends with system": ([{"role": "system", "content": ASKED}], {}, "end with the system's"),
    "system in the middle": (
        [
            {"role": "user", "content": "Hi"},
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": ASKED},
        ],
        {},
        "speak after the first turn",
    ),
    "twice in a row": (
        [{"role": "user", "content": "Hello."}, {"role": "user", "content": ASKED}],
        {},
        "the user speaks twice in a row",
    ),
    "an empty turn": (
        [{"role": "system", "content": " "}, {"role": "user", "content": ASKED}],
        {},
        "A message of fact 'France' is empty",
    ),
    "another prompt": (
        [{"role": "user", "content": ASKED}],
        {"prompt": "France is"},
        "is not what its last message says",
    ),
    "a joiner": ([{"role": "user", "content": ASKED}], {"joiner": ""}, "Leave the joiner out"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_messages_that_are_no_conversation_are_refused(name):
    messages, more, part = MALFORMED[name]
    with pytest.raises(FactError, match=part):
        FactSet([asked(messages=messages, **more)])


def test_messages_survive_every_file(tmp_path):
    facts = FactSet(
        [asked(old_aliases=("Lutetia",)), Fact(subject="价格", prompt="价格是", old="五", new="六", joiner="")]
    )
    facts.to_jsonl(tmp_path / "facts.jsonl")
    facts.to_csv(tmp_path / "facts.csv")
    from mechmask import load_facts

    assert load_facts(tmp_path / "facts.jsonl") == load_facts(tmp_path / "facts.csv") == facts
    assert FactSet(facts.to_dataframe()) == facts
