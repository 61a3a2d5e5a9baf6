"""The checks of chapter 00: right answers in several forms pass, each typical wrong one gets its own name."""

import pytest
import torch

from course_lib.exercises.registry import judge


def by_product(p, d):
    return p * d


def by_numel(p, d):
    return torch.empty(p, d).numel()


def by_sum(p, d):
    return sum(d for _ in range(p))


@pytest.mark.parametrize("answer", [by_product, by_numel, by_sum])
def test_prompt_numbers_accepts(answer):
    assert judge("00.1", answer).status == "right"


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("vectors", lambda p, d: p),
        ("width", lambda p, d: d),
        ("sum", lambda p, d: p + d),
        ("twice", lambda p, d: 2 * p * d),
        ("bytes", lambda p, d: p * d * 4),
        ("vocabulary", lambda p, d: p * d + 49_152),
        ("vocabulary", lambda p, d: (p + 49_152) * d),
        ("factor", lambda p, d: 30 * p * d),
        ("constant", lambda p, d: 5184),
        ("float", lambda p, d: p * d / 1),
        ("value", lambda p, d: p * d + p),
        ("none", lambda p, d: print(p * d)),
    ],
)
def test_prompt_numbers_names(key, answer):
    assert judge("00.1", answer).key == f"00.1.{key}"


def by_equal(before, after):
    return before.keys() == after.keys() and all(
        a.dtype == after[name].dtype and torch.equal(a, after[name]) for name, a in before.items()
    )


def by_bytes(before, after):
    def as_bytes(state):
        return {name: (tensor.shape, tensor.dtype, tensor.numpy().tobytes()) for name, tensor in state.items()}

    return as_bytes(before) == as_bytes(after)


def by_loop(before, after):
    if set(before) != set(after):
        return False
    different = 0
    for name, tensor in before.items():
        if tensor.shape != after[name].shape or tensor.dtype != after[name].dtype:
            return False
        different += (tensor != after[name]).sum()
    return different == 0


@pytest.mark.parametrize("answer", [by_equal, by_bytes, by_loop])
def test_base_unchanged_accepts(answer):
    assert judge("00.2", answer).status == "right"


def first_only(before, after):
    for name in before:
        return torch.equal(before[name], after[name])
    return True


def printed(before, after):
    return before.keys() == after.keys() and all(str(before[name]) == str(after[name]) for name in before)


def sums(before, after):
    return before.keys() == after.keys() and all(
        torch.isclose(before[name].sum(), after[name].sum(), atol=1e-3) for name in before
    )


def close(before, after):
    return before.keys() == after.keys() and all(torch.allclose(before[name], after[name]) for name in before)


def same_objects(before, after):
    return all(before[name] is after[name] for name in before)


def over_after(before, after):
    return all(torch.equal(before[name], after[name]) for name in after)


def over_before(before, after):
    return all(name in after and torch.equal(before[name], after[name]) for name in before)


def elementwise(before, after):
    return before.keys() == after.keys() and all((before[name] == after[name]).all() for name in before)


def flattened(before, after):
    return before.keys() == after.keys() and all(
        before[name].flatten().tolist() == after[name].flatten().tolist() for name in before
    )


def any_dtype(before, after):
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def unguarded(before, after):
    return all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("first_only", first_only),
        ("printed_text", printed),
        ("printed_text", lambda before, after: str(before) == str(after)),
        ("sums", sums),
        ("tolerance", close),
        ("identity", same_objects),
        ("missing", over_after),
        ("missing", lambda before, after: all(map(torch.equal, before.values(), after.values()))),
        ("missing_error", unguarded),
        ("extra", over_before),
        ("shape", elementwise),
        ("shape", flattened),
        ("dtype", any_dtype),
        ("ambiguous", lambda before, after: before == after),
        ("always_true", lambda before, after: before.keys() == after.keys()),
        ("always_false", lambda before, after: False),
        ("none", lambda before, after: print(by_equal(before, after))),
    ],
)
def test_base_unchanged_names(key, answer):
    assert judge("00.2", answer).key == f"00.2.{key}"
