"""A batch whose rows use different additions: one pass for all of one design, whatever they share and however many."""

import threading

import pytest
import torch
from conftest import VOCABULARY, first, stir
from hypothesis import given, settings
from hypothesis import strategies as st
from test_contract import CASES, ROWS, call
from torch.utils._python_dispatch import TorchDispatchMode

from course_lib.additive import IA3, LayerNormTuning, LoRA, ParallelAdapter, PrefixTuning, PromptTuning, Sum, attach
from course_lib.additive.lora import LowRank
from course_lib.additive.mixed_rows import groups_of
from course_lib.tasks import Classification

each_row = pytest.mark.parametrize(("case", "family"), ROWS)
ONCE = [(case, families[n % len(families)]) for n, (case, (_, families, _)) in enumerate(CASES.items())]
ONCE.remove(next(pair for pair in ONCE if pair[0] == "full"))
each_once = pytest.mark.parametrize(("case", "family"), ONCE)  # what costs more, on one family only
# Prompts are looked up row by row; side networks are networks of their own and run one after the other.
STACKED = [
    pair for pair in ONCE if pair[0] not in ("prompt", "p-tuning", "p-tuning-lstm", "sum", "side", "ladder")
]


class Operators(TorchDispatchMode):
    """Counts the operators that torch runs."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def many(model, method, number, **options):
    """A tuned model with additions "0", "1", ... of one design, each with numbers of its own."""
    tuned = attach(model, method, name="0", **options)
    for name in range(1, number):
        tuned.add(method, name=str(name))
    return stir(tuned)


def some_ids(rows, length=9):
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(3))


@each_once
def test_sixty_four_additions_in_one_batch(models, case, family):
    tuned, ids = many(models[family], CASES[case][0], 63), some_ids(64)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1)).tolist()
    names = [None if number == 63 else str(number) for number in order]
    together = call(tuned, ids, additions=names)
    for row in (0, 17, 63, names.index(None)):
        alone = call(tuned, ids[row : row + 1], additions=[names[row]])
        assert (together[row] - alone[0]).abs().max() < 5e-5


@pytest.mark.parametrize(("case", "family"), STACKED)
def test_it_takes_no_more_operators_than_two_additions(models, case, family):
    tuned, ids = many(models[family], CASES[case][0], 32), some_ids(32)

    def operators(names):
        with torch.no_grad(), Operators() as counted:
            call(tuned, ids, additions=names)
        return counted.count

    assert operators([str(n) for n in range(32)]) <= operators([str(n) for n in range(2) for _ in range(16)])


@each_row
def test_each_addition_gets_the_gradient_of_its_own_rows(models, case, family):
    tuned, ids = many(models[family], CASES[case][0], 3).double(), some_ids(7)  # T5's scores are large: not in float32
    names = ["2", "0", None, "2", "0", "2", "1"]

    def gradients(rows):
        tuned.zero_grad(set_to_none=True)
        call(tuned, ids[rows], additions=[names[row] for row in rows]).square().sum().backward()
        return {name: p.grad for name, p in tuned.additions.named_parameters() if p.grad is not None}

    together = gradients(list(range(7)))
    for name in ("0", "1", "2"):
        alone = gradients([row for row in range(7) if names[row] == name])
        own = {key: grad for key, grad in together.items() if key.startswith(f"{name}.")}
        assert own.keys() == alone.keys()
        for key, gradient in own.items():
            assert (gradient - alone[key]).abs().max() <= 1e-5 * (1 + alone[key].abs().max()), key


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_additions_of_different_shapes_and_kinds_share_a_batch(models, family):
    tuned = many(models[family], LoRA(2), 3, task=Classification(3))
    tuned.add(LoRA(3), "wide").add(LoRA(2, alpha=5), "strong").add(IA3(), "ia3").add(PromptTuning(3), "prompt")
    tuned.add(PrefixTuning(4, hidden=None), "prefix").add(PrefixTuning(2, hidden=None), "short-prefix")
    tuned.add(Sum(LoRA(2), LoRA(2), ParallelAdapter(3)), "sum")
    stir(tuned)
    names = ["wide", "0", "strong", "sum", None, "1", "prefix", "ia3", "2", "short-prefix", "prompt", "1"]
    ids = some_ids(12)
    together = call(tuned, ids, additions=names)
    for row, name in enumerate(names):
        assert (together[row] - call(tuned, ids[row : row + 1], additions=[name])[0]).abs().max() < 5e-5


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "c", "d", "e", None]), min_size=1, max_size=20), st.integers(1, 3),
    st.integers(0, 5),
)
def test_groups_are_the_loop_over_rows(rows, beams, odd):
    """However the rows are shared, and whichever addition has another shape; the stack stays small."""
    torch.manual_seed(0)
    modules = {name: LowRank(6, 6, 3 if n == odd else 2, 1.0) for n, name in enumerate("abcd")}  # "e" has none here
    for module in modules.values():
        torch.nn.init.normal_(module.B)
    x = torch.randn(len(rows) * beams, 4, 6)
    y = x
    for group in groups_of({name: [("lora", module)] for name, module in modules.items()}, rows, x):
        y = group.add(y, group(x))
        own = len(x) if group.rows is None else len(group.rows)
        assert len(group.modules) <= 3 * len({id(module) for module in group.modules})
        assert len(group.modules) * group.side <= 2 * own
    names = [name for name in rows for _ in range(beams)]
    expected = torch.stack([x[i] + modules[name](x[i]) if name in modules else x[i] for i, name in enumerate(names)])
    assert torch.allclose(y, expected, atol=1e-6)


@pytest.mark.parametrize("case", [case for case, family in ROWS if family == "llama"])
def test_beams_of_mixed_rows_are_those_of_each_row(models, case):
    tuned, ids = many(models["llama"], CASES[case][0], 2), some_ids(4, 6)
    names = ["1", "0", None, "1"]
    options = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    together = tuned.generate(ids, attention_mask=mask, additions=names, **options)
    for row, name in enumerate(names):
        single = {"attention_mask": mask[row : row + 1], "additions": [name]}
        assert torch.equal(together[row], tuned.generate(ids[row : row + 1], **single, **options)[0])


def test_an_own_norm_is_run_in_place_of_the_bases(models, ids):
    tuned = attach(models["bert"], LayerNormTuning())

    def operators():
        with torch.no_grad(), Operators() as counted:
            call(tuned, ids)
        return counted.count

    own = operators()
    with tuned.disabled():
        assert own == operators()


def test_the_stack_follows_the_parameters(models, ids):
    tuned = many(models["bert"], LoRA(2), 2)
    names = ["0", "1", "0"]
    before = call(tuned, ids, additions=names)
    with torch.no_grad():
        for parameter in tuned.additions["1"].parameters():
            parameter.mul_(2)
    after = call(tuned, ids, additions=names)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert (after[1] - call(tuned, ids[1:2], additions=["1"])[0]).abs().max() < 2e-5
    tuned.remove("1").add(LoRA(2), "1")
    assert (call(tuned, ids, additions=names)[1] - call(tuned, ids[1:2], additions=[None])[0]).abs().max() < 2e-5


def test_mixed_rows_under_autocast_and_with_dropout(models, ids):
    tuned = many(models["bert"], LoRA(2, dropout=0.5), 3).eval()
    names = ["2", "0", "1"]
    full = call(tuned, ids, additions=names)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = call(tuned, ids, additions=names)
    assert (half.float() - full).abs().mean() < 0.05 * full.abs().mean() + 0.05
    tuned.train()
    same = call(tuned, ids[:1].expand(2, -1), additions=["2", "2"]), call(tuned, ids, additions=names)
    assert not torch.allclose(same[0][0], same[0][1])  # each row draws its own dropout
    assert torch.isfinite(same[1]).all()


def test_requests_in_two_threads_do_not_meet(models):
    tuned, ids = many(models["llama"], LoRA(2), 8), some_ids(8)
    orders = [[str(n) for n in range(8)], [str(n) for n in reversed(range(8))]]
    expected = [first(tuned(input_ids=ids, additions=order)) for order in orders]
    wrong = []

    def request(number):
        for _ in range(8):
            with torch.no_grad():
                answer = first(tuned(input_ids=ids, additions=orders[number]))
            if not torch.allclose(answer, expected[number], atol=1e-5):
                wrong.append(number)

    threads = [threading.Thread(target=request, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
