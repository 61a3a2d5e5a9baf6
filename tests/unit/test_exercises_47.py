"""The checks of chapter 47: right answers in several forms pass, each typical wrong one gets its own name."""

import random

import pytest
import torch

from course_lib.exercises.registry import judge

# --- 47.1 -------------------------------------------------------------------------------------------------


def term(h, adapter):
    W_down, b_down, W_up, b_up = adapter
    return (h @ W_down.T + b_down).relu() @ W_up.T + b_up


def mixed_batch(h, adapters, rows):
    """Each adapter on its own rows, written back to their places."""
    out = h.clone()
    for name in set(rows) - {None}:
        own = torch.tensor([row == name for row in rows])
        out[own] = h[own] + term(h[own], adapters[name])
    return out


def row_by_row(h, adapters, rows):
    return torch.stack([x if name is None else x + term(x, adapters[name]) for x, name in zip(h, rows, strict=True)])


def all_and_mask(h, adapters, rows):
    """Every adapter on every row; what it says is masked."""
    masks = {name: torch.tensor([float(row == name) for row in rows])[:, None, None] for name in adapters}
    return h + sum(masks[name] * term(h, adapter) for name, adapter in adapters.items())


@pytest.mark.parametrize("answer", [mixed_batch, row_by_row, all_and_mask])
def test_mixed_batch_accepts(answer):
    assert judge("47.1", answer).status == "right"


def rowwise(of, empty=lambda x, adapters: x):
    """A row's state from (x, its adapter, all adapters); rows without one from `empty`."""
    def answer(h, adapters, rows):
        return torch.stack([empty(x, adapters) if name is None else of(x, adapters[name], adapters)
                            for x, name in zip(h, rows, strict=True)])  # fmt: skip

    return answer


def own(x, adapter, adapters):
    return x + term(x, adapter)


def masks_the_input(h, adapters, rows):
    out = h
    for name, adapter in adapters.items():
        mask = torch.tensor([float(row == name) for row in rows])[:, None, None]
        out = out + mask * term(h, adapter) if name == "b" else out + term(mask * h, adapter)
    return out


def zero_matrices(x, adapters):
    W_down, b_down, W_up, b_up = adapters["a"]
    return x + term(x, (0 * W_down, b_down, 0 * W_up, b_up))


def grouped(h, adapters, rows):
    """Never put back in order."""
    parts = [h[[i for i, row in enumerate(rows) if row == name]] for name in ("a", "b")]
    said = [part + term(part, adapters[name]) for name, part in zip("ab", parts, strict=True)]
    return torch.cat([*said, h[[i for i, row in enumerate(rows) if row is None]]])


def writes_over(h, adapters, rows):
    with torch.no_grad():
        h += 1
    return row_by_row(h, adapters, rows)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("none_gets_bias", rowwise(own, zero_matrices)),
        ("none_gets_bias", rowwise(own, lambda x, adapters: x + term(0 * x, adapters["a"]))),
        ("none_gets_bias", rowwise(own, lambda x, adapters: x + adapters["b"][3])),
        ("none_gets_adapter", rowwise(own, lambda x, adapters: own(x, adapters["a"], None))),
        ("none_lost", rowwise(own, lambda x, adapters: 0 * x)),
        ("none_value", rowwise(own, lambda x, adapters: -x)),
        ("value", masks_the_input),
        ("delta_only", rowwise(lambda x, a, adapters: term(x, a), lambda x, adapters: 0 * x)),
        ("nothing", lambda h, adapters, rows: h.clone()),
        ("twice", rowwise(lambda x, a, adapters: x + 2 * term(x, a))),
        ("summed", lambda h, adapters, rows: h + sum(term(h, a) for a in adapters.values())),
        ("averaged", lambda h, adapters, rows: h + sum(term(h, a) for a in adapters.values()) / len(adapters)),
        ("one_for_all", lambda h, adapters, rows: h + term(h, adapters["a"])),
        ("one_for_all", rowwise(lambda x, a, adapters: x + term(x, adapters["b"]))),
        ("no_up_bias", rowwise(lambda x, a, adapters: x + term(x, a) - a[3])),
        ("no_relu", rowwise(lambda x, a, adapters: x + (x @ a[0].T + a[1]) @ a[2].T + a[3])),
        ("swapped", rowwise(lambda x, a, adapters: own(x, next(o for o in adapters.values() if o is not a), None))),
        ("order", grouped),
        ("in_place", writes_over),
        ("shape", lambda h, adapters, rows: h[0]),
        ("no_gradient", lambda *given: mixed_batch(*given).detach()),
        ("no_gradient", lambda h, adapters, rows: row_by_row(
            h, {k: (a[0], a[1], a[2].detach(), a[3]) for k, a in adapters.items()}, rows)),
    ],
)  # fmt: skip
def test_mixed_batch_names(key, answer):
    assert judge("47.1", answer).key == f"47.1.{key}"


# --- 47.2 -------------------------------------------------------------------------------------------------


def merge_two(W, first, second, weights, x):
    (A1, B1, s1), (A2, B2, s2) = first, second
    alone = s1 * B1 @ A1
    merged = W + weights[0] * alone + weights[1] * s2 * B2 @ A2
    return merged, (x @ (merged - W - alone).T).norm() / (x @ alone.T).norm()


def by_concatenation(W, first, second, weights, x):
    """One LoRA of rank r1 + r2: the A stacked, the B beside each other."""
    A = torch.cat([first[0], second[0]])
    B = torch.cat([weights[0] * first[2] * first[1], weights[1] * second[2] * second[1]], dim=1)
    own = torch.einsum("nd,rd,or->no", x, first[0], first[2] * first[1])
    off = x @ A.T @ B.T - own
    return W + B @ A, float(off.square().sum().sqrt() / own.square().sum().sqrt())


@pytest.mark.parametrize("answer", [merge_two, by_concatenation])
def test_merge_accepts(answer):
    assert judge("47.2", answer).status == "right"


def merged_as(form):
    """W' from (W, A, B, s of the first, C, D, t of the second, and the weights v, w)."""
    def answer(W, first, second, weights, x):
        return form(W, *first, *second, *weights), merge_two(W, first, second, weights, x)[1]

    return answer


def shared_as(form):
    """Interference from (merged, W, W + first, W + second, x)."""
    def answer(W, first, second, weights, x):
        merged, _ = merge_two(W, first, second, weights, x)
        one, two = (W + s * B @ A for A, B, s in (first, second))
        return merged, form(merged, W, one, two, x)

    return answer


def size(x, change):
    return (x @ change.T).norm()


def merge_in_place(W, first, second, weights, x):
    merged, share = merge_two(W, first, second, weights, x)
    return W.copy_(merged), share


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("separately", merged_as(lambda W, A, B, s, C, D, t, v, w: W + s * (B + D) / 2 @ ((A + C) / 2))),
        ("separately", merged_as(lambda W, A, B, s, C, D, t, v, w: W + t * (v * B + w * D) @ (v * A + w * C))),
        ("separately", merged_as(lambda W, A, B, s, C, D, t, v, w: W + (v * s * B + w * t * D) @ (A + C))),
        ("no_scale", merged_as(lambda W, A, B, s, C, D, t, v, w: W + v * B @ A + w * D @ C)),
        ("one_scale", merged_as(lambda W, A, B, s, C, D, t, v, w: W + s * (v * B @ A + w * D @ C))),
        ("weights_twice", merged_as(lambda W, A, B, s, C, D, t, v, w: W + v**2 * s * B @ A + w**2 * t * D @ C)),
        ("no_weights", merged_as(lambda W, A, B, s, C, D, t, v, w: W + s * B @ A + t * D @ C)),
        ("base_too", merged_as(lambda W, A, B, s, C, D, t, v, w: v * (W + s * B @ A) + w * (W + t * D @ C))),
        ("delta_only", merged_as(lambda W, A, B, s, C, D, t, v, w: v * s * B @ A + w * t * D @ C)),
        ("swapped", merged_as(lambda W, A, B, s, C, D, t, v, w: W + w * s * B @ A + v * t * D @ C)),
        ("first_only", merged_as(lambda W, A, B, s, C, D, t, v, w: W + v * s * B @ A)),
        ("nothing", merged_as(lambda W, *rest: W.clone())),
        ("value", merged_as(lambda W, *rest: 2 * W)),
        ("shape", merged_as(lambda W, *rest: W.T)),
        ("in_place", merge_in_place),
        ("not_two", lambda *given: merge_two(*given)[0]),
        ("on_weights", shared_as(lambda m, W, one, two, x: (m - one).norm() / (one - W).norm())),
        ("of_output", shared_as(lambda m, W, one, two, x: size(x, m - one) / size(x, one))),
        ("inverted", shared_as(lambda m, W, one, two, x: size(x, one - W) / size(x, m - one))),
        ("not_divided", shared_as(lambda m, W, one, two, x: size(x, m - one))),
        ("squared", shared_as(lambda m, W, one, two, x: size(x, m - one) ** 2 / size(x, one - W) ** 2)),
        ("mean_of_ratios", shared_as(
            lambda m, W, one, two, x: ((x @ (m - one).T).norm(dim=1) / (x @ (one - W).T).norm(dim=1)).mean())),
        ("of_second", shared_as(lambda m, W, one, two, x: size(x, m - two) / size(x, two - W))),
        ("from_base", shared_as(lambda m, W, one, two, x: size(x, m - W) / size(x, one - W))),
        ("share", shared_as(lambda m, W, one, two, x: -1.0)),
    ],
)  # fmt: skip
def test_merge_names(key, answer):
    assert judge("47.2", answer).key == f"47.2.{key}"


# --- 47.3 -------------------------------------------------------------------------------------------------


def task_arithmetic(base, tuned, factors):
    new = {}
    for name, tensor in base.items():
        new[name] = tensor.clone()
        if tensor.is_floating_point():
            for factor, other in zip(factors, tuned, strict=True):
                new[name] += factor * (other[name] - tensor)
    return new


def by_weights_of_all(base, tuned, factors):
    """(1 - sum of lambda) base + sum of lambda tuned, which is the same."""
    rest = 1 - sum(factors)
    return {
        name: rest * t + sum(k * other[name] for k, other in zip(factors, tuned, strict=True))
        if t.is_floating_point() else t
        for name, t in base.items()
    }  # fmt: skip


@pytest.mark.parametrize("answer", [task_arithmetic, by_weights_of_all])
def test_arithmetic_accepts(answer):
    assert judge("47.3", answer).status == "right"


def tensorwise(form):
    def answer(base, tuned, factors):
        return {name: form(t, [other[name] for other in tuned], factors) if t.is_floating_point() else t
                for name, t in base.items()}  # fmt: skip

    return answer


def changes(b, each, factors):
    return sum(k * (t - b) for k, t in zip(factors, each, strict=True))


def into_base(base, tuned, factors):
    for name, tensor in base.items():
        for factor, other in zip(factors, tuned, strict=True):
            if tensor.is_floating_point():
                tensor += factor * (other[name] - tensor)
    return base


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("no_base_taken_off", tensorwise(lambda b, each, k: sum(f * t for f, t in zip(k, each, strict=True)))),
        ("base_twice", tensorwise(lambda b, each, k: b + sum(f * t for f, t in zip(k, each, strict=True)))),
        ("vectors_only", tensorwise(changes)),
        ("mean", tensorwise(lambda b, each, k: b + changes(b, each, k) / len(each))),
        ("no_factors", tensorwise(lambda b, each, k: b + changes(b, each, [1] * len(each)))),
        ("no_factors", tensorwise(lambda b, each, k: sum(each) / len(each))),
        ("sign", tensorwise(lambda b, each, k: b - changes(b, each, k))),
        ("first_only", tensorwise(lambda b, each, k: b + k[0] * (each[0] - b))),
        ("value", tensorwise(lambda b, each, k: 3 * b)),
        ("value", tensorwise(lambda b, each, k: b.sum())),
        ("integers", lambda base, tuned, k: {n: t + changes(t, [o[n] for o in tuned], k) for n, t in base.items()}),
        ("keys", lambda base, tuned, k: {"weight": base["weight"]}),
        ("keys", lambda base, tuned, k: list(base.values())),
        ("in_place", into_base),
    ],
)
def test_arithmetic_names(key, answer):
    assert judge("47.3", answer).key == f"47.3.{key}"


# --- 47.4 -------------------------------------------------------------------------------------------------


def with_replay(new, old, share, seed):
    rng = random.Random(seed)
    rows = new + rng.sample(old, round(share / (1 - share) * len(new)))
    rng.shuffle(rows)
    return rows


def by_torch(new, old, share, seed):
    generator = torch.Generator().manual_seed(seed)
    count = round(len(new) * share / (1 - share))
    rows = new + [old[i] for i in torch.randperm(len(old), generator=generator)[:count]]
    return [rows[i] for i in torch.randperm(len(rows), generator=generator)]


@pytest.mark.parametrize("answer", [with_replay, by_torch])
def test_replay_accepts(answer):
    assert judge("47.4", answer).status == "right"


def taking(count, draw=random.Random.sample):
    def answer(new, old, share, seed):
        rng = random.Random(seed)
        rows = new + draw(rng, old, round(count(new, old, share)))
        rng.shuffle(rows)
        return rows

    return answer


def right_count(new, old, share):
    return share / (1 - share) * len(new)


def replaces(new, old, share, seed):
    rng = random.Random(seed)
    count = round(share * len(new))
    return rng.sample(new[count:] + rng.sample(old, count), len(new))


def one_after_the_other(new, old, share, seed):
    rng = random.Random(seed)
    return new + rng.sample(old, round(right_count(new, old, share)))


def inserts(new, old, share, seed):
    rng, rows = random.Random(seed), list(new)
    for row in rng.sample(old, round(right_count(new, old, share))):
        rows.insert(rng.randrange(len(rows)), row)
    return rows


def extends(new, old, share, seed):
    new.extend(random.Random(seed).sample(old, 20))
    return new


def global_draw(new, old, share, seed):
    return with_replay(new, old, share, random.random())


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("share_of_new", taking(lambda new, old, share: share * len(new))),
        ("share_of_old", taking(lambda new, old, share: share * len(old))),
        ("share_of_all", taking(lambda new, old, share: share * (len(new) + len(old)))),
        ("all_old", taking(lambda new, old, share: len(old))),
        ("nothing_old", taking(lambda new, old, share: 0)),
        ("count", taking(lambda new, old, share: 33)),
        ("repeated", taking(right_count, lambda rng, old, n: rng.choices(old[:10], k=n))),
        ("first_rows", taking(right_count, lambda rng, old, n: old[:n])),
        ("same_draw", taking(right_count, lambda rng, old, n: old[-n:])),
        ("new_lost", replaces),
        ("not_shuffled", one_after_the_other),
        ("new_in_order", inserts),
        ("seed_ignored", global_draw),
        ("in_place", extends),
        ("not_list", lambda *given: tuple(with_replay(*given))),
    ],
)
def test_replay_names(key, answer):
    assert judge("47.4", answer).key == f"47.4.{key}"
