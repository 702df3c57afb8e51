"""Training as steps: a longer one goes on where a shorter one ended, bit for bit, and reads no checkpoint twice."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import mechmask as mm
from mechmask.errors import StudyError
from mechmask.study.step import Settings

CONFIG = mm.FinetuneConfig(steps=4, lr=1e-2, rank=4)


class Reader:
    """Reads the output at a checkpoint and counts how often."""

    def __init__(self, facts):
        self.facts, self.n = facts, 0

    def watch(self, every=2, **settings):
        def read(model):
            self.n += 1
            return {"output": mm.read_logits(model, self.facts)}

        return mm.Watch(read, Settings(settings, settings), every)


def factors(root, name="install"):
    factors = load_file(root / "changes" / name / "change" / "adapter_model.safetensors")
    return {name: tensor.clone() for name, tensor in factors.items()}  # of the file, not of a map of it


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def trained(model, facts, root, config=CONFIG, reader=None, every=2, until=None):
    reader = reader or Reader(facts)
    with mm.Run(root, model, facts) as run:
        watch = reader.watch(every)
        return mm.train(run, "install", facts.install_examples(), config, watch=watch, until=until)


def test_it_is_the_fine_tuning_that_one_makes_by_hand(tiny, small_facts, tmp_path):
    model = tiny("llama")
    state = trained(model, small_facts, tmp_path / "run")
    by_hand = mm.finetune(model, small_facts.install_examples(), CONFIG)
    assert same(state.change.tensors, by_hand.tensors)
    assert list(state.checkpoints) == [0, 2, 4]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_larger_number_of_steps_goes_on_where_the_smaller_ended(tiny, small_facts, tmp_path, dropout):
    config = CONFIG.model_copy(update={"dropout": dropout})
    longer = config.model_copy(update={"steps": 7})
    reader = Reader(small_facts)
    trained(tiny("llama"), small_facts, tmp_path / "grown", config, reader)
    assert reader.n == 3
    grown = trained(tiny("llama"), small_facts, tmp_path / "grown", longer, reader)
    assert reader.n == 5  # steps 6 and 7: what is at 0, 2 and 4 is not read again
    assert list(grown.checkpoints) == [0, 2, 4, 6, 7]
    trained(tiny("llama"), small_facts, tmp_path / "whole", longer)
    assert same(factors(tmp_path / "grown"), factors(tmp_path / "whole"))


def test_a_smaller_number_of_steps_reads_nothing_again(tiny, small_facts, tmp_path):
    reader = Reader(small_facts)
    trained(tiny("llama"), small_facts, tmp_path / "run", reader=reader)
    shorter = CONFIG.model_copy(update={"steps": 2})
    state = trained(tiny("llama"), small_facts, tmp_path / "run", shorter, reader)
    assert (reader.n, list(state.checkpoints)) == (3, [0, 2])
    trained(tiny("llama"), small_facts, tmp_path / "short", shorter)
    assert same(factors(tmp_path / "run"), factors(tmp_path / "short"))


@pytest.mark.parametrize("update", [{"lr": 5e-3}, {"seed": 1}, {"rank": 2}, {"weight_decay": 0.5}], ids=str)
def test_another_setting_is_another_training(tiny, small_facts, tmp_path, update):
    reader, other = Reader(small_facts), CONFIG.model_copy(update=update)
    trained(tiny("llama"), small_facts, tmp_path / "run", reader=reader)
    trained(tiny("llama"), small_facts, tmp_path / "run", other, reader)
    assert reader.n == 6
    trained(tiny("llama"), small_facts, tmp_path / "alone", other)
    assert same(factors(tmp_path / "run"), factors(tmp_path / "alone"))


def test_other_checkpoints_are_read_and_the_training_is_the_same(tiny, small_facts, tmp_path):
    reader = Reader(small_facts)
    first = trained(tiny("llama"), small_facts, tmp_path / "run", reader=reader)
    other = trained(tiny("llama"), small_facts, tmp_path / "run", reader=reader, every=3)
    assert list(other.checkpoints) == [0, 3, 4]
    assert reader.n == 4
    assert same(other.change.tensors, first.change.tensors)


def test_it_ends_at_the_first_checkpoint_at_which_enough_is_recalled(tiny, small_facts, tmp_path):
    long = CONFIG.model_copy(update={"steps": 60, "rank": 16})
    state = trained(tiny("llama"), small_facts, tmp_path / "run", long, until=0.5, every=5)
    shares = []
    for reading in state.readings("output").values():
        taught = reading.sel(fact=reading.role != "never")
        shares.append(float(taught.recalled.sel(route="old").mean()))
    assert list(state.checkpoints)[-1] < 60
    assert shares[-1] >= 0.5 and all(share < 0.5 for share in shares[:-1])
    again = trained(tiny("llama"), small_facts, tmp_path / "run", long, until=0.5, every=5)
    assert list(again.checkpoints) == list(state.checkpoints)
    assert same(again.change.tensors, state.change.tensors)


@pytest.mark.parametrize("lost", ["state", "change", "both"])
def test_a_damaged_change_or_state_is_made_again(tiny, small_facts, tmp_path, lost):
    root, reader = tmp_path / "run", Reader(small_facts)
    trained(tiny("llama"), small_facts, root, reader=reader)
    wanted = factors(root)
    places = {
        "state": next((root / "training").rglob("state.safetensors")),
        "change": root / "changes" / "install" / "change" / "adapter_model.safetensors",
    }
    for name, path in places.items():
        if lost in (name, "both"):
            path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    trained(tiny("llama"), small_facts, root, reader=reader)
    assert same(factors(root), wanted)
    assert reader.n == 3


@pytest.mark.parametrize("how", ["cut", "emptied", "flipped"])
@pytest.mark.parametrize("name", ["state.safetensors", "step.json"])
def test_a_longer_training_does_not_go_on_from_a_damaged_state(tiny, small_facts, tmp_path, name, how):
    model, root, short = tiny("llama"), tmp_path / "run", CONFIG.model_copy(update={"steps": 1})
    trained(model, small_facts, root, short)
    path = next((root / "training").rglob(name))
    content = path.read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    path.write_bytes({"cut": content[:-9], "emptied": b"", "flipped": flipped}[how])
    with mm.Run(root, model, small_facts) as run:
        longer = short.model_copy(update={"steps": 2})
        state = mm.train(run, "install", small_facts.install_examples(), longer)
    by_hand = mm.finetune(model, small_facts.install_examples(), longer)
    assert same(state.change.tensors, by_hand.tensors)


def test_another_function_of_the_same_settings_is_another_watch(tiny, small_facts, tmp_path):
    model = tiny("llama")

    def trained_with(read):
        with mm.Run(tmp_path / "run", model, small_facts) as run:
            examples = small_facts.install_examples()
            return mm.train(run, "install", examples, CONFIG, watch=mm.Watch(read, every=4)).readings("output")[4]

    one = trained_with(lambda state: {"output": mm.read_logits(state, small_facts)})
    other = trained_with(lambda state: {"output": mm.read_logits(state, small_facts, "mean")})
    assert (one.attrs["score"], other.attrs["score"]) == ("sequence", "mean")


def test_an_end_that_nothing_reads_is_refused(tiny, small_facts, tmp_path):
    with (
        mm.Run(tmp_path / "run", tiny("llama"), small_facts) as run,
        pytest.raises(StudyError, match="nothing is read"),
    ):
        mm.train(run, "install", small_facts.install_examples(), CONFIG, until=0.5)
