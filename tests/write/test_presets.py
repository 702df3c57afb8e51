"""Presets hold the numbers of the published files, read from those a second time."""

from __future__ import annotations

import pytest

from mechmask.write.edit import METHODS
from mechmask.write.presets import model_presets, preset

ROME = {"value_steps": 20, "value_lr": 0.5, "value_decay": 0.5, "value_clamp": 4.0, "value_kl": 0.0625}
ROME_25 = {**ROME, "value_steps": 25, "value_decay": 1e-3, "second_moment": "identity"}
MEMIT = {"value_lr": 0.5, "value_decay": 0.5, "value_clamp": 0.75, "value_kl": 0.0625}
EASY = {"value_steps": 25, "value_lr": 0.5, "value_decay": 1e-3, "value_clamp": 4.0, "moment_weight": 15000.0}
ALPHA = {**MEMIT, "null_space_threshold": 2e-2, "ridge": 10.0}
FT = {"steps": 25, "lr": 5e-4}

# kmeng01/rome at 0874014 and memit at 80426fd, zjunlp/EasyEdit at 14cea82, jianghoucheng/AlphaEdit at f5248d3 and
# ed44d03, scalable-model-editing's rebuilding-rome at 4095d04 and unified-model-editing at 23d72b5, each its hparams/
PUBLISHED = {
    "gpt2-medium": {
        "ft_l": {**FT, "layer": 0, "clamp": 2e-3},
        "rome": {**ROME, "layers": (8,), "value_clamp": 3.0, "second_moment": "estimated"},
        "r_rome": {**ROME, "layers": (8,), "value_clamp": 3.0, "second_moment": "estimated"},
    },
    "gpt2-large": {
        "ft_l": {**FT, "layer": 0, "clamp": 1e-3},
        "rome": {**ROME, "layers": (12,), "second_moment": "estimated"},
        "r_rome": {**ROME, "layers": (12,), "second_moment": "estimated"},
    },
    "gpt2-xl": {
        "ft": {**FT, "layer": 1},
        "ft_prompt_last": {**FT, "layer": 1},
        "ft_l": {**FT, "layer": 0, "clamp": 5e-4},
        "rome": {**ROME, "layers": (17,), "second_moment": "estimated", "context_lengths": ((5, 10), (10, 10))},
        "r_rome": {**ROME, "layers": (17,), "second_moment": "estimated"},
        "memit": {**MEMIT, "layers": (13, 14, 15, 16, 17), "value_steps": 20, "moment_weight": 20000.0},
        "emmet": {"layers": (17,), "moment_weight": 1000.0, "value_steps": 20},
        "alphaedit": {**ALPHA, "layers": (13, 14, 15, 16, 17), "value_steps": 20},
        "malmen": {"layers": tuple(range(42, 48))},
    },
    "gpt-j-6b": {
        "ft": {**FT, "layer": 21},
        "ft_prompt_last": {**FT, "layer": 21},
        "ft_l": {**FT, "layer": 0, "clamp": 5e-5},
        "rome": {**ROME, "layers": (5,), "second_moment": "estimated"},
        "r_rome": {**ROME, "layers": (5,), "second_moment": "estimated"},
        "memit": {**MEMIT, "layers": (3, 4, 5, 6, 7, 8), "value_steps": 25, "moment_weight": 15000.0},
        "emmet": {"layers": (5,), "moment_weight": 1.0, "value_steps": 25},
        "alphaedit": {**ALPHA, "layers": (3, 4, 5, 6, 7, 8), "value_steps": 25},
        "malmen": {"layers": tuple(range(22, 28))},
    },
    "llama-2-7b": {
        "ft_prompt_last": {**FT, "layer": 21},
        "rome": {**ROME_25, "layers": (5,)},
        "memit": {**EASY, "layers": (4, 5, 6, 7, 8)},
        "emmet": {"layers": (5,), "value_steps": 25, "value_decay": 1e-3, "value_clamp": 4.0, "moment_weight": 1.0},
    },
    "llama-3-8b": {
        "ft_prompt_last": {**FT, "layer": 21},
        "rome": {**ROME_25, "layers": (5,)},
        "memit": {
            **MEMIT,
            **{"layers": (4, 5, 6, 7, 8), "value_steps": 25, "value_lr": 0.1, "moment_weight": 15000.0},
        },
        "alphaedit": {**ALPHA, "layers": (4, 5, 6, 7, 8), "value_steps": 25, "value_lr": 0.1},
    },
    "llama-3.2-3b": {
        "ft_prompt_last": {**FT, "layer": 21},
        "rome": {**ROME_25, "layers": (5,)},
        "memit": {**EASY, "layers": (4, 5, 6, 7, 8)},
    },
    "qwen2.5-7b": {
        "ft_prompt_last": {**FT, "layer": 27},
        "rome": {**ROME_25, "layers": (5,)},
        "memit": {**EASY, "layers": (4, 5, 6, 7, 8)},
        "alphaedit": {**ALPHA, "layers": (4, 5, 6, 7, 8), "value_steps": 25, "value_lr": 0.1},
    },
}
FOUND_HERE = "smollm2-135m"


def test_every_preset_is_published_or_found_here():
    stored = {name: set(found.methods) for name, found in model_presets().items()}
    assert set(stored.pop(FOUND_HERE)) == set(METHODS)
    assert stored == {name: set(methods) for name, methods in PUBLISHED.items()}


@pytest.mark.parametrize(("name", "method"), [(name, method) for name, of in PUBLISHED.items() for method in of])
def test_it_has_the_published_numbers(name, method):
    config = METHODS[method].config.model_validate(preset(method, name).config)
    expected = PUBLISHED[name][method]
    assert {key: getattr(config, key) for key in expected} == expected
