"""Words that say nothing of a value: English words of the closed classes, by class.

Stop-word lists of text search go further, up to names and nouns (*computer*, *Microsoft*), which are values here. A
closed class takes no new members, so that nothing that a fact could name is in it.
"""

from __future__ import annotations

_ARTICLES = "a an the"
_DETERMINERS = (
    "this that these those each every either neither some any no all both such another other same own what which "
    "whose enough few fewer less many more most much several"
)
_PRONOUNS = (
    "i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself we "
    "us our ours ourselves they them their theirs themselves who whom there here one"
)
_PREPOSITIONS = (
    "about above across after against along amid among around as at before behind below beneath beside between "
    "beyond by despite down during except for from in inside into like near of off on onto out outside over past per "
    "since through throughout till to toward towards under underneath until unto up upon via with within without"
)
_CONJUNCTIONS = "and but or nor so yet if because although though while whereas unless whether than when where why how"
_VERBS = (
    "am is are was were be been being do does did doing done have has had having can could shall should may might must "
    "will would ought"
)
_ADVERBS = "not very too just only also even again then once ever never now still already quite rather almost"
_AFTER_AN_APOSTROPHE = "s t d ll m re ve don isn aren wasn weren doesn didn hasn haven hadn won wouldn couldn shouldn"

_PART = "\N{REPLACEMENT CHARACTER}"

STOP_WORDS: frozenset[str] = frozenset(
    " ".join(
        (
            _ARTICLES,
            _DETERMINERS,
            _PRONOUNS,
            _PREPOSITIONS,
            _CONJUNCTIONS,
            _VERBS,
            _ADVERBS,
            _AFTER_AN_APOSTROPHE,
        )
    ).split()
)
"""In lower case."""


def is_stop_word(text: str, words: frozenset[str] = STOP_WORDS) -> bool:
    r"""Whether a token says nothing of a value: a stop word, or without a letter or digit.

    Args:
        text: of the token, with the white space around it; bytes that are no whole character belong to a word.
        words: the stop words, in lower case.

    Examples:
        >>> [is_stop_word(text) for text in (" The", " \"", " Paris", " 4")]
        [True, True, False, False]
    """
    bare = text.strip().lower()
    return bare in words or not any(character.isalnum() or character == _PART for character in bare)
