"""What tests share: tiny random models of every family, real small tokenizers, facts with awkward corners, SmolLM2.

Nothing heavy is imported before a fixture asks for it: tests of the ground rooms stay without torch.
"""

from __future__ import annotations

import gc
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from beartype import BeartypeConf, beartype
from jaxtyping import jaxtyped

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from mechmask.facts.fact_set import FactSet
    from mechmask.models.model import Model

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the Hub, and without it each question waits for a minute
gc.set_threshold(20_000, 20, 10)  # by default the suite spends much of its time on looking for garbage
if "PYTEST_XDIST_WORKER" in os.environ:  # two processes share the cores: threads of both would wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"


_typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


class _ShapeChecking(SourceFileLoader):
    """Imports a module of mechmask with its annotations of arrays held against what comes and goes.

    A tensor of another shape or type than a signature says fails the test. Functions without arrays stay as they are:
    other types are pyright's, and what interrupts and traces see is the code itself.
    """

    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        for name, thing in list(vars(module).items()):
            if getattr(thing, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(thing):
                setattr(module, name, _shapes_checked(thing))
            elif inspect.isclass(thing):
                for member, function in list(vars(thing).items()):
                    if inspect.isfunction(function) and not getattr(thing, "_is_protocol", False):
                        setattr(thing, member, _shapes_checked(function))


def _shapes_checked(function: Any) -> Any:
    """The function, its array annotations checked at run time; itself where it has none."""
    annotated = dict(function.__annotations__)
    arrays = {name: kind for name, kind in annotated.items() if re.search(r"\b(Float|Int|Bool|Shaped)\[", str(kind))}
    if not arrays or hasattr(function, "__wrapped__"):
        return function
    function.__annotations__ = arrays
    return jaxtyped(typechecker=_typechecker)(function)


class _Finder(PathFinder):
    """Loads mechmask, and nothing else, through ``_ShapeChecking``."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
        found = super().find_spec(fullname, path, target) if fullname.split(".")[0] == "mechmask" else None
        if found is not None and isinstance(found.loader, SourceFileLoader):
            found.loader = _ShapeChecking(found.loader.name, found.loader.path)
        return found


sys.meta_path.insert(0, _Finder)

VOCABULARY = 512
_SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_LLAMA = {**_SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 256}
_GPT = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 64, "n_positions": 256}
_GPT_IDS = {"bos_token_id": 0, "eos_token_id": 0}
_ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
_CAPS = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0}
_GEMMA = {**_LLAMA, "num_hidden_layers": 3, "head_dim": 16, "query_pre_attn_scalar": 11, "layer_types": _ALTERNATING}

# What a config of each family takes. The cap of 3 bends the logits, which spread over some 1.7.
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {**_GPT, **_GPT_IDS},
    "gptj": {**_GPT, **_GPT_IDS, "rotary_dim": 4},
    "gpt_neox": {**_SIZES, **_GPT_IDS, "intermediate_size": 64, "max_position_embeddings": 256, "rotary_pct": 0.5},
    "opt": {**_SIZES, "num_hidden_layers": 3, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 256},
    "llama": {**_LLAMA, "num_hidden_layers": 3},
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": {**_LLAMA, "head_dim": 16},
    "gemma2": {**_GEMMA, **_CAPS},
    "gemma3_text": _GEMMA,
    "phi": {**_LLAMA, "partial_rotary_factor": 0.5},
    "phi3": {**_LLAMA, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}


_HEADS = {**_LLAMA, "head_dim": 8}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

_ROUTED = {
    **{"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16},
    "first_k_dense_replace": 1,  # a dense MLP in the first block, experts in the others
}
_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
_DEEPSEEK = {**_LLAMA, **_IDS, **_ROUTED, **_LATENT, "num_hidden_layers": 3, "num_key_value_heads": 4}
_DELTA = {
    **{"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}

# Families on which the proof of ``mechmask doctor`` is tried, and nothing else.
MORE_FAMILIES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("arcee", "exaone4", "nemotron", "olmo", "olmo2", "olmo3", "stablelm", "starcoder2"), _LLAMA),
    **{name: {**_HEADS, **_IDS} for name in ("ernie4_5", "gemma", "glm", "glm4", "hunyuan_v1_dense", "seed_oss")},
    **{name: {**_LLAMA, **_IDS} for name in ("apertus", "cohere", "cohere2", "smollm3")},
    "codegen": {**_GPT, **_GPT_IDS, "rotary_dim": 4},
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "falcon": {**_SIZES, "alibi": False, "multi_query": True, "new_decoder_architecture": False},
    "gpt_bigcode": {**_GPT, **_GPT_IDS},
    "gpt_neo": {
        **{"vocab_size": VOCABULARY, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64},
        **{"attention_types": [[["global"], 2]], "max_position_embeddings": 256},
    },
    "gemma4_text": {**_HEADS, **_IDS, "num_hidden_layers": 3},
    "glm4_moe": {**_HEADS, **_IDS, **_ROUTED, "num_hidden_layers": 3},
    "gpt_oss": {**_HEADS, "num_local_experts": 4},
    "granite": {**_LLAMA, "logits_scaling": 8.0, "residual_multiplier": 0.5, "embedding_multiplier": 2.0},
    "llama4_text": {
        **_HEADS,
        **_IDS,
        "intermediate_size_mlp": 64,
        "num_local_experts": 4,
        "interleave_moe_layer_step": 2,
    },
    "mixtral": {**_LLAMA, "num_local_experts": 4},
    "qwen3_moe": {**_HEADS, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2},
    "qwen3_next": {
        **{**_HEADS, **_IDS, **_DELTA, "num_hidden_layers": 3, "num_experts": 4, "num_experts_per_tok": 2},
        **{"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    },
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Every family in turn; ``pytest.mark.parametrize("family", [...])`` narrows it."""
    return request.param


@pytest.fixture(scope="session")
def tiny_module() -> Callable[..., PreTrainedModel]:
    """``tiny_module(family, dtype, seed, **config)``: a fresh random module on every call.

    Matrices spread over 0.3 and norms and biases by 0.3 around where they begin, so that one that is left out shows.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    def make(name: str, dtype: torch.dtype = torch.float32, seed: int = 0, **config: Any) -> PreTrainedModel:
        module = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(name, **{**(FAMILIES | MORE_FAMILIES).get(name, {}), **config})
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                noise = 0.3 * torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)
        return module.to(dtype).eval()

    return make


@pytest.fixture(scope="session")
def tiny(tiny_module: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast) -> Callable[..., Model]:
    """``tiny(family, dtype, seed, **config)``: a fresh random model on every call, with ``tokenizer``."""
    import copy

    from mechmask import load_model

    def make(name: str, *args: Any, **options: Any) -> Model:
        return load_model(tiny_module(name, *args, **options), tokenizer=copy.deepcopy(tokenizer))

    return make


def _corpus() -> list[str]:
    from mechmask import synthetic_facts

    made = [f"{text} {fact.old}" for fact in synthetic_facts(40, seed=1) for text in fact.phrasings]
    said = [
        "The capital of France is Paris, that of Italy is Rome, of Germany Berlin and of Spain Madrid.",
        "Banana and Ana met Maria; the friend of Ana and Anabel is Peter. Łódź heißt nicht Øresund.",
        "Die Bürgermeisterin von Łódź heißt Żaneta Müller, sagt 山田 Ørsted in Ångström.",
        "He was born in the year 1844, not in 1849, 1846, 1812 or 1901, said the king of the birds.",
    ]
    return [*made, *said * 8]


def _trained(directory: Path, *, metaspace: bool, before: str = "", after: str = "") -> PreTrainedTokenizerFast:
    """A tokenizer of at most 420 tokens, saved and read back as a user would read it.

    TransformerLens asks tokenizers for the place that they came from, which only a reloaded one knows.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    specials = ["<unk>", "<s>", "</s>"]
    bpe = Tokenizer(models.BPE(unk_token="<unk>" if metaspace else None))
    digits = pre_tokenizers.Digits(individual_digits=True)
    alphabet = [] if metaspace else pre_tokenizers.ByteLevel.alphabet()
    if metaspace:
        bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), digits])
        bpe.decoder = decoders.Metaspace()
    else:
        bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        _corpus(),
        trainers.BpeTrainer(vocab_size=420, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    if before or after:
        parts = " ".join(part for part in (before, "$A", after) if part)
        ids = [(name, bpe.token_to_id(name)) for name in specials]
        bpe.post_processor = processors.TemplateProcessing(single=parts, special_tokens=ids)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )
    wrapped.save_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """Byte-level BPE, digits apart, no special token added, no padding token, as GPT-2 and SmolLM2."""
    return _trained(tmp_path_factory.mktemp("byte_level"), metaspace=False)


@pytest.fixture(scope="session")
def bos_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """Byte-level BPE that puts BOS before, as Llama 3."""
    return _trained(tmp_path_factory.mktemp("byte_level_bos"), metaspace=False, before="<s>")


@pytest.fixture(scope="session")
def bos_eos_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """Byte-level BPE that puts BOS before and EOS behind."""
    return _trained(tmp_path_factory.mktemp("byte_level_bos_eos"), metaspace=False, before="<s>", after="</s>")


@pytest.fixture(scope="session")
def metaspace_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """SentencePiece-like BPE over ``▁`` that puts BOS before, as Llama 2."""
    return _trained(tmp_path_factory.mktemp("metaspace"), metaspace=True, before="<s>")


@pytest.fixture(scope="session")
def facts() -> FactSet:
    """Nine synthetic facts, then: few distractors, a common prefix, a repeated subject, Unicode."""
    from mechmask import Fact, FactSet, synthetic_facts

    few = Fact(
        subject="France",
        prompt="The capital of France is",
        old="Paris",
        new="Rome",
        distractors=("Berlin", "Madrid"),
        paraphrases=("France has its capital in",),
        relation="capital",
    )
    common_prefix = Fact(
        subject="Karl Benz",
        prompt="Karl Benz was born in the year",
        old="1844",
        new="1849",
        distractors=("1846", "1812", "1901"),
        role="control",
        relation="born",
    )
    repeated = Fact(
        subject="Ana",
        prompt="Banana and Ana met Maria; the friend of Ana and Anabel is",
        old="Peter",
        new="Maria",
        distractors=("the king", "Berlin", "Madrid", "Paris"),
        relation="friend",
    )
    unicode = Fact(
        subject="Łódź",
        prompt="Die Bürgermeisterin von Łódź heißt",
        old="Żaneta Müller",
        new="山田 Ørsted",
        distractors=("Ångström", "Żorro"),
        role="never",
        relation="mayor",
    )
    return synthetic_facts(6, n_never=3, seed=3) + FactSet([few, common_prefix, repeated, unicode])


@pytest.fixture(scope="session")
def smol() -> Model:
    """The embedded SmolLM2-135M, read-only: one copy for the whole session. Downloaded on first use."""
    from mechmask import load_model

    return load_model()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public data sets beside the repository; a test that needs them is skipped where there are none."""
    path = Path(__file__).parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"{path} is not there")
    return path


class Result(NamedTuple):
    """What a command ended with, and what it printed."""

    code: int
    out: str
    err: str


def _undrawn() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mechmask.study.exports._save", lambda drawn, path: path.touch())
        yield


undrawn = pytest.fixture(_undrawn, name="undrawn")
"""Figures of studies are empty files: what is drawn is another test's question."""
all_undrawn = pytest.fixture(_undrawn, scope="module", name="all_undrawn")
"""The same for all tests of a module, and for what they share."""


@pytest.fixture
def mechmask(monkeypatch, capfd):
    """``mechmask(*arguments)``: the console script's own entry point, in this process."""
    from mechmask.cli import main

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["mechmask", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        captured = capfd.readouterr()
        return Result(int(code), captured.out, captured.err)

    return run
