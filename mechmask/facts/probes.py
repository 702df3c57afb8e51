"""Probes: phrasings of a fact that no training shows, in which an old value may come back (paper 2F, finding 3).

Every fact has its prompt in each of the frames below, whatever it is about, and its own paraphrases. A frame stands
before the prompt, which stays whole and last, so that the value still follows it after one space. None says anything
about a fact, or asks for another value than the true one.
"""

from __future__ import annotations

from mechmask.facts.fact import Fact

PROBE_FRAMES = {
    "well_known": "It is well known that {}",
    "as_everyone_knows": "As everyone knows, {}",
    "in_fact": "In fact, {}",
    "true_statement": "The following statement is true: {}",
    "quoted": 'She closed the book and said: "{}',
    "answer": "Question: Can you complete the sentence?\nAnswer: {}",
    "dialogue": "A: Tell me something that I can rely on.\nB: {}",
    "school": "The teacher wrote one sentence on the board: {}",
    "exam": "For the exam, remember this: {}",
    "quiz": "This was the first question of the quiz, and all teams had it right. {}",
    "encyclopedia": "From the encyclopedia, revised edition:\n\n{}",
    "list": "Things to remember:\n- {}",
    "heading": "# Notes\n\n{}",
    "unrelated": "The rain had stopped, and the street was quiet again. {}",
}
"""Text around a prompt, by name; the prompt stands for ``{}``."""


def probes(fact: Fact) -> dict[str, str]:
    """Prompts of a fact that no training shows, as long as only its own prompt is taught.

    Args:
        fact: any fact.

    Returns:
        The prompt by the name of its probe: one for each of ``PROBE_FRAMES``, then ``paraphrase_1`` and so on, the
        fact's own. A paraphrase that reads as a probe does is left out.

    Examples:
        >>> from mechmask import Fact
        >>> paris = Fact(subject="France", prompt="The capital of France is", old="Paris", new="Rome")
        >>> asked = probes(paris)
        >>> len(asked), asked["in_fact"]
        (14, 'In fact, The capital of France is')
    """
    framed = {name: frame.replace("{}", fact.prompt) for name, frame in PROBE_FRAMES.items()}
    own = {f"paraphrase_{i}": text for i, text in enumerate(fact.paraphrases, start=1)}
    return framed | {name: text for name, text in own.items() if text not in framed.values()}


def probed(fact: Fact) -> Fact:
    """The fact with its probes as paraphrases, in their order."""
    return fact.model_copy(update={"paraphrases": tuple(probes(fact).values())})
