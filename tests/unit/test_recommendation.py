"""Recommendation: histories, splits, batches, losses and ranking metrics against cases worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import course_lib as cl
from course_lib.evaluation import gains, hits, ranks, sampled_ranks
from course_lib.runtime import CourseError
from course_lib.tasks import recommendation, shop_simulator
from course_lib.tasks.recommendation import Items, MatrixFactorisation, NextItem, SASRec

# --- histories -------------------------------------------------------------------------------------------------------


def rows(*triples):
    return [dict(zip(("user", "item", "timestamp"), triple)) for triple in triples]


def test_histories_are_in_the_order_of_time():
    found = recommendation.histories(rows((7, 3, 30), (7, 1, 10), (2, 5, 5), (7, 2, 20)))
    assert found == {2: [5], 7: [1, 2, 3]}


def test_ties_are_shuffled_and_fixed():
    together = rows(*((1, item, 0) for item in range(1, 21)))
    shuffled = recommendation.histories(together)[1]
    assert shuffled != sorted(shuffled)
    assert shuffled == recommendation.histories(together[::-1])[1]
    assert recommendation.histories(together, ties="item")[1] == sorted(shuffled)
    with pytest.raises(CourseError, match="choose"):
        recommendation.histories(together, ties="time")


def test_leave_last_out():
    split = recommendation.leave_last_out({1: [4, 5, 6, 7], 2: [8, 9], 3: [1, 2, 3]})
    assert split.users == [1, 3]
    assert split.train == [[4, 5], [1]]
    assert split.targets("validation") == [6, 2]
    assert split.targets("test") == [7, 3]
    assert split.known("validation") == split.train
    assert split.known("test") == [[4, 5, 6], [1, 2]]
    with pytest.raises(CourseError, match="nothing is left"):
        recommendation.leave_last_out({1: [1, 2]})


def test_windows_ask_for_each_item_once():
    features = recommendation.windows([[1, 2, 3, 4, 5, 6], [9], [7, 8]], length=3)
    asked = [item for feature in features for item in feature["labels"]]
    assert sorted(asked) == [2, 3, 4, 5, 6, 8]
    assert features[0] == {"input_ids": [3, 4, 5], "labels": [4, 5, 6], "user": 0}
    assert all(len(f["input_ids"]) == len(f["labels"]) <= 3 for f in features)


def test_popularity_counts_what_may_be_learned_from():
    assert recommendation.popularity([[1, 3], [3]], 4).tolist() == [0, 1, 0, 2, 0]


def test_recent_popularity_counts_the_days_before():
    day = 86400
    given = rows(
        (1, 1, 0), (1, 2, 9 * day), (1, 5, 10 * day), (1, 3, 11 * day),
        (2, 2, 8 * day), (2, 4, 9 * day), (2, 3, 12 * day), (2, 1, 20 * day),
    )  # fmt: skip
    split = recommendation.leave_last_out(recommendation.histories(given))
    found = recommendation.recent_popularity(given, split, "test", 5, days=4)
    assert found.round().tolist() == [[0, 0, 2, 0, 1, 0], [0, 0, 0, 0, 0, 0]]
    found = recommendation.recent_popularity(given, split, "validation", 5, days=100)
    assert found.round().tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 0, 1, 0]]
    assert found[0, 0] < found[0, 3] + 1


def test_neighbours_are_counted_both_ways():
    found = recommendation.neighbours([[1, 2, 3], [2], [3, 2]], 3, reach=1)
    assert found.tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 2], [0, 0, 2, 0]]
    assert recommendation.neighbours([[1, 2, 3]], 3, reach=2)[1, 3] == 1


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_ranks_by_hand():
    scores = np.array([[99, 0.1, 0.9, 0.5, 0.7], [99, 4, 3, 2, 1]])
    assert ranks(scores, [3, 4], [[], []]).tolist() == [3, 4]
    assert ranks(scores, [3, 4], [[2], [1, 2]]).tolist() == [2, 2]
    assert ranks(scores, [3, 4], [[2, 3], [4]]).tolist() == [2, 4]  # the target itself counts, seen or not
    assert ranks(scores, [3, 4], [[], []], catalogue=[1, 3, 4]).tolist() == [2, 3]


def test_a_constant_score_is_the_worst():
    assert ranks(np.zeros((2, 6)), [1, 5], [[], [2]]).tolist() == [5, 4]


def test_hits_and_gains_by_hand():
    found = np.array([1, 2, 3, 10, 11])
    assert hits(found).tolist() == [1, 1, 1, 1, 0]
    assert gains(found) == pytest.approx([1, 1 / math.log2(3), 0.5, 1 / math.log2(11), 0])
    assert hits(found, 2).mean() == pytest.approx(0.4)


def test_ndcg_is_scikit_learns():
    from sklearn.metrics import ndcg_score

    scores = np.random.default_rng(0).normal(size=(40, 30))
    targets = np.random.default_rng(1).integers(1, 30, size=40)
    truth = np.eye(30)[targets][:, 1:]
    assert gains(ranks(scores, targets, [[]] * 40)).mean() == pytest.approx(ndcg_score(truth, scores[:, 1:], k=10))


@pytest.mark.parametrize(
    ("scores", "targets", "seen", "says"),
    [
        (np.zeros((2, 3)), [1], [[], []], "Each user"),
        (np.full((1, 3), np.nan), [1], [[]], "not numbers"),
        (np.zeros((1, 3)), [0], [[]], "not among"),
    ],
)
def test_ranks_explain_what_is_wrong(scores, targets, seen, says):
    with pytest.raises(CourseError, match=says):
        ranks(scores, targets, seen)


def test_sampled_ranks_are_those_of_drawn_negatives():
    full, others = np.array([1, 50, 400, 1000]), np.array([999] * 4)
    drawn = np.stack([sampled_ranks(full, others, seed=seed) for seed in range(2000)])
    assert (drawn[:, 0] == 1).all()  # nobody can stand before the first
    assert (drawn[:, 3] == 101).all()  # everybody stands before the last
    assert drawn.mean(0) == pytest.approx(1 + 100 * (full - 1) / 999, rel=0.02)
    assert sampled_ranks(full, others, negatives=999).tolist() == full.tolist()
    with pytest.raises(CourseError, match="cannot be drawn"):
        sampled_ranks(full, others, negatives=2000)


# --- models and losses -----------------------------------------------------------------------------------------------


def test_sasrec_sees_no_future_and_no_padding():
    torch.manual_seed(0)
    model = SASRec(Items(20, 8), 8, length=6).eval()
    ids = torch.tensor([[3, 4, 5, 6]])
    states, table = model(ids)
    assert states.shape == (1, 4, 8)
    assert table.shape == (21, 8)
    later = model(torch.tensor([[3, 4, 9, 9]]))[0]
    assert torch.allclose(states[:, :2], later[:, :2], atol=1e-6)
    assert not torch.allclose(states[:, 2], later[:, 2], atol=1e-4)
    alone, together = recommendation.scores(model, [[3, 4]]), recommendation.scores(model, [[3, 4], [1, 2, 3, 5, 6]])
    assert torch.allclose(alone[0], together[0], atol=1e-5)
    assert torch.allclose(together[0], (states @ table.T)[0, 1], atol=1e-5)


def test_scores_read_the_last_places():
    torch.manual_seed(0)
    model = SASRec(Items(20, 8), 8, length=3)
    long, short = recommendation.scores(model, [[9, 9, 1, 2, 3]]), recommendation.scores(model, [[1, 2, 3]])
    assert torch.allclose(long, short, atol=1e-6)
    assert model.training


def test_all_items_is_cross_entropy():
    torch.manual_seed(0)
    h, table, targets = torch.randn(5, 4), torch.randn(7, 4), torch.tensor([1, 2, 3, 6, 6])
    on_sale = torch.tensor([False] + [True] * 6)
    by_hand = -(h @ table[1:].T).log_softmax(-1)[torch.arange(5), targets - 1].sum()
    assert recommendation.all_items(h, table, targets, on_sale).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_sampled_softmax_with_every_item_is_cross_entropy():
    torch.manual_seed(0)
    h, table, targets = torch.randn(5, 4), torch.randn(7, 4), torch.tensor([1, 2, 3, 6, 6])
    on_sale = torch.tensor([False] + [True] * 6)
    whole = recommendation.all_items(h, table, targets, on_sale)
    sampled = recommendation.sampled_softmax(h, table, targets, torch.arange(1, 7))
    assert sampled.item() == pytest.approx(whole.item(), rel=1e-5)


def test_sampled_softmax_subtracts_the_log_of_the_chance():
    h, table = torch.tensor([[1.0]]), torch.tensor([[0.0], [1.0], [2.0]])
    log_chance = torch.tensor([0.0, 0.25, 0.5]).log()
    found = recommendation.sampled_softmax(h, table, torch.tensor([1]), torch.tensor([2]), log_chance)
    right, other = math.exp(1) / 0.25, math.exp(2) / 0.5
    assert found.item() == pytest.approx(-math.log(right / (right + other)), rel=1e-5)


def test_two_of_the_losses_by_hand():
    h, table = torch.tensor([[1.0, 0.0]]), torch.tensor([[9.0, 9], [2, 1], [-1, 3]])
    yes_no = -math.log(1 / (1 + math.exp(-2))) - math.log(1 - 1 / (1 + math.exp(1)))
    found = recommendation.one_negative(h, table, torch.tensor([1]), torch.tensor([2]))
    assert found.item() == pytest.approx(yes_no, rel=1e-5)
    found = recommendation.pairwise(h, table, torch.tensor([1]), torch.tensor([2]))
    assert found.item() == pytest.approx(-math.log(1 / (1 + math.exp(-3))), rel=1e-5)


@pytest.mark.parametrize("name", ["all items", "one negative", "pairwise", "sampled", "in batch"])
def test_fit_learns_a_cycle(name):
    """Items follow each other in a circle; every loss must find that out."""
    histories = [[(start + step) % 12 + 1 for step in range(10)] for start in range(12)] * 4
    features = recommendation.windows(histories, 9)
    cl.seed(0)
    model = SASRec(Items(12, 16), 16, length=9, dropout=0.0)
    task = NextItem(name, negatives=6)
    cl.fit(model, features, task=task, epochs=25, batch_size=8, learning_rate=0.01, progress=False, dtype="float32")
    scores = recommendation.scores(model, [[3, 4, 5]])
    assert scores[0, 1:].argmax().item() + 1 == 6


def test_matrix_factorisation_learns_two_kinds_of_people():
    histories = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]] * 6
    cl.seed(0)
    model = MatrixFactorisation(12, Items(10, 4), 4)
    task, features = NextItem("pairwise"), recommendation.windows([items[:-1] for items in histories], 4)
    cl.fit(model, features, task=task, epochs=60, batch_size=4, learning_rate=0.05, progress=False, dtype="float32")
    scores = recommendation.scores(model, [items[:-1] for items in histories])
    assert scores[0, 5] < scores[0, 1:5].min() or scores[0, 5] > scores[0, 6:].max()
    assert scores[0, 1:5].min() > scores[0, 6:].max()


def test_items_not_on_sale_get_no_gradient():
    torch.manual_seed(0)
    model = SASRec(Items(6, 4), 4, length=3, dropout=0.0)
    batch = NextItem().collate([{"input_ids": [1, 2], "labels": [2, 3], "user": 0}])
    for hidden, moved in (((), True), ((5, 6), False)):
        model.zero_grad()
        task = NextItem(not_on_sale=hidden)
        task.loss(model(batch["input_ids"]), batch)[0].backward()
        assert bool(model.items.own.weight.grad[[5, 6]].abs().sum() > 0) == moved


def test_an_items_own_vector_is_added_to_its_text():
    torch.manual_seed(0)
    text = torch.randn(5, 3)
    items = Items(4, 2, text=text)
    assert torch.allclose(items(), F.linear(text, items.from_text.weight))
    assert not any(name.endswith("text") for name in items.state_dict())
    with pytest.raises(CourseError, match="text"):
        Items(4, 2, own=False)


def test_unknown_losses_are_named():
    with pytest.raises(CourseError, match="all items"):
        NextItem("cosine")


# --- the simulated mall ----------------------------------------------------------------------------------------------


def test_the_mall_is_the_same_twice_and_its_names_are_different():
    one, two = shop_simulator.simulate(20), shop_simulator.simulate(20)
    assert one.purchases == two.purchases
    assert shop_simulator.simulate(20, seed=1).purchases != one.purchases
    assert len(set(one.names)) == len(one.names) == 1 + 12 * 16


def test_nobody_buys_a_thing_twice():
    mall = shop_simulator.simulate(30)
    for items in recommendation.histories(mall.purchases).values():
        assert len(items) == len(set(items))


def test_the_oracle_knows_the_chances():
    """Of many purchases, the share of those with a chance near p is p; and the chances sum to one."""
    mall = shop_simulator.simulate(150)
    said, happened = [], []
    past = {}
    for row in mall.purchases:
        history = past.setdefault(row["user"], [])
        chances = mall.chances(row["user"], history, shop_simulator.week_of(row["timestamp"]))
        assert chances.sum() == pytest.approx(1)
        assert not chances[[0, *history]].any()
        top = chances.argmax()
        said.append(chances[top])
        happened.append(top == row["item"])
        history.append(row["item"])
    error = np.sqrt(np.mean(said) / len(said))
    assert abs(np.mean(happened) - np.mean(said)) < 4 * error


def test_a_mall_needs_customers():
    with pytest.raises(CourseError, match="customers"):
        shop_simulator.simulate(0)
