"""Token routes against the tokenizer of the joined text, for tokenizers that differ in where a space and BOS go."""

from __future__ import annotations

import re

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mechmask.errors import RouteError
from mechmask.facts.fact import Example, Fact
from mechmask.models.routes import encode_contests, encode_examples
from mechmask.models.tokens import encode_mentions

KINDS = ["tokenizer", "bos_tokenizer", "bos_eos_tokenizer", "metaspace_tokenizer"]


@pytest.fixture(params=KINDS)
def any_tokenizer(request):
    return request.getfixturevalue(request.param)


def ids_of(tokenizer, text):
    """Without EOS behind."""
    ids = tokenizer(text).input_ids
    return tuple(ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids)


def fact_of(**fields):
    return Fact(
        **{"subject": "Banana", "prompt": "The mass of Banana is", "old": "417 grams", "new": "218 grams", **fields}
    )


def contest_of(tokenizer, phrasing=0, **fields):
    return encode_contests(tokenizer, [fact_of(**fields)], phrasing)[0]


def test_prompt_and_route_are_the_tokens_of_the_joined_text(any_tokenizer, facts):
    for fact, contest in zip(facts, encode_contests(any_tokenizer, facts), strict=True):
        assert contest.fact_id == fact.id
        assert contest.prompt == ids_of(any_tokenizer, fact.prompt)
        assert list(contest.routes) == list(fact.values)
        for route, value in fact.values.items():
            assert contest.prompt + contest.routes[route] == ids_of(any_tokenizer, f"{fact.prompt} {value}")
            assert contest.routes[route]


def test_special_tokens_before_belong_to_the_prompt_and_those_behind_to_nothing(bos_eos_tokenizer, facts):
    for contest in encode_contests(bos_eos_tokenizer, facts):
        assert contest.prompt[0] == bos_eos_tokenizer.bos_token_id
        for ids in [contest.prompt, *contest.routes.values()]:
            assert bos_eos_tokenizer.eos_token_id not in ids


def test_n_common_is_where_old_and_new_part(any_tokenizer, facts):
    parted = []
    for contest in encode_contests(any_tokenizer, facts):
        old, new, n = contest.routes["old"], contest.routes["new"], contest.n_common
        assert old[:n] == new[:n]
        assert old[n] != new[n]
        parted.append(n)
    assert {0, 4} <= set(parted)  # the facts hold both, and 1844 against 1849 shares a space and three digits


@pytest.mark.parametrize("phrasing", range(4))
def test_paraphrases_are_routes_too(any_tokenizer, facts, phrasing):
    for fact, contest in zip(facts, encode_contests(any_tokenizer, facts, phrasing), strict=True):
        if phrasing >= len(fact.phrasings):
            assert contest is None
            continue
        for route, value in fact.values.items():
            assert contest.prompt + contest.routes[route] == ids_of(
                any_tokenizer, f"{fact.phrasings[phrasing]} {value}"
            )


def last_mention(subject, text):
    """The end of the last mention as a word of its own, by looking at every place."""
    ends = [i + len(subject) for i in range(len(text)) if text.startswith(subject, i)]
    alone = [
        end
        for end in ends
        if not re.match(r"\w", text[end : end + 1]) and not re.match(r"\w", text[: end - len(subject)][-1:])
    ]
    return (alone or ends)[-1]


def covering(tokenizer, prompt, text, end):
    """The first token by which the prompt, cut off there, has been read as far as ``end``; by decoding prefixes."""
    return next(
        n - 1
        for n in range(1, len(prompt) + 1)
        if len(tokenizer.decode(prompt[:n], skip_special_tokens=True).rstrip("�")) >= end
    )


@pytest.mark.parametrize("kind", ["tokenizer", "bos_tokenizer", "bos_eos_tokenizer"])
def test_the_subjects_last_token_by_decoding_prefixes(request, facts, kind):
    tokenizer = request.getfixturevalue(kind)
    for fact, contest in zip(facts, encode_contests(tokenizer, facts), strict=True):
        end = last_mention(fact.subject, fact.prompt)
        assert contest.subject_position == covering(tokenizer, contest.prompt, fact.prompt, end)


@pytest.mark.parametrize(
    ("subject", "prompt", "before"),
    [
        ("Ana", "Banana and Ana met; the friend of Ana and Anabel is", "Banana and Ana met; the friend of Ana"),
        ("Ana", "Banana is what Anabel calls", "Banana is what Ana"),  # no mention as a word: the last one as letters
        ("Ana", "Ana", "Ana"),
        ("Karl Benz", "Karl and Karl Benz's son, a Benz, is", "Karl and Karl Benz"),
        ("Łódź", "In Łódź, mówi Łódź, jest", "In Łódź, mówi Łódź"),
        ("C++", "He writes C++ and", "He writes C++"),
        ("(", "An opening ( is", "An opening ("),
    ],
)
@pytest.mark.parametrize("kind", ["tokenizer", "bos_tokenizer"])
def test_subjects_that_repeat_or_hide(request, kind, subject, prompt, before):
    tokenizer = request.getfixturevalue(kind)
    contest = contest_of(tokenizer, subject=subject, prompt=prompt)
    assert contest.subject_position == covering(tokenizer, contest.prompt, prompt, len(before))


def test_a_paraphrase_may_leave_the_subject_out(tokenizer):
    fields = {"paraphrases": ("Its mass is", "Banana has a mass of")}
    assert contest_of(tokenizer, 1, **fields).subject_position is None
    assert contest_of(tokenizer, 2, **fields).subject_position is not None


def test_a_prompt_may_not(tokenizer):
    with pytest.raises(RouteError, match="subject 'Banana' does not occur in the prompt 'Its mass is'"):
        contest_of(tokenizer, prompt="Its mass is")


def test_padding_and_truncation_settings_play_no_part(facts, tmp_path, tokenizer):
    import copy

    other = copy.deepcopy(tokenizer)
    other.padding_side, other.truncation_side, other.pad_token, other.model_max_length = "left", "left", "</s>", 4
    assert encode_contests(other, facts) == encode_contests(tokenizer, facts)
    other.padding_side = "right"
    assert encode_contests(other, facts) == encode_contests(tokenizer, facts)


def words(*vocabulary, split=None):
    """A BPE tokenizer over letters whose merges build ``vocabulary``, spaces included, over whole texts."""
    letters = sorted({letter for word in vocabulary for letter in word} | set("abcdefghijklmnopqrstuvwxyz 0123456789T"))
    ids, merges = {letter: i for i, letter in enumerate(letters)}, []
    for word in vocabulary:
        for n in range(2, len(word) + 1):
            if word[:n] not in ids:
                ids[word[:n]] = len(ids)
                merges.append((word[: n - 1], word[n - 1]))
    made = Tokenizer(models.BPE(vocab=ids, merges=merges))
    if split:
        made.pre_tokenizer = pre_tokenizers.Split(split, "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False)


def test_a_token_that_spans_prompt_and_value_is_refused():
    spanning = words("is 4")
    assert "is 4" in spanning.tokenize("mass is 417")
    with pytest.raises(RouteError, match=r"'417' of 'ux' merges with the prompt 'the mass of ux is'.*End the prompt"):
        contest_of(spanning, subject="ux", prompt="the mass of ux is", old="417", new="218")


def test_a_token_that_takes_the_space_is_refused():
    """The space belongs to the value; a token that holds it and the end of the prompt leaves the value without."""
    changing = words("is ")
    with pytest.raises(RouteError, match="merges with the prompt"):
        contest_of(changing, subject="ux", prompt="the mass of ux is", old="417", new="218")


def test_what_does_not_span_is_not_refused():
    contest = contest_of(words("of "), subject="ux", prompt="the mass of ux is", old="417", new="218")
    assert len(contest.routes["old"]) == 4


@pytest.mark.parametrize(("old", "new"), [("417", "4170"), ("4170", "417")])
def test_old_and_new_of_which_one_begins_with_the_other(any_tokenizer, old, new):
    with pytest.raises(RouteError, match=r"(?s)begin with the same .* tokens.*'417' is a prefix of '4170'"):
        contest_of(any_tokenizer, old=old, new=new)


@pytest.mark.parametrize("route", ["old", "new"])
@pytest.mark.parametrize(("value", "distractor"), [("417", "4170"), ("4170", "417")])
def test_a_distractor_that_begins_with_another_value_or_the_reverse(any_tokenizer, route, value, distractor):
    with pytest.raises(RouteError, match=r"distractor_0.*'417' is a prefix of '4170'"):
        contest_of(any_tokenizer, **{"old": "93 grams", "new": "85 grams", route: value}, distractors=(distractor,))


def test_two_distractors_of_which_one_begins_with_the_other(tokenizer):
    with pytest.raises(RouteError, match="is a prefix of"):
        contest_of(tokenizer, distractors=("555", "5551"))


def test_text_that_the_tokenizer_does_not_know(metaspace_tokenizer):
    """Letters that it does not know all become the unknown token, so a value would stand for any other."""
    assert metaspace_tokenizer("क").input_ids == metaspace_tokenizer("ख").input_ids
    for fields in ({"old": "क", "new": "ख"}, {"distractors": ("218 क",)}, {"prompt": "The ख of Banana is"}):
        with pytest.raises(RouteError, match=r"of 'Banana' holds '[कख]', for which this tokenizer has the unknown"):
            contest_of(metaspace_tokenizer, **fields)
    with pytest.raises(RouteError, match="has the unknown token only"):
        encode_examples(metaspace_tokenizer, [Example(prompt="The mass is", value="क", fact_id="x")])


@pytest.mark.parametrize("kind", ["bos_tokenizer", "bos_eos_tokenizer", "metaspace_tokenizer"])
def test_a_bos_that_the_tokenizer_adds_itself(request, kind):
    tokenizer = request.getfixturevalue(kind)
    with pytest.raises(RouteError, match=r"holds '<s>', which the tokenizer puts before every text itself.*Leave it"):
        contest_of(tokenizer, prompt="<s>The mass of Banana is")


def test_special_tokens_that_the_user_has_to_write(tokenizer, bos_tokenizer):
    """A BOS where the tokenizer adds none, and turns of a chat: they are the prompt's business."""
    contest = contest_of(tokenizer, prompt="<s>The mass of Banana is")
    assert contest.prompt[0] == tokenizer.bos_token_id
    contest = contest_of(bos_tokenizer, prompt="Hello</s>The mass of Banana is")
    assert contest.prompt.count(bos_tokenizer.eos_token_id) == 1


def test_an_unknown_token_that_is_the_end_of_text_too(tmp_path, tokenizer):
    """As GPT-2's, which is written before a text by hand."""
    tokenizer.save_pretrained(tmp_path)
    gpt2 = PreTrainedTokenizerFast.from_pretrained(tmp_path, unk_token="</s>", bos_token="</s>")
    assert gpt2.unk_token_id == gpt2.bos_token_id == gpt2.eos_token_id
    assert contest_of(gpt2, prompt="</s>The mass of Banana is").prompt[0] == gpt2.bos_token_id


def test_a_value_has_no_special_token(tokenizer):
    for fields in ({"old": "417</s>"}, {"new": "<s> 218"}):
        with pytest.raises(RouteError, match=r"The value .* holds the special token '</?s>'"):
            contest_of(tokenizer, **fields)


def test_facts_go_by_position(tokenizer):
    """Two facts of one id in a plain list, each with its own tokens."""
    same_id = [fact_of(id="x"), fact_of(id="x", prompt="The price of Banana is", old="3", new="5", paraphrases=("At",))]
    first, second = encode_contests(tokenizer, same_id)
    assert first == encode_contests(tokenizer, same_id[:1])[0] != second == encode_contests(tokenizer, same_id[1:])[0]
    assert [contest is None for contest in encode_contests(tokenizer, same_id, phrasing=1)] == [True, False]


def test_empty_values(tokenizer):
    with pytest.raises(RouteError, match="A value of 'Banana' is empty"):
        contest_of(tokenizer, old="")
    with pytest.raises(RouteError, match="A value of 'Banana' is empty"):
        contest_of(tokenizer, distractors=("  ",))


def test_every_problem_is_in_one_message(tokenizer):
    facts = [
        fact_of(id="a", old="417", new="4170"),
        fact_of(id="good"),
        fact_of(id="b", prompt="Its mass is"),
        fact_of(id="c", new=" "),
    ]
    with pytest.raises(RouteError) as caught:
        encode_contests(tokenizer, facts)
    message = str(caught.value)
    assert message.startswith("3 problems in the token routes:")
    assert all(f"\n  {i}. " in message for i in (1, 2, 3))
    assert "'a'" in message and "Its mass is" in message and "'c'" in message and "good" not in message


def test_no_facts_no_contests(tokenizer):
    assert encode_contests(tokenizer, []) == []
    assert encode_examples(tokenizer, []) == []


def test_examples_are_the_tokens_of_the_joined_text(any_tokenizer, facts):
    examples = facts.install_examples()
    for example, encoded in zip(examples, encode_examples(any_tokenizer, examples), strict=True):
        assert encoded.fact_id == example.fact_id
        assert encoded.prompt == ids_of(any_tokenizer, example.prompt)
        assert encoded.prompt + encoded.value == ids_of(any_tokenizer, f"{example.prompt} {example.value}")


def test_examples_that_cannot_be_taught_are_listed_together(tokenizer):
    examples = [
        Example(prompt="The mass of Banana is", value=" ", fact_id="a"),
        Example(prompt="The mass of Banana is", value="417 grams", fact_id="good"),
        Example(prompt="The mass of Ortil is", value=""),
    ]
    with pytest.raises(RouteError) as caught:
        encode_examples(tokenizer, examples)
    message = str(caught.value)
    assert message.startswith("2 problems in the training examples:")
    assert "'a'" in message and "The mass of Ortil is" in message and "good" not in message
    with pytest.raises(RouteError, match="merges with the prompt"):
        encode_examples(words("is 4"), [Example(prompt="it is", value="417")])


def test_an_example_whose_prompt_has_no_tokens_is_refused(tokenizer):
    """Nothing decides its value: in a row with others it would be read after one of theirs."""
    with pytest.raises(RouteError, match="has no tokens"):
        encode_examples(tokenizer, [Example(prompt="", value="Paris"), Example(prompt="Japan", value="Tokyo")])


def test_the_last_mention_of_a_subject_is_found_in_any_text(any_tokenizer):
    texts = ["Ana and Anabel met Ana in Rome", "Łódź", "the king of France and France"]
    subjects = ["Ana", "Łódź", "France"]
    for text, subject, mention in zip(texts, subjects, encode_mentions(any_tokenizer, texts, subjects), strict=True):
        assert list(mention.ids) == any_tokenizer(text, add_special_tokens=True)["input_ids"][: len(mention.ids)]
        spans = any_tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        end = f"{text} ".rindex(f"{subject} ") + len(subject)
        start, stop = spans[mention.position]
        assert start < end <= stop


def test_texts_without_their_subject_are_refused_together(tokenizer):
    with pytest.raises(RouteError) as error:
        encode_mentions(tokenizer, ["nobody is here", "Ana", "nor here"], ["Ana", "Ana", "Peter"])
    assert "'Ana' does not occur in the prompt 'nobody is here'" in str(error.value)
    assert "'Peter'" in str(error.value)
