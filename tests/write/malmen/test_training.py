"""MALMEN's training: the way back by hand against autograd, what does not count, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from mechmask import FactSet, edit, read_logits, synthetic_facts
from mechmask.errors import ChangeError, MechmaskError
from mechmask.facts.fact import Neighbor
from mechmask.write.malmen import training
from mechmask.write.malmen.answers import AnswerSignals, answer_signals
from mechmask.write.malmen.networks import hypernetworks_for
from mechmask.write.malmen.ridge import Ridge
from mechmask.write.malmen.training import (
    MALMENTrainingConfig,
    add_gradients,
    edited_weights,
    train_malmen,
)
from mechmask.write.methods.malmen import MALMENConfig
from mechmask.write.weights import trainable

LAYERS = (0, 1)
CONFIG = MALMENTrainingConfig(layers=LAYERS, rank=8, n_edits=4, n_steps=3, lr=1e-3, start_lr=1e-2, seed=3)


def randomised(networks):
    """Networks in float64, every parameter moved, with statistics."""
    networks.to(torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for network in networks.networks():
            for parameter in network.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(noise * (0.1 if parameter.ndim > 1 else 0.3))
            pairs = torch.randn(50, len(network.mean), generator=generator, dtype=torch.float64)
            network.observe(*pairs.split(network.widths, 1))
    return networks


def through(networks, layer, keys, gradients):
    """The update of a map as it acts on a row, by plain torch from parameters to the solve."""
    network, number = networks.of(layer)
    pairs = (torch.cat([keys, gradients], 1) - network.mean) / (network.deviations / (network.n_seen - 1)).sqrt()
    for block in network.blocks:
        hidden = torch.relu(pairs @ block.down @ block.up + block.bias)
        pairs = pairs + block.scale[number] * hidden + block.shift[number]
    new_keys, new_gradients = pairs[:, : keys.shape[1]], pairs[:, keys.shape[1] :]
    differences = -network.lr[number] * (keys * new_keys).sum(1)[:, None] * new_gradients
    identity = torch.eye(keys.shape[1], dtype=keys.dtype)
    return torch.linalg.solve(keys.mT @ keys + network.log_ridge[number].exp() * identity, keys.mT @ differences)


def gradients_of(networks):
    taken = [parameter.grad.clone() for parameter in networks.parameters()]
    for parameter in networks.parameters():
        parameter.grad = None
    return taken


def close(mine, theirs, tolerance):
    for one, other in zip(mine, theirs, strict=True):
        assert other.norm() > 0
        assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("n_tokens", [7, 150])
def test_the_way_back_by_hand_is_autograds(tiny, n_tokens):
    """Every parameter, eta and ridge, with fewer and with more tokens than a key has entries."""
    networks = randomised(hypernetworks_for(tiny("llama"), LAYERS, rank=5, n_blocks=2))
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    signals = AnswerSignals({n: draw(n_tokens, 64) for n in LAYERS}, {n: draw(n_tokens, 32) for n in LAYERS}, 0.0)
    along = {layer: draw(64, 32) for layer in LAYERS}

    def loss(update, layer):
        return (update * along[layer]).sum() + (update**3).sum()

    for layer in LAYERS:
        update = networks.update(layer, signals)
        acts = (update.factors.outputs @ update.factors.inputs).mT.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(acts, layer), acts)
        networks.backward(layer, signals, update, gradient)
    mine = gradients_of(networks)
    sum(loss(through(networks, n, signals.keys[n], signals.gradients[n]), n) for n in LAYERS).backward()
    close(mine, gradients_of(networks), 1e-9)


@pytest.mark.parametrize("n_tokens", [3, 12])
def test_the_update_is_stationary(n_tokens):
    keys, differences = torch.randn(n_tokens, 7).double(), torch.randn(n_tokens, 5).double()
    factors = Ridge(keys, 0.7).factors(differences)
    update = (factors.outputs @ factors.inputs).mT
    assert torch.allclose(
        keys.mT @ (keys @ update - differences) + 0.7 * update, torch.zeros(7, 5).double(), atol=1e-12
    )


def test_keys_that_leave_no_update_are_refused(refused):
    with refused("are not finite, or a ridge of 1 is lost"):
        Ridge(torch.full((2, 3), torch.nan), 1.0)
    with refused("a ridge of 1e-20 is lost"):
        Ridge(torch.ones(2, 3), 1e-20)


def drawn(model, facts, config=CONFIG):
    return training._Lessons(model, facts, config)


@pytest.fixture
def taught():
    """Nine facts, of which the first two have a neighbor."""
    facts = synthetic_facts(9, seed=5)[:9]
    king = (Neighbor(prompt="The king of", value="Berlin"),)
    return FactSet([*(fact.model_copy(update={"neighbors": king}) for fact in facts[:2]), *facts[2:]])


def step_gradients(model, taught, networks=None, **update):
    config = CONFIG.model_copy(update=update)
    networks = networks or randomised(hypernetworks_for(model, LAYERS, rank=8, n_blocks=2))
    examples = drawn(model, taught, config).of(0)
    with trainable(model, edited_weights(model, LAYERS)):
        signals = answer_signals(model, examples.edited, LAYERS, config.micro_batch, "a test")
        losses = add_gradients(model, networks, signals, examples, config, "a test")
    return losses, gradients_of(networks), networks, examples


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_steps_gradients_are_autograds_through_the_whole_model(tiny, taught, family):
    """In a float64 model; logits are float32, as mechmask computes them, hence the tolerance."""
    model = tiny(family, torch.float64)
    losses, mine, networks, examples = step_gradients(model, taught)
    with trainable(model, {}):
        signals = answer_signals(model, examples.edited, LAYERS, 32, "a test")
    weights = {}
    for layer in LAYERS:
        projection = model.anatomy.mlp_output(layer)
        update = through(networks, layer, signals.keys[layer], signals.gradients[layer])
        weights[f"{projection.name}.weight"] = projection.weight.detach() + (
            update if projection.input_first else update.mT
        )

    def logprobs(example, given):
        ids = torch.tensor([[*example.prompt, *example.value[:-1]]])
        logits = functional_call(model.module, given, (), {"input_ids": ids}).logits[0]
        return logits[len(example.prompt) - 1 :].log_softmax(-1)

    n_equivalent, n_local = (sum(len(e.value) for e in of) for of in (examples.equivalent, examples.local))
    equivalence = -sum(
        logprobs(e, weights).gather(1, torch.tensor(e.value)[:, None]).sum() for e in examples.equivalent
    )
    locality = 0
    for e in examples.local:
        before, after = logprobs(e, {}).detach(), logprobs(e, weights)
        locality = locality + (before.exp() * (before - after)).sum()
    (equivalence / n_equivalent + locality / n_local).backward()
    model.module.zero_grad(set_to_none=True)
    close(mine, gradients_of(networks), 1e-4)
    assert losses == pytest.approx((equivalence.item() / n_equivalent, locality.item() / n_local), rel=1e-4)


def test_what_is_read_together_and_chunks_do_not_change_gradients(tiny, taught, monkeypatch):
    model = tiny("llama")
    losses, wide, *_ = step_gradients(model, taught, n_edits=5)
    monkeypatch.setattr("mechmask.write.malmen.networks._CHUNK", 3)
    narrow_losses, narrow, *_ = step_gradients(model, taught, n_edits=5, micro_batch=2)
    assert narrow_losses == pytest.approx(losses, rel=1e-4)
    close(narrow, wide, 2e-4)


def test_the_edited_model_is_left_as_it_was_by_a_training(tiny, taught, traced, rngs):
    model = tiny("llama")
    before, numbers = traced(model.module), rngs()
    first = train_malmen(model, taught, CONFIG, progress=False)
    assert rngs() == numbers
    assert traced(model.module) == before
    torch.manual_seed(99)
    with torch.inference_mode():
        again = train_malmen(model, taught, CONFIG, progress=False)
    assert again.digest == first.digest
    other = train_malmen(model, taught, CONFIG.model_copy(update={"seed": 4}), progress=False)
    assert other.digest != first.digest
    assert first.base == model.fingerprint
    assert (first.training["n_facts"], first.training["steps"]) == (9, 3)
    assert len(first.training["equivalence_nats"]) == 3


def test_every_fact_is_drawn_once_before_any_again(tiny, taught):
    lessons = drawn(tiny("llama"), taught)
    steps = [lessons.of(step) for step in range(2 * lessons.per_epoch)]
    assert lessons.per_epoch == 2
    for epoch in (steps[:2], steps[2:]):
        ids = [example.fact_id for step in epoch for example in step.edited]
        assert len(set(ids)) == len(ids) == 8
    assert [e.fact_id for e in steps[0].edited] != [e.fact_id for e in steps[2].edited]


def test_what_should_stay_is_a_neighbor_or_a_fact_that_is_not_edited(tiny, taught):
    lessons = drawn(tiny("llama"), taught)
    has_neighbor = {fact.id for fact in taught if fact.neighbors}
    for step in range(6):
        examples = lessons.of(step)
        edited = {example.fact_id for example in examples.edited}
        for fact, other in zip(examples.edited, examples.local, strict=True):
            assert (fact.fact_id == other.fact_id) == (fact.fact_id in has_neighbor)
            assert other.fact_id == fact.fact_id or other.fact_id not in edited
        assert [e.fact_id for e in examples.equivalent] == [e.fact_id for e in examples.edited]
        assert all(a.prompt != b.prompt for a, b in zip(examples.equivalent, examples.edited, strict=True))


def test_facts_that_teach_nothing_are_refused(tiny, taught, refused):
    model = tiny("llama")
    with refused("A step edits 512 facts and there are 9"):
        train_malmen(model, taught, MALMENTrainingConfig(layers=LAYERS), progress=False)
    bare = [fact.model_copy(update={"paraphrases": ()}) for fact in taught]
    with refused("No fact has a paraphrase"):
        train_malmen(model, bare, CONFIG, progress=False)
    with refused("edits all 9 facts, and some have no neighbors"):
        train_malmen(model, taught, CONFIG.model_copy(update={"n_edits": 9}), progress=False)
    with refused("There is no block 9"):
        train_malmen(model, taught, CONFIG.model_copy(update={"layers": (9,)}), progress=False)
    with pytest.raises(ChangeError, match="once, in order"):
        MALMENTrainingConfig(layers=(1, 0))


def test_a_number_that_is_none_stops_with_step_and_facts(tiny, taught, traced):
    model = tiny("llama")
    with torch.no_grad():
        model.module.model.layers[2].mlp.down_proj.weight[0, 0] = torch.nan
    before = traced(model.module)
    with pytest.raises(MechmaskError, match=r"not a number in step 1 of MALMEN, on '.*'"):
        train_malmen(model, taught, CONFIG, progress=False)
    assert traced(model.module) == before


def test_an_update_without_bounds_stops_with_step_and_facts(tiny, taught, traced):
    model = tiny("llama")
    before = traced(model.module)
    with pytest.raises(ChangeError, match=r"step 1 of MALMEN, on '.*'"):
        train_malmen(model, taught, CONFIG.model_copy(update={"start_lr": 1e37}), progress=False)
    assert traced(model.module) == before


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("where", ["target_nll", "kl_div"])
def test_an_interrupt_leaves_the_model_as_it_was(tiny, taught, traced, monkeypatch, failure, where):
    model = tiny("gpt2")
    before = traced(model.module)

    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(training, where, fail)
    with pytest.raises(failure):
        train_malmen(model, taught, CONFIG, progress=False)
    assert traced(model.module) == before


def test_an_epoch_is_the_default(tiny, taught):
    networks = train_malmen(tiny("llama"), taught, CONFIG.model_copy(update={"n_steps": None}), progress=False)
    assert networks.training["steps"] == 2


@pytest.mark.filterwarnings("ignore:The .* edit did not take")
def test_it_learns_to_write_facts_that_it_has_not_seen(tiny, tmp_path):
    """The new value after paraphrases of facts held out, edited by networks that begin and by networks that trained."""
    model, facts = tiny("llama"), synthetic_facts(48, seed=5)
    train, held = facts[:40], facts[40:]
    config = MALMENTrainingConfig(layers=LAYERS, rank=16, n_edits=8, lr=3e-3, start_lr=1e-3, locality_weight=0.0)
    found = {}
    for n_steps in (1, 40):
        networks = train_malmen(model, train, config.model_copy(update={"n_steps": n_steps}), progress=False)
        networks.save(tmp_path / str(n_steps))
        change = edit(model, held, config=MALMENConfig(layers=LAYERS, hypernetwork=str(tmp_path / str(n_steps))))
        asked = [f.model_copy(update={"prompt": f.paraphrases[0], "paraphrases": ()}) for f in held]
        found[n_steps] = -float(read_logits(change.on(model), asked, score="mean").logprob.sel(route="new").mean())
    assert found[40] < found[1] - 0.2


def test_statistics_are_of_what_was_edited_in_training_and_of_nothing_else(tiny, taught):
    model, config = tiny("llama"), CONFIG.model_copy(update={"n_steps": 2})
    (network,) = train_malmen(model, taught, config, progress=False).networks()
    lessons, pairs = drawn(model, taught, config), []
    for step in range(2):
        with trainable(model, {}):
            signals = answer_signals(model, lessons.of(step).edited, LAYERS, 1, "a test")
        pairs += [torch.cat([signals.keys[layer], signals.gradients[layer]], 1).double() for layer in LAYERS]
    together = torch.cat(pairs)
    assert int(network.n_seen) == len(together)
    torch.testing.assert_close(network.mean, together.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(network.deviations / (len(together) - 1), together.var(0), rtol=1e-3, atol=1e-7)


def test_the_gradient_of_all_networks_is_clipped(tiny, taught):
    """Clipped to far less than Adam's epsilon, it moves nothing to speak of."""
    moved = []
    for norm in (1.0, 1e-14):
        config = CONFIG.model_copy(update={"n_steps": 1, "max_grad_norm": norm})
        networks, fresh = (
            train_malmen(tiny("llama"), taught, config, progress=False),
            hypernetworks_for(tiny("llama"), LAYERS, rank=config.rank, n_blocks=config.n_blocks, lr=config.start_lr),
        )
        fresh.draw(config.seed)
        pairs = zip(networks.parameters(), fresh.parameters(), strict=True)
        moved.append(max(float((mine - begun).abs().max()) for mine, begun in pairs))
    assert moved[0] > 0.5 * CONFIG.lr
    assert moved[1] < 1e-5 * CONFIG.lr
