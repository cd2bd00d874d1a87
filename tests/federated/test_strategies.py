"""Invariants of the federated strategies, checked against dense products in float64 and against the papers' claims."""

import numpy as np
import pytest

from lora_playground.errors import ConfigError
from lora_playground.federated.aggregation import Party, added, aggregate, relative_error
from lora_playground.federated.strategies import STRATEGIES, get_strategy
from lora_playground.federated.strategies.base import Message, size
from tests.federated.played_rounds import (
    EXACT,
    EXAMPLES,
    MIXED,
    SHAPES,
    begin,
    dense,
    dense_ideal,
    dense_merged,
    parties,
    play,
    train,
)


def test_all_eleven_are_found() -> None:
    assert set(STRATEGIES) == set("fedit ffa rolora flora flexlora hetlora fedex lorafair fedsvd fedsb florist".split())
    for strategy in STRATEGIES.values():
        assert strategy.card.sentence and strategy.card.equation and strategy.card.url.startswith("https://")


@pytest.mark.parametrize("name", EXACT)
def test_exact_methods_give_base_plus_ideal(name: str) -> None:
    """The effective weight after each of four rounds, with unequal weights, against dense ones; fp32 on the wire."""
    strategy = get_strategy(name)
    for before, trained, _, outcome in play(strategy, parties([4, 4, 4, 4]), 4):
        for module in SHAPES:
            wanted = dense_merged(before, module) + dense_ideal(trained, module)
            B, A = outcome.server.update(module)
            assert np.linalg.norm(B @ A - wanted) <= 1e-6 * np.linalg.norm(wanted)
        assert outcome.error is not None and outcome.error < 1e-6


def test_flora_is_exact_for_unequal_ranks_and_scalings() -> None:
    strategy = get_strategy("flora")
    for before, trained, _, outcome in play(strategy, parties([2, 4, 8, 16], [8.0, 4.0, 2.0, 1.0]), 3):
        for module in SHAPES:
            wanted = dense_merged(before, module) + dense_ideal(trained, module)
            got = dense_merged(outcome.server, module)
            assert np.linalg.norm(got - wanted) <= 1e-6 * np.linalg.norm(wanted)
            assert not outcome.server.factors[module].B.any()
            assert np.linalg.norm(got - dense_merged(before, module)) > 0.1


def test_fedit_misses_the_ideal_on_the_same_factors() -> None:
    """The negative control of the exactness test: same messages, FedEx exact, FedIT not, FAIR between."""
    (_, trained, messages, fedex), *_ = play(get_strategy("fedex"), parties([4, 4, 4, 4]), 1)
    assert fedex.error < 1e-6
    errors = {}
    for name in ("fedit", "lorafair"):
        strategy = get_strategy(name)
        server, _ = begin(strategy, parties([4, 4, 4, 4]))
        errors[name] = aggregate(strategy, server, messages, parties([4, 4, 4, 4])).error
    wanted = {module: dense_ideal(trained, module) for module in SHAPES}
    total = sum(EXAMPLES)
    mean = {
        module: 2.0
        * sum(n / total * f[module].B for n, f in zip(EXAMPLES, trained.values()))
        @ sum(n / total * f[module].A for n, f in zip(EXAMPLES, trained.values()))
        for module in SHAPES
    }
    expected = np.sqrt(
        sum(np.linalg.norm(mean[m] - wanted[m]) ** 2 for m in SHAPES)
        / sum(np.linalg.norm(wanted[m]) ** 2 for m in SHAPES)
    )
    assert errors["fedit"] > 0.2
    assert errors["fedit"] == pytest.approx(expected, rel=1e-4)
    assert 1e-6 < errors["lorafair"] < errors["fedit"]


@pytest.mark.parametrize("name", list(STRATEGIES))
@pytest.mark.parametrize("case", ["one", "identical"])
def test_one_or_identical_clients_give_their_own_update(name: str, case: str) -> None:
    strategy = get_strategy(name, energy=1.0, damping=1e-12)
    who = parties([4] if case == "one" else [4, 4, 4])
    for before, trained, _, outcome in play(strategy, who, 3, identical=True):
        got = added(before, outcome.server)
        for module in SHAPES:
            wanted = dense(next(iter(trained.values()))[module])
            B, A = got[module]
            assert np.linalg.norm(B @ A - wanted) <= 2e-6 * np.linalg.norm(wanted), (name, outcome.server.round)


def test_flexlora_error_is_the_cut_tail() -> None:
    for _, trained, _, outcome in play(get_strategy("flexlora"), parties([4, 4, 4, 4]), 2):
        for module in SHAPES:
            wanted = dense_ideal(trained, module)
            sigma = np.linalg.svd(wanted, compute_uv=False)
            error = np.linalg.norm(dense(outcome.server.factors[module]) - wanted)
            assert error**2 == pytest.approx(float(np.sum(sigma[4:] ** 2)), rel=1e-5)
            ideal = {module: outcome.ideal[module]}
            reported = relative_error({module: outcome.server.factors[module].pair}, ideal)
            assert reported == pytest.approx(error / np.linalg.norm(wanted), rel=1e-4)


def test_flexlora_gives_each_client_the_best_of_its_rank() -> None:
    strategy = get_strategy("flexlora")
    who = parties([2, 4, 8, 16], [8.0, 4.0, 2.0, 1.0])
    (_, trained, _, outcome), *_ = play(strategy, who, 1)
    for party in who.values():
        local = strategy.local(outcome.server, party.rank, party.s)
        for module in SHAPES:
            wanted = dense_ideal(trained, module)
            U, sigma, Vt = np.linalg.svd(wanted)
            best = (U[:, : party.rank] * sigma[: party.rank]) @ Vt[: party.rank]
            assert local[module].A.shape[0] == party.rank
            assert np.linalg.norm(dense(local[module]) - best) <= 1e-5 * np.linalg.norm(best)


def test_flexlora_with_only_small_clients_keeps_its_rank_and_can_still_learn() -> None:
    strategy = get_strategy("flexlora")
    who = parties([2, 16])
    server, held = begin(strategy, who)
    small = train(strategy, held["c0"], 1, np.random.default_rng(0))
    outcome = aggregate(strategy, server, {"c0": strategy.upload(small, 1), "c1": None}, who)
    for factor in outcome.server.factors.values():
        assert factor.rank == 16
        assert np.linalg.matrix_rank(factor.A) == 16
    assert outcome.error < 1e-6


def test_ffa_keeps_a_to_the_bit() -> None:
    strategy = get_strategy("ffa")
    who = parties([4, 4, 4, 4])
    start, _ = begin(strategy, who)
    for _, trained, messages, outcome in play(strategy, who, 3):
        for module in SHAPES:
            assert np.array_equal(outcome.server.factors[module].A, start.factors[module].A)
            assert all(np.array_equal(f[module].A, start.factors[module].A) for f in trained.values())
        assert all(key.endswith(".B") for message in messages.values() for key in message)


def test_rolora_keeps_one_factor_to_the_bit_each_round() -> None:
    for before, _, messages, outcome in play(get_strategy("rolora"), parties([4, 4, 4, 4]), 4):
        moved, kept = ("B", "A") if outcome.server.round % 2 else ("A", "B")
        for module in SHAPES:
            old, new = before.factors[module], outcome.server.factors[module]
            assert np.array_equal(getattr(old, kept), getattr(new, kept))
            assert not np.array_equal(getattr(old, moved), getattr(new, moved))
        assert {key[-1] for message in messages.values() for key in message} == {moved}


def test_fedsvd_changes_the_basis_and_not_the_product() -> None:
    for before, trained, _, outcome in play(get_strategy("fedsvd"), parties([4, 4, 4, 4]), 3):
        for module in SHAPES:
            total = sum(EXAMPLES)
            mean_B = sum(n / total * f[module].B.astype(np.float64) for n, f in zip(EXAMPLES, trained.values()))
            old, new = before.factors[module].A, outcome.server.factors[module]
            assert np.linalg.norm(new.B @ new.A - mean_B @ old) <= 1e-6 * np.linalg.norm(mean_B @ old)
            assert np.allclose(new.A @ new.A.T, np.eye(4), atol=1e-10)
            gram = new.B.T @ new.B  # B = UΣ: orthogonal columns, largest first
            assert np.allclose(gram, np.diag(np.diag(gram)), atol=1e-8)
            assert (np.diff(np.diag(gram)) <= 1e-9).all()


def test_fedex_residual_has_at_most_k_minus_one_times_r_columns() -> None:
    (_, _, _, outcome), *_ = play(get_strategy("fedex"), parties([4, 4, 4, 4]), 1)
    for module in SHAPES:
        B, A = outcome.server.merged[0][1][module]
        assert B.shape[1] == A.shape[0] == 3 * 4
        assert B.shape[0], A.shape[1] == SHAPES[module]


def test_hetlora_with_equal_ranks_and_norms_is_the_plain_mean() -> None:
    strategy = get_strategy("hetlora")
    who = {name: Party(name, 4, 2.0, 10) for name in ("c0", "c1")}
    server, held = begin(strategy, who)
    rng = np.random.default_rng(5)
    one = train(strategy, held["c0"], 1, rng)
    other = {  # an orthogonal change of the outputs keeps every norm
        module: f._replace(B=np.linalg.qr(rng.standard_normal((f.B.shape[0],) * 2))[0] @ f.B, A=f.A[::-1])
        for module, f in one.items()
    }
    other = {module: f._replace(B=f.B[:, ::-1]) for module, f in other.items()}
    messages = {"c0": strategy.upload(one, 1), "c1": strategy.upload(other, 1)}
    got = aggregate(strategy, server, messages, who).server
    fedit = aggregate(get_strategy("fedit"), server, messages, who).server
    for module in SHAPES:
        assert np.allclose(got.factors[module].B, fedit.factors[module].B, atol=1e-6)
        assert np.allclose(got.factors[module].A, fedit.factors[module].A, atol=1e-6)


def test_hetlora_weighs_by_norm_and_pads_with_zeros() -> None:
    strategy = get_strategy("hetlora")
    who = parties([2, 4], [3.0, 3.0])
    server, held = begin(strategy, who)
    trained = {n: train(strategy, held[n], 1, np.random.default_rng(i)) for i, n in enumerate(who)}
    got = aggregate(strategy, server, {n: strategy.upload(f, 1) for n, f in trained.items()}, who).server
    norms = [np.sqrt(sum(np.linalg.norm(dense(f)) ** 2 for f in trained[n].values())) for n in who]
    share = norms[0] / sum(norms)
    module = next(iter(SHAPES))
    small, large = trained["c0"][module], trained["c1"][module]
    expected = (1 - share) * large.A.astype(np.float64)
    expected[:2] += share * small.A
    assert np.allclose(got.factors[module].A, expected, atol=1e-6)


def test_florist_keeps_the_wanted_share_of_energy() -> None:
    for energy in (0.5, 0.9, 1.0):
        (_, trained, _, outcome), *_ = play(get_strategy("florist", energy=energy), parties([2, 4, 8, 16]), 1)
        for module in SHAPES:
            sigma2 = np.linalg.svd(dense_ideal(trained, module), compute_uv=False) ** 2
            kept = outcome.server.merged[0][1][module][0].shape[1]
            share = np.cumsum(sigma2) / sigma2.sum()
            assert share[kept - 1] >= energy - 1e-6
            assert kept == 1 or energy == 1.0 or share[kept - 2] < energy
            change = {module: outcome.server.merged[0][1][module]}
            lost = relative_error(change, {module: outcome.ideal[module]}) ** 2
            assert lost == pytest.approx(max(0.0, 1 - share[kept - 1]), abs=1e-6)


def test_fedsb_start_from_a_gradient_is_its_leading_directions() -> None:
    rng = np.random.default_rng(0)
    gradients = {m: np.outer(rng.standard_normal(o), rng.standard_normal(i)) for m, (o, i) in SHAPES.items()}
    server = get_strategy("fedsb", eta=1e-3).start(SHAPES, 4, 2.0, 0, gradients)
    for module, factor in server.factors.items():
        G = -1e-3 * np.sign(gradients[module])  # rank one, because the gradient is
        assert np.linalg.norm(dense(factor) - G) <= 1e-6 * np.linalg.norm(G)
        assert np.allclose(factor.B.T @ factor.B, np.eye(4), atol=1e-8)
        assert np.allclose(factor.A @ factor.A.T, np.eye(4), atol=1e-8)


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_bytes_are_those_of_the_card(name: str) -> None:
    """Floats up and down in rounds 2 and 3 against the table of the methods."""
    strategy = get_strategy(name, energy=1.0)
    r, K = 4, 3
    who = parties([r] * K)
    m = sum(o for o, _ in SHAPES.values())
    n = sum(i for _, i in SHAPES.values())
    both, left, right, core = r * (m + n), r * m, r * n, r * r * len(SHAPES)
    up = {"ffa": left, "fedsvd": left, "fedsb": core}.get(name, both)
    down = {"ffa": left, "fedsb": core, "flora": K * both, "fedex": both + (K - 1) * both}.get(name, both)
    for before, _, messages, _ in play(strategy, who, 3):
        if before.round == 0:
            first = size(strategy.download(before, r, 2.0, -1 if strategy.start_travels else 0))
            assert first == (4 * (both + core) if name == "fedsb" else 0)
            continue
        sent = size(strategy.download(before, r, 2.0, before.round))
        assert sent == 0, "a client that is up to date needs nothing"
        sent = size(strategy.download(before, r, 2.0, before.round - 1))
        if name == "rolora":
            up, down = (right, left) if before.round % 2 else (left, right)
        if name != "florist":
            assert sent == 4 * down
        else:
            assert sent <= 4 * K * both
        assert all(size(message) == 4 * up for message in messages.values())


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_unequal_ranks_are_taken_or_refused_with_a_reason(name: str) -> None:
    strategy = get_strategy(name)
    if strategy.heterogeneous:
        strategy.check([2, 4, 8], [4.0, 2.0, 1.0])
        return
    with pytest.raises(ConfigError, match="needs one rank for all clients, because"):
        strategy.check([2, 4, 8])
    with pytest.raises(ConfigError, match="needs one scaling for all clients, because"):
        strategy.check([4, 4], [1.0, 2.0])
    strategy.check([4, 4], [2.0, 2.0])


@pytest.mark.parametrize("name", MIXED)
def test_unequal_ranks_keep_their_shapes_over_rounds(name: str) -> None:
    who = parties([2, 4, 8, 16], [8.0, 4.0, 2.0, 1.0])
    for _, trained, _, outcome in play(get_strategy(name), who, 3):
        for party in who.values():
            assert all(f.rank == party.rank for f in trained[party.name].values())
        assert not outcome.left_out
        assert np.isfinite(outcome.error)


@pytest.mark.parametrize("name", list(STRATEGIES))
@pytest.mark.parametrize("damage", ["nan", "shape", "missing", "dropped"])
def test_a_damaged_client_is_left_out_and_named(name: str, damage: str) -> None:
    strategy = get_strategy(name)
    who = parties([4, 4, 4])
    (before, _, messages, _), *_ = play(strategy, who, 1)
    key = next(iter(messages["c1"]))
    bad = {k: v.copy() for k, v in messages["c1"].items()}
    if damage == "nan":
        bad[key][0, 0] = np.nan
    elif damage == "shape":
        bad[key] = bad[key][:-1]
    else:
        del bad[key]
    spoiled = {**messages, "c1": None if damage == "dropped" else bad}
    outcome = aggregate(strategy, before, spoiled, who)
    said = {"nan": "not finite", "shape": "of shape", "missing": "sent no", "dropped": "dropped out"}[damage]
    assert list(outcome.left_out) == ["c1"] and said in outcome.left_out["c1"]
    if damage in ("nan", "shape", "missing"):
        assert key in outcome.left_out["c1"]
    assert outcome.weights == {"c0": pytest.approx(10 / 15), "c2": pytest.approx(5 / 15)}
    without = aggregate(strategy, before, {k: v for k, v in messages.items() if k != "c1"}, who)
    for module in SHAPES:
        B, A = outcome.server.update(module)
        C, D = without.server.update(module)
        assert np.array_equal(B @ A, C @ D) and np.isfinite(B @ A).all()


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_a_round_without_clients_changes_nothing_and_the_next_goes_on(name: str) -> None:
    strategy = get_strategy(name)
    who = parties([4, 4])
    server, held = begin(strategy, who)
    for round_ in (1, 2, 3):
        messages: dict[str, Message | None] = dict.fromkeys(who)
        if round_ != 2:
            for number, (client, party) in enumerate(who.items()):
                since = -1 if strategy.start_travels and round_ == 1 else max(0, round_ - 2)
                got = strategy.download(server, party.rank, party.s, since)
                held[client] = strategy.receive(held[client], got, round_, server.seed)
                messages[client] = strategy.upload(
                    train(strategy, held[client], round_, np.random.default_rng(number)), round_
                )
        outcome = aggregate(strategy, server, messages, who)
        assert outcome.server.round == round_
        if round_ == 2:
            assert outcome.error is None and set(outcome.left_out) == set(who)
            for module in SHAPES:
                (B, A), (C, D) = server.update(module), outcome.server.update(module)
                assert np.array_equal(B @ A, C @ D)
        else:
            assert not outcome.left_out
        server = outcome.server


def test_a_client_that_missed_rounds_catches_up() -> None:
    """FLoRA: what a client gets on coming back adds up to the whole change of the base."""
    strategy = get_strategy("flora")
    who = parties([4, 4])
    *_, (_, _, _, outcome) = play(strategy, who, 3)
    message = strategy.download(outcome.server, 4, 2.0, 0)
    for module in SHAPES:
        total = sum(message[f"{module}.base{t}.B"] @ message[f"{module}.base{t}.A"] for t in (1, 2, 3))
        wanted = dense_merged(outcome.server, module)
        assert np.linalg.norm(total - wanted) <= 1e-5 * np.linalg.norm(wanted)


def test_the_total_of_merged_changes_is_their_sum() -> None:
    *_, (_, _, _, outcome) = play(get_strategy("flora"), parties([4, 4, 4, 4]), 4)
    for module, (B, A) in outcome.server.merged_total().items():
        assert np.allclose(B @ A, dense_merged(outcome.server, module))
    assert get_strategy("fedit").start(SHAPES, 4, 1.0, 0).merged_total() == {}


def test_a_rank_above_the_smaller_side_is_handled() -> None:
    """A module with fewer outputs than the rank, as a small value projection has."""
    shapes = {"v": (3, 16)}
    for name in ("flexlora", "fedsvd", "flora", "florist", "hetlora", "fedit"):
        strategy = get_strategy(name)
        who = {n: Party(n, 8, 1.0, 4) for n in ("a", "b")}
        server = strategy.start(shapes, 8, 1.0, 0)
        held = {n: strategy.local(server, 8, 1.0) for n in who}
        for round_ in (1, 2):
            messages = {}
            for index, n in enumerate(who):
                got = strategy.download(server, 8, 1.0, round_ - 1)
                held[n] = strategy.receive(held[n], got, round_, 0)
                trained = train(strategy, held[n], round_, np.random.default_rng(index))
                messages[n] = strategy.upload(trained, round_)
            outcome = aggregate(strategy, server, messages, who)
            assert not outcome.left_out, name
            server = outcome.server
        assert server.factors["v"].rank == 8
        if name == "fedsvd":
            A = server.factors["v"].A
            assert np.allclose(A @ A.T, np.eye(8), atol=1e-9)
    with pytest.raises(ConfigError, match="rank of 1 to 3"):
        get_strategy("fedsb").start(shapes, 8, 1.0, 0)


def test_an_unknown_strategy_is_refused_with_the_list() -> None:
    with pytest.raises(ConfigError, match="fedit"):
        get_strategy("fedavgplus")


def test_the_number_of_trained_parameters_is_that_of_the_parts_a_round_trains() -> None:
    """On the embedded model's modules at rank 8; LoRA trains 261,632."""
    from lora_playground.models.catalogue import module_shapes, resolve

    shapes = {name: (out, inputs) for name, out, inputs in module_shapes(resolve("embedded"))}
    found = {name: s.trained_numbers(s.start(shapes, 8, 2.0, 0).factors) for name, s in STRATEGIES.items()}
    frozen = {"ffa": 136_192, "fedsvd": 136_192, "rolora": 136_192, "fedsb": 49 * 8 * 8}
    assert found == dict.fromkeys(STRATEGIES, 261_632) | frozen
