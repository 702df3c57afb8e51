"""What a reader calls a state of a study, such as FT-L for ``ft_l``: the names that tables and figures print."""

from __future__ import annotations

STATE_NAMES = {
    "finetune": "fine-tuning",
    "won": "just won",
    "driven_on": "driven on",
    "nf4": "NF4",
    "ft": "FT",
    "ft_l": "FT-L",
    "ft_prompt_last": "FT (last prompt token)",
    "rome": "ROME",
    "r_rome": "r-ROME",
    "memit": "MEMIT",
    "emmet": "EMMET",
    "alphaedit": "AlphaEdit",
    "malmen": "MALMEN",
}


def state_name(state: object) -> str:
    """The name of a state in print; one that is not known here is called what it is.

    A number behind it stays: ``ft_l_2``, the second editor of its method, is FT-L 2.
    """
    name, _, number = str(state).rpartition("_")
    if number.isdecimal() and name in STATE_NAMES:
        return f"{STATE_NAMES[name]} {number}"
    return STATE_NAMES.get(str(state), str(state))
