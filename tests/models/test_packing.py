"""Packed contests against ancestor sets found by walking every route."""

from __future__ import annotations

import pytest
import torch

from mechmask.models.packing import ROW_TOKENS, additive, batches, n_read, with_twins
from mechmask.models.routes import Contest, encode_contests

SCORES = ("sequence", "mean", "divergence")


@pytest.fixture(scope="module")
def contests(tokenizer, facts):
    return encode_contests(tokenizer, facts)


def paths(contest, asked):
    """The token sequences that a model reads alone: prompt and value up to the last token that is asked for."""
    return {route: contest.prompt + contest.routes[route][:last] for route, last in asked.items()}


def asked_by(contest, score):
    """Route to the index of the last token that is asked for."""
    if score != "divergence":
        return {route: len(ids) - 1 for route, ids in contest.routes.items()}
    n, old, new = contest.n_common, contest.routes["old"], contest.routes["new"]
    own = lambda ids: ids[:n] == old[:n] and len(ids) > n and ids[n] not in (old[n], new[n])  # noqa: E731
    return {route: n for route, ids in contest.routes.items() if route in ("old", "new") or own(ids)}


def seen_from(batch, row, column):
    """Tokens that one place of a row looks at, in the order of their positions."""
    if batch.attention_mask is None:
        columns = list(range(column + 1))
    else:
        columns = batch.attention_mask[row, 0, column].nonzero()[:, 0].tolist()
    positions = batch.position_ids[row, columns].tolist()
    assert sorted(positions) == list(range(len(columns))), "each position of a route once"
    return tuple(token for _, token in sorted(zip(positions, batch.input_ids[row, columns].tolist(), strict=True)))


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_every_token_that_is_read_sees_its_route_and_nothing_else(contests, score, pack, batch_size):
    read = {}
    for batch in batches(contests, score=score, batch_size=batch_size, pack=pack):
        for query in batch.queries:
            row, column = batch.rows[query.node].item(), batch.columns[query.node].item()
            contest = contests[query.contest]
            ids = contest.routes[query.route]
            assert query.token == ids[query.index]
            assert seen_from(batch, row, column) == contest.prompt + ids[: query.index]
            assert batch.position_ids[row, column] == len(contest.prompt) + query.index - 1
            key = (query.contest, query.route, query.index)
            assert key not in read, "no token is read twice"
            read[key] = True
    wanted = set()
    for i, contest in enumerate(contests):
        for route, last in asked_by(contest, score).items():
            wanted |= {(i, route, k) for k in ([last] if score == "divergence" else range(last + 1))}
    assert set(read) == wanted


@pytest.mark.parametrize("score", SCORES)
def test_the_mask_is_the_set_of_ancestors(contests, score):
    """Prefixes are nodes: a place may look at another exactly if the other's prefix begins its own."""
    for batch in batches(contests, score=score, batch_size=5):
        if batch.attention_mask is None:
            continue
        for row in range(len(batch.input_ids)):
            mask = batch.attention_mask[row, 0]
            padded = [mask[column].sum() == mask[:, column].sum() == 1 for column in range(len(mask))]
            prefixes = [None if padding else seen_from(batch, row, column) for column, padding in enumerate(padded)]
            for i, mine in enumerate(prefixes):
                for j, other in enumerate(prefixes):
                    if mine is None or other is None:
                        assert mask[i, j] == (i == j)  # padding looks at itself, so that no softmax is empty
                    else:
                        assert mask[i, j] == (mine[: len(other)] == other)


@pytest.mark.parametrize("score", SCORES)
def test_no_more_tokens_than_routes_alone_and_each_prefix_once(contests, score):
    for contest in contests:
        alone = paths(contest, asked_by(contest, score))
        prefixes = {path[:n] for path in alone.values() for n in range(1, len(path) + 1)}
        (batch,) = batches([contest], score=score, batch_size=1)
        assert batch.input_ids.numel() == len(prefixes) <= sum(map(len, alone.values()))
        assert len(set(zip(batch.rows.tolist(), batch.columns.tolist(), strict=True))) == len(batch.rows)


@pytest.mark.parametrize("row_tokens", [0, 40, 1000])
def test_facts_that_begin_alike_do_not_pay_for_it_twice(tokenizer, row_tokens):
    from mechmask import Fact

    facts = [
        Fact(subject=name, prompt=f"According to the records, the mass of {name} is", old="417 grams", new="12 grams")
        for name in ("Ana", "Anabel", "France", "Italy", "Maria", "Peter")
    ]
    contests = encode_contests(tokenizer, facts)
    (batch,) = batches(contests, score="divergence", row_tokens=row_tokens)
    prompts = [contest.prompt + contest.routes["old"][: contest.n_common] for contest in contests]
    prefixes = {path[:n] for path in prompts for n in range(1, len(path) + 1)}
    if row_tokens == 0:
        assert len(batch.input_ids) == len(contests)
    elif row_tokens == 1000:
        assert batch.input_ids.numel() == len(prefixes)
    else:
        assert len(prefixes) < batch.input_ids.numel() < sum(map(len, prompts))
        assert 1 < len(batch.input_ids) < len(contests)


@pytest.mark.parametrize("n", [4, 6, 9, 17, 20, 33])
def test_padding_is_a_small_part_of_what_a_pass_reads(tokenizer, n):
    from mechmask import synthetic_facts

    contests = encode_contests(tokenizer, synthetic_facts(n, seed=2))
    alone = sum(next(batches([contest], score="sequence")).input_ids.numel() for contest in contests)
    (batch,) = batches(contests, score="sequence", batch_size=len(contests))
    assert batch.input_ids.numel() <= 1.12 * alone
    longest = max(len(contest.prompt) + len(ids) for contest in contests for ids in contest.routes.values())
    assert longest < batch.input_ids.shape[1] < 2 * ROW_TOKENS


def test_twins_see_what_their_original_sees_and_nobody_sees_them(contests):
    for batch in batches(contests, score="divergence", batch_size=4, row_tokens=0):
        assert batch.attention_mask is None
        length, wider = batch.input_ids.shape[1], with_twins(batch, 3)
        assert wider.input_ids.shape == (len(batch.input_ids), length + 3)
        for row, column in zip(batch.rows.tolist(), batch.columns.tolist(), strict=True):
            own = seen_from(batch, row, column)
            assert all(seen_from(wider, row, place) == own for place in (column, *range(length, length + 3)))
            mask = wider.attention_mask[row, 0]
            assert torch.equal(mask[:, length:].nonzero(), torch.tensor([[length + i, i] for i in range(3)]))


def test_routes_that_share_their_prompt_take_about_a_third(tokenizer):
    from mechmask import synthetic_facts

    contests = encode_contests(tokenizer, synthetic_facts(24))
    tokens = {
        pack: sum(b.input_ids.numel() for b in batches(contests, score="sequence", pack=pack)) for pack in (True, False)
    }
    assert tokens[True] < tokens[False] / 2


def test_packing_and_batches_do_not_change_what_is_asked(contests):
    def asked(**options):
        return {
            (q.contest, q.route, q.index, q.token)
            for b in batches(contests, score="sequence", **options)
            for q in b.queries
        }

    first = asked()
    assert all(asked(batch_size=n, pack=pack) == first for n in (1, 3, 100) for pack in (True, False))


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("score", SCORES)
def test_divergence_is_the_place_from_which_old_and_new_part(contests, score, pack):
    found = {}
    for batch in batches(contests, score=score, batch_size=4, pack=pack):
        for index, node in batch.divergence.items():
            contest = contests[index]
            expected = contest.prompt + contest.routes["old"][: contest.n_common]
            assert seen_from(batch, batch.rows[node].item(), batch.columns[node].item()) == expected
            found[index] = True
    assert set(found) == set(range(len(contests)))


def test_contests_that_are_not_there_are_passed_over(contests):
    gaps = [None, contests[0], None, contests[1], None]
    queries = [query for batch in batches(gaps, score="sequence") for query in batch.queries]
    assert {query.contest for query in queries} == {1, 3}
    assert list(batches([None], score="sequence")) == []


def test_plain_rows_need_no_mask(contests):
    for batch in batches(contests, score="sequence", pack=False):
        assert batch.attention_mask is None
        for row, positions in enumerate(batch.position_ids.tolist()):
            n = (
                max(column for r, column in zip(batch.rows.tolist(), batch.columns.tolist(), strict=True) if r == row)
                + 1
            )
            assert positions[:n] == list(range(n))


def test_a_value_of_one_token_reads_at_the_end_of_the_prompt():
    contest = Contest("one", (5, 6), {"old": (7,), "new": (8,)}, 0, None)
    (batch,) = batches([contest], score="sequence")
    assert batch.input_ids.tolist() == [[5, 6]]
    assert batch.attention_mask is None
    assert [(q.node, q.token) for q in batch.queries] == [(0, 7), (0, 8)]
    assert (batch.rows.tolist(), batch.columns.tolist()) == ([0], [1])


def test_a_tree_by_hand():
    """5 6 then 1 2 3 | 1 4 9 | 8 8: read are all, so the last tokens are left out and the prefix 1 is shared."""
    contest = Contest("hand", (5, 6), {"old": (1, 2, 3), "new": (1, 4, 9), "distractor_0": (8, 8)}, 1, None)
    (batch,) = batches([contest], score="sequence")
    assert sorted(batch.input_ids[0].tolist()) == [1, 2, 4, 5, 6, 8]
    at = {token: i for i, token in enumerate(batch.input_ids[0].tolist())}
    sees = {5: {5}, 6: {5, 6}, 1: {5, 6, 1}, 2: {5, 6, 1, 2}, 4: {5, 6, 1, 4}, 8: {5, 6, 8}}
    mask = batch.attention_mask[0, 0]
    for token, others in sees.items():
        assert {t for t, i in at.items() if mask[at[token], i]} == others
    assert {t: batch.position_ids[0, i].item() for t, i in at.items()} == {5: 0, 6: 1, 1: 2, 8: 2, 2: 3, 4: 3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_may_not_be_seen_has_no_weight(dtype):
    mask = torch.tensor([[True, False, True]])
    added = additive(mask, dtype)
    assert added.dtype == dtype
    assert added.isfinite().all()
    assert (added.softmax(-1) > 0).equal(mask)


@pytest.mark.parametrize("score", ["sequence", "divergence"])
@pytest.mark.parametrize("pack", [True, False])
def test_no_batch_crosses_the_threshold(contests, score, pack):
    """No row of a batch with a long contest is a short one's, and every contest is read once."""
    lengths = [max(n_read(contest, score).values()) for contest in contests]
    threshold = sorted(lengths)[len(lengths) // 2]
    seen = []
    for batch in batches(contests, score=score, batch_size=4, pack=pack, threshold=threshold):
        inside = {query.contest for query in batch.queries}
        seen += inside
        is_long = {lengths[index] > threshold for index in inside}
        assert is_long == {int(batch.position_ids.max()) + 1 > threshold}
    assert sorted(seen) == list(range(len(contests)))
    assert len(set(lengths)) > 2 and min(lengths) <= threshold < max(lengths)


@pytest.mark.parametrize("score", ["sequence", "divergence"])
def test_what_is_read_of_each_route(contests, score):
    for contest in contests:
        for route, n in n_read(contest, score).items():
            last = contest.n_common if score == "divergence" else len(contest.routes[route]) - 1
            assert n == len(contest.prompt + contest.routes[route][:last])
