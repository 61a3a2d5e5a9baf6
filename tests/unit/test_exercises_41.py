"""The checks of chapter 41: right answers in several forms pass, each typical wrong one gets its own name."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from course_lib.exercises.registry import judge

# --- 41.1 -------------------------------------------------------------------------------------------------


def hooked(change):
    """An attempt that registers the hook `change(delta, x, h)`."""
    return lambda linear, delta: linear.register_forward_hook(lambda module, inputs, h: change(delta, inputs[0], h))


def attach(linear, delta):
    def add(module, inputs, output):
        return output + delta(output)

    return linear.register_forward_hook(add)


class ByForward:
    """The same sum without a hook: accepted, since all that is asked for holds."""

    def __init__(self, linear, delta):
        self.linear = linear
        forward = linear.forward

        def summed(x):
            h = forward(x)
            return h + delta(h)

        linear.forward = summed

    def remove(self):
        del self.linear.forward


@pytest.mark.parametrize(
    "answer",
    [
        attach,
        hooked(lambda delta, x, h: torch.add(h, delta(h))),
        lambda linear, delta: ByForward(linear, delta),
    ],
)
def test_attach_accepts(answer):
    assert judge("41.1", answer).status == "right"


def without_handle(linear, delta):
    attach(linear, delta)


def changes_weight(linear, delta):
    with torch.no_grad():
        linear.weight += 0.1
    return attach(linear, delta)


def in_place(delta, x, h):
    h += delta(h)
    return h


def calls_itself(linear, delta):
    return linear.register_forward_hook(lambda module, inputs, h: module(inputs[0]) + delta(h))


def replaces_forward(linear, delta):
    forward = linear.forward
    linear.forward = lambda x: forward(x) + delta(forward(x))
    return linear.register_forward_hook(lambda module, inputs, h: None)


def without_gradient(delta, x, h):
    with torch.no_grad():
        return h + delta(h)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("41.1.delta_only", hooked(lambda delta, x, h: delta(h))),
        ("41.1.nothing_added", hooked(lambda delta, x, h: print(h + delta(h)))),
        ("41.1.delta_of_input", hooked(lambda delta, x, h: h + delta(x))),
        (
            "41.1.before_the_layer",
            lambda linear, delta: linear.register_forward_pre_hook(
                lambda module, inputs: (inputs[0] + delta(inputs[0]),)
            ),
        ),
        ("41.1.input_added", hooked(lambda delta, x, h: x + delta(h))),
        ("41.1.multiplied", hooked(lambda delta, x, h: h * delta(h))),
        ("41.1.multiplied_gate", hooked(lambda delta, x, h: h * (1 + delta(h)))),
        ("41.1.twice", hooked(lambda delta, x, h: h + 2 * delta(h))),
        ("41.1.subtracted", hooked(lambda delta, x, h: h - delta(h))),
        ("41.1.in_place", hooked(in_place)),
        ("41.1.weight_changed", changes_weight),
        ("41.1.no_gradient", hooked(without_gradient)),
        ("41.1.no_gradient", hooked(lambda delta, x, h: h.detach() + delta(h))),
        ("41.1.no_gradient", hooked(lambda delta, x, h: h + delta(h).detach())),
        ("41.1.no_handle", without_handle),
        ("41.1.not_removed", replaces_forward),
        ("41.1.not_a_tensor", hooked(lambda delta, x, h: (h, delta(h)))),
        ("41.1.value", hooked(lambda delta, x, h: h + delta(h).relu())),
        ("general.recursion", calls_itself),
    ],
)
def test_attach_names(key, answer):
    assert judge("41.1", answer).key == key


# --- 41.2 -------------------------------------------------------------------------------------------------


def freeze(model, addition):
    model.requires_grad_(False)
    model.eval()
    addition.requires_grad_(True)


def freeze_and_count(model, addition):
    freeze(model, addition)
    parameters = list(addition.parameters())
    everything = {id(p): p for p in [*model.parameters(), *parameters]}.values()
    return parameters, sum(p.numel() for p in parameters), sum(p.numel() for p in everything)


def by_module_list(model, addition):
    for parameter in model.parameters():
        parameter.requires_grad = False
    for parameter in addition.parameters():
        parameter.requires_grad = True
    model.train(False)
    both = nn.ModuleList([model, addition])
    trained = tuple(p for p in both.parameters() if p.requires_grad)
    return trained, sum(map(torch.numel, trained)), sum(map(torch.numel, both.parameters()))


@pytest.mark.parametrize("answer", [freeze_and_count, by_module_list])
def test_freeze_and_count_accepts(answer):
    assert judge("41.2", answer).status == "right"


def changed(parameters=None, trained=None, total=None, after=None):
    """The right answer with one part replaced by a function of (model, addition)."""

    def answer(model, addition):
        right = freeze_and_count(model, addition)
        if after:
            after(model, addition)
        return tuple(
            wrong(model, addition) if wrong else value
            for wrong, value in zip((parameters, trained, total), right, strict=True)
        )

    return answer


def everything_frozen(model, addition):
    parameters, trained, total = freeze_and_count(model, addition)
    model.requires_grad_(False)
    return parameters, trained, total


def generator_first(model, addition):
    _, _, total = freeze_and_count(model, addition)
    parameters = (p for p in addition.parameters())
    return parameters, sum(p.numel() for p in parameters), total


def numbers(tensors):
    return sum(tensor.numel() for tensor in tensors)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("base_trainable", changed(after=lambda m, a: m.requires_grad_(True))),
        ("addition_frozen", everything_frozen),
        ("train_mode", changed(after=lambda m, a: m.train())),
        ("empty", changed(parameters=lambda m, a: [])),
        ("used_up", generator_first),
        ("names", changed(parameters=lambda m, a: list(a.named_parameters()))),
        ("optimiser_holds_frozen", changed(parameters=lambda m, a: [*m.parameters(), *a.parameters()])),
        ("list", changed(parameters=lambda m, a: list(a.parameters())[:-1])),
        ("tensors_counted", changed(trained=lambda m, a: len(list(a.parameters())))),
        ("all_trained", changed(trained=lambda m, a: numbers([*m.parameters(), *a.parameters()]))),
        ("trained_value", changed(trained=lambda m, a: numbers(a.parameters()) - 1)),
        (
            "tied_twice",
            changed(total=lambda m, a: numbers([*m.state_dict().values(), *a.state_dict().values()])),
        ),
        (
            "tied_twice",
            changed(
                total=lambda m, a: (
                    numbers(a.parameters()) + numbers(p for part in m.values() for p in part.parameters())
                )
            ),
        ),
        ("buffers", changed(total=lambda m, a: numbers([*m.parameters(), *m.buffers(), *a.parameters()]))),
        ("total_without_addition", changed(total=lambda m, a: numbers(m.parameters()))),
        ("addition_twice", changed(total=lambda m, a: numbers([*m.parameters(), *a.parameters()]))),
        ("total_value", changed(total=lambda m, a: 1_000_003)),
        ("not_three", lambda m, a: freeze_and_count(m, a)[1:]),
    ],
)
def test_freeze_and_count_names(key, answer):
    assert judge("41.2", answer).key == f"41.2.{key}"


# --- 41.3 -------------------------------------------------------------------------------------------------


class Adapter(nn.Module):
    """W_up f(W_down h), with the wrong turns as options."""

    def __init__(self, d, r, zero="up", activation=F.gelu, bias=True, form=lambda up, h: up, std=None):
        super().__init__()
        self.down, self.up = nn.Linear(d, r, bias=bias), nn.Linear(r, d, bias=bias)
        for name in zero.split():
            for tensor in getattr(self, name).parameters():
                nn.init.zeros_(tensor)
        if std:
            nn.init.normal_(self.up.weight, std=std)
        self.activation, self.form = activation, form

    def forward(self, h):
        return self.form(self.up(self.activation(self.down(h))), h)


def make(**options):
    return lambda d, r: Adapter(d, r, **options)


def sequential(d, r):
    last = nn.Linear(r, d)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(d, r), nn.ReLU(), last)


class Gated(Adapter):
    """A trained scale that starts at zero: another way to start as nothing and live."""

    def __init__(self, d, r):
        super().__init__(d, r, zero="")
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, h):
        return self.scale * super().forward(h)


@pytest.mark.parametrize(
    "answer", [make(), make(bias=False), sequential, lambda d, r: Gated(d, r), make(activation=torch.tanh)]
)
def test_make_adapter_accepts(answer):
    assert judge("41.3", answer).status == "right"


class Plain(nn.Module):
    """Tensors that the module does not know of."""

    def forward(self, h):
        return torch.zeros_like(h)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("both_zero", make(zero="down up")),
        ("both_zero", make(zero="down up", bias=False, activation=F.relu)),
        ("dead_down", make(zero="down", bias=False, activation=F.relu)),
        ("times_zero", make(zero="", form=lambda up, h: 0 * up)),
        ("not_zero", make(zero="")),
        ("nearly_zero", make(std=1e-4)),
        ("returns_h", make(form=lambda up, h: h + up)),
        ("returns_h", make(form=lambda up, h: h * (1 + up))),
        ("ones", make(form=lambda up, h: 1 + up)),
        ("multiplied", make(form=lambda up, h: h * up)),
        ("linear", make(activation=lambda x: x)),
        ("detached", make(form=lambda up, h: up.detach())),
        ("half_dead", lambda d, r: HalfUsed(d, r)),
        ("not_module", lambda d, r: make()(d, r).forward),
        ("no_parameters", lambda d, r: Plain()),
        ("shape", lambda d, r: nn.Linear(d, r)),
        ("size", lambda d, r: Adapter(d, 2 * r)),
    ],
)
def test_make_adapter_names(key, answer):
    assert judge("41.3", answer).key == f"41.3.{key}"


class HalfUsed(Adapter):
    """The first projection is cut off from the gradient."""

    def forward(self, h):
        return self.up(self.activation(self.down(h)).detach())


# --- 41.4 -------------------------------------------------------------------------------------------------


def two_losses(topic_logits, topics, spam_logits, spam):
    return F.cross_entropy(topic_logits, topics), F.binary_cross_entropy_with_logits(spam_logits, spam)


def from_formulas(topic_logits, topics, spam_logits, spam):
    rows = torch.arange(len(topics))
    one_of_k = (topic_logits.logsumexp(1) - topic_logits[rows, topics]).mean()
    yes_no = F.softplus(spam_logits) - spam * spam_logits
    return one_of_k, yes_no.mean()


def as_list(topic_logits, topics, spam_logits, spam):
    two = torch.stack([torch.zeros_like(spam_logits), spam_logits], dim=1)  # sigmoid = softmax of (0, z)
    return [
        -topic_logits.log_softmax(-1).gather(1, topics[:, None]).mean(),
        F.cross_entropy(two, spam.long()),
    ]


@pytest.mark.parametrize("answer", [two_losses, from_formulas, as_list])
def test_two_losses_accepts(answer):
    assert judge("41.4", answer).status == "right"


def one_of_k(loss):
    """The right answer with the one-of-K loss replaced by loss(logits, labels, one_hot, probabilities)."""

    def answer(topic_logits, topics, spam_logits, spam):
        y = F.one_hot(topics, topic_logits.shape[1]).float()
        return loss(topic_logits, topics, y, topic_logits.softmax(1)), two_losses(
            topic_logits, topics, spam_logits, spam
        )[1]

    return answer


def yes_no(loss):
    return lambda zk, yk, z, y: (F.cross_entropy(zk, yk), loss(z, y))


def bce_of_softmax(z, y):
    p = z[:, None].softmax(1)[:, 0]
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        (
            "article_formula",
            one_of_k(lambda z, n, y, p: -(y * p.log() + (1 - y) * (1 - p).log()).sum(1).mean()),
        ),
        ("article_formula", one_of_k(lambda z, n, y, p: -(y * p.log() + (1 - y) * (1 - p).log()).sum())),
        (
            "article_literal",
            one_of_k(lambda z, n, y, p: (-(y * p.log()) + (1 - y) * (1 - p).log()).sum(1).mean()),
        ),
        ("sigmoid_for_one_of_k", one_of_k(lambda z, n, y, p: F.binary_cross_entropy_with_logits(z, y))),
        ("sum_not_mean", one_of_k(lambda z, n, y, p: F.cross_entropy(z, n, reduction="sum"))),
        ("divided_by_classes", one_of_k(lambda z, n, y, p: -(y * p.log()).mean())),
        ("softmax_twice", one_of_k(lambda z, n, y, p: F.cross_entropy(p, n))),
        ("softmax_over_rows", one_of_k(lambda z, n, y, p: -(y * z.log_softmax(0)).sum(1).mean())),
        ("no_log", one_of_k(lambda z, n, y, p: -(y * p).sum(1).mean())),
        ("no_softmax", one_of_k(lambda z, n, y, p: -(y * z).sum(1).mean())),
        (
            "overflow",
            one_of_k(lambda z, n, y, p: -(y * (z.exp() / z.exp().sum(1, True) + 1e-9).log()).sum(1).mean()),
        ),
        ("sign", one_of_k(lambda z, n, y, p: -F.cross_entropy(z, n))),
        ("not_averaged", one_of_k(lambda z, n, y, p: F.cross_entropy(z, n, reduction="none"))),
        ("one_of_k_value", one_of_k(lambda z, n, y, p: F.cross_entropy(z, n) / 0.6931)),
        ("no_gradient", one_of_k(lambda z, n, y, p: F.cross_entropy(z, n).item())),
        ("softmax_of_one", yes_no(bce_of_softmax)),
        ("softmax_of_one", yes_no(lambda z, y: F.binary_cross_entropy(z[:, None].softmax(1)[:, 0], y))),
        ("softmax_of_one", yes_no(lambda z, y: F.cross_entropy(z[:, None], y.long() * 0))),
        ("softmax_over_rows_yes", yes_no(lambda z, y: F.cross_entropy(z, y))),
        ("sum_not_mean", yes_no(lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="sum"))),
        ("sigmoid_twice", yes_no(lambda z, y: F.binary_cross_entropy_with_logits(z.sigmoid(), y))),
        ("only_yes", yes_no(lambda z, y: -(y * F.logsigmoid(z)).mean())),
        ("printed_yes_no", yes_no(lambda z, y: (-y * F.logsigmoid(z) + (1 - y) * F.logsigmoid(-z)).mean())),
        ("overflow", yes_no(lambda z, y: F.binary_cross_entropy(z.sigmoid(), y))),
        ("yes_no_value", yes_no(lambda z, y: (z - y).pow(2).mean())),
        ("swapped", lambda *given: two_losses(*given)[::-1]),
        ("not_two", lambda *given: sum(two_losses(*given))),
    ],
)
def test_two_losses_names(key, answer):
    assert judge("41.4", answer).key == f"41.4.{key}"


# --- 41.5 -------------------------------------------------------------------------------------------------


def pad_batch(batch, pad_id):
    longest = max(len(row) for row in batch)
    ids = torch.tensor([row + [pad_id] * (longest - len(row)) for row in batch])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
    return ids, mask


def by_pad_sequence(batch, pad_id):
    rows = [torch.tensor(row) for row in batch]
    ids = pad_sequence(rows, batch_first=True, padding_value=pad_id)
    return {
        "input_ids": ids,
        "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
    }


def by_filling(batch, pad_id):
    mask = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.bool)
    ids = torch.full(mask.shape, pad_id)
    for i, row in enumerate(batch):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), True
    return ids, mask


@pytest.mark.parametrize("answer", [pad_batch, by_pad_sequence, by_filling])
def test_pad_batch_accepts(answer):
    assert judge("41.5", answer).status == "right"


def masked(make_mask):
    def answer(batch, pad_id):
        ids, mask = pad_batch(batch, pad_id)
        return ids, make_mask(ids, mask, pad_id)

    return answer


def left(batch, pad_id):
    ids, mask = pad_batch([row[::-1] for row in batch], pad_id)
    return ids.flip(1), mask.flip(1)


def truncated(batch, pad_id):
    return pad_batch([row[: min(map(len, batch))] for row in batch], pad_id)


def grows_its_input(batch, pad_id):
    right = pad_batch(batch, pad_id)
    for row in batch:
        row += [pad_id] * (right[0].shape[1] - len(row))
    return right


def to_512(batch, pad_id):
    ids, mask = pad_batch(batch, pad_id)
    more = 512 - ids.shape[1]
    return F.pad(ids, (0, more), value=pad_id), F.pad(mask, (0, more))


def wrong_first_token(batch, pad_id):
    ids, mask = pad_batch(batch, pad_id)
    return ids + 1, mask


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("left", left),
        ("mask_by_pad_id", masked(lambda ids, mask, pad: (ids != pad).long())),
        ("inverted", masked(lambda ids, mask, pad: 1 - mask)),
        ("inverted", masked(lambda ids, mask, pad: ids == pad)),
        ("all_ones", masked(lambda ids, mask, pad: torch.ones_like(ids))),
        ("mask_shape", masked(lambda ids, mask, pad: mask.sum(1))),
        ("mask_value", masked(lambda ids, mask, pad: mask.flip(1))),
        ("truncated", truncated),
        ("too_long", to_512),
        ("changes_input", grows_its_input),
        ("no_mask", lambda batch, pad: pad_batch(batch, pad)[0]),
        ("not_tensors", lambda batch, pad: tuple(part.tolist() for part in pad_batch(batch, pad))),
        ("float_ids", lambda batch, pad: (pad_batch(batch, pad)[0].float(), pad_batch(batch, pad)[1])),
        ("transposed", lambda batch, pad: tuple(part.T for part in pad_batch(batch, pad))),
        ("wrong_pad", lambda batch, pad: pad_batch(batch, 0)),
        ("shape", lambda batch, pad: tuple(part.flatten() for part in pad_batch(batch, pad))),
        ("value", wrong_first_token),
    ],
)
def test_pad_batch_names(key, answer):
    assert judge("41.5", answer).key == f"41.5.{key}"
