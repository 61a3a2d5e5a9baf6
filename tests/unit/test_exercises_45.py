"""The checks of chapter 45: right answers in several forms pass, each typical wrong one gets its own name."""

import pytest
import torch
from torch import nn

from course_lib.additive import IA3, LoRA
from course_lib.additive.ia3 import Scale
from course_lib.additive.lora import LowRank
from course_lib.additive.parallel_adapter import Parallel
from course_lib.additive.sites import Site
from course_lib.exercises.chapter_45 import FAMILIES
from course_lib.exercises.registry import judge

# --- 45.1


def as_by_ding():
    words = {"additive": "addition-based", "selective": "specification-based", "reparametrised": "reparameterization"}
    return {name: words.get(family, family) for name, family in FAMILIES.items()}


@pytest.mark.parametrize("answer", [lambda: dict(FAMILIES), as_by_ding])
def test_families_accepts(answer):
    assert judge("45.1", answer).status == "right"


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("lora_additive", lambda: FAMILIES | {"LoRA": "additive"}),
        ("lora_selective", lambda: FAMILIES | {"LoRA": "selective"}),
        ("ia3_selective", lambda: FAMILIES | {"(IA)^3": "selective"}),
        ("ia3_reparametrised", lambda: FAMILIES | {"(IA)^3": "Reparameterized"}),
        ("bitfit_additive", lambda: FAMILIES | {"BitFit": "additive"}),
        ("compacter_additive", lambda: FAMILIES | {"Compacter": "additive"}),
        ("compacter_reparametrised", lambda: FAMILIES | {"Compacter": "reparametrized"}),
        ("mix_additive", lambda: FAMILIES | {"Mix-and-Match": "additive"}),
        ("unipelt_additive", lambda: FAMILIES | {"UniPELT": "additive"}),
        ("prefix_reparametrised", lambda: FAMILIES | {"prefix tuning": "reparametrised"}),
        ("all_additive", lambda: dict.fromkeys(FAMILIES, "additive")),
        ("value", lambda: FAMILIES | {"ladder side tuning": "hybrid"}),
        ("word", lambda: FAMILIES | {"LoRA": "low rank"}),
        ("missing", lambda: {"LoRA": "reparametrised"}),
        ("type", lambda: list(FAMILIES)),
        ("none", lambda: print("?")),
    ],
)
def test_families_names(key, answer):
    assert judge("45.1", answer).key == f"45.1.{key}"


@pytest.mark.parametrize(("name", "family"), [("LoRA", "additive"), ("(IA)^3", "selective")])
def test_the_two_famous_ones_are_refused_by_definition(name, family):
    said = " ".join(str(judge("45.1", lambda: FAMILIES | {name: family})).lower().split())
    assert "by these surveys' definition" in said


# --- 45.2


def scores_of(Q, K, mask=None):
    scores = Q @ K.mT / Q.shape[-1] ** 0.5
    return scores if mask is None else scores.masked_fill(~mask, -torch.inf)


def by_logsumexp(Q, K, P_k, mask=None):
    return (scores_of(Q, P_k).logsumexp(-1) - scores_of(Q, K, mask).logsumexp(-1)).sigmoid()


def by_one_softmax(Q, K, P_k, mask=None):
    both = torch.cat([scores_of(Q, P_k), scores_of(Q, K, mask)], dim=-1)
    return both.softmax(-1)[..., : P_k.shape[1]].sum(-1, keepdim=True)


@pytest.mark.parametrize("answer", [by_logsumexp, by_one_softmax])
def test_prefix_gate_accepts(answer):
    assert judge("45.2", answer).status == "right"


def by_exp(Q, K, P_k, mask=None):
    Z_P, Z = scores_of(Q, P_k).exp().sum(-1), scores_of(Q, K, mask).exp().sum(-1)
    return Z_P / (Z_P + Z)


def sums_of_scores(Q, K, P_k, mask=None):
    of_prefix, of_text = scores_of(Q, P_k).sum(-1), scores_of(Q, K).sum(-1)
    return of_prefix / (of_prefix + of_text)


def writes(Q, K, P_k, mask=None):
    answer = by_logsumexp(Q, K, P_k, mask)
    Q *= 2
    return answer


def zero_for_hidden(Q, K, P_k, mask=None):
    scores = scores_of(Q, K) if mask is None else scores_of(Q, K) * mask
    return (scores_of(Q, P_k).logsumexp(-1) - scores.logsumexp(-1)).sigmoid()


def times_minus_infinity(Q, K, P_k, mask=None):
    scores = scores_of(Q, K) if mask is None else scores_of(Q, K) + (~mask) * -torch.inf
    return (scores_of(Q, P_k).logsumexp(-1) - scores.logsumexp(-1)).sigmoid()


def zero_keys(Q, K, P_k, mask=None):
    return by_logsumexp(Q, K, torch.zeros_like(P_k), mask)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("over_prefix", lambda Q, K, P_k, mask=None: scores_of(Q, P_k).softmax(-1).sum(-1)),
        ("complement", lambda *args: 1 - by_logsumexp(*args)),
        ("ratio", lambda Q, K, P, m=None: scores_of(Q, P).exp().sum(-1) / scores_of(Q, K, m).exp().sum(-1)),
        ("no_scale", lambda Q, K, P, m=None: by_logsumexp(Q * Q.shape[-1] ** 0.5, K, P, m)),
        ("count", lambda Q, K, P, m=None: torch.full(Q.shape[:-1], P.shape[1] / (P.shape[1] + K.shape[2]))),
        ("zero_keys", zero_keys),
        ("largest", lambda Q, K, P, m=None: (scores_of(Q, P).amax(-1) - scores_of(Q, K, m).amax(-1)).sigmoid()),
        ("mean_share", lambda Q, K, P, m=None: by_logsumexp(Q, K, P, m) / P.shape[1]),
        ("one_query", lambda *args: by_logsumexp(*args).mean(-1, keepdim=True).repeat(1, 1, 4)),
        ("one_head", lambda *args: by_logsumexp(*args).mean(1, keepdim=True).repeat(1, 3, 1)),
        ("not_summed", lambda Q, K, P, m=None: torch.cat([scores_of(Q, P), scores_of(Q, K)], -1).softmax(-1)[..., :5]),
        ("mask_ignored", lambda Q, K, P, m=None: by_logsumexp(Q, K, P)),
        ("mask_zero", zero_for_hidden),
        ("mask_nan", times_minus_infinity),
        ("mask_inverted", lambda Q, K, P, m=None: by_logsumexp(Q, K, P, None if m is None else ~m)),
        ("no_exp", sums_of_scores),
        ("overflow", by_exp),
        ("in_place", writes),
        ("no_gradient", lambda *args: by_logsumexp(*args).detach()),
        ("shape", lambda *args: by_logsumexp(*args).mean()),
        ("value", lambda *args: by_logsumexp(*args) + 1),
        ("none", lambda *args: print(len(args))),
    ],
)  # fmt: skip
def test_prefix_gate_names(key, answer):
    assert judge("45.2", answer).key == f"45.2.{key}"


# --- 45.3


@pytest.mark.parametrize(
    "answer",
    [
        lambda W, A, B, alpha: W + alpha / A.shape[0] * B @ A,
        lambda W, A, B, alpha: torch.addmm(W, B, A, alpha=alpha / B.shape[1]),
    ],
)
def test_merge_accepts(answer):
    assert judge("45.3", answer).status == "right"


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("by_alpha", lambda W, A, B, alpha: W + alpha * B @ A),
        ("no_scale", lambda W, A, B, alpha: W + B @ A),
        ("by_r", lambda W, A, B, alpha: W + B @ A / len(A)),
        ("root", lambda W, A, B, alpha: W + alpha / len(A) ** 0.5 * B @ A),
        ("inverse", lambda W, A, B, alpha: W + len(A) / alpha * B @ A),
        ("width", lambda W, A, B, alpha: W + alpha / A.shape[1] * B @ A),
        ("scaled_base", lambda W, A, B, alpha: alpha / len(A) * (W + B @ A)),
        ("only_change", lambda W, A, B, alpha: alpha / len(A) * B @ A),
        ("minus", lambda W, A, B, alpha: W - alpha / len(A) * B @ A),
        ("in_place", lambda W, A, B, alpha: W.add_(B @ A, alpha=alpha / len(A))),
        ("shape", lambda W, A, B, alpha: (W.T + alpha / len(A) * (B @ A).T)),
        ("value", lambda W, A, B, alpha: 2 * W),
        ("none", lambda W, A, B, alpha: print(alpha)),
    ],
)
def test_merge_names(key, answer):
    assert judge("45.3", answer).key == f"45.3.{key}"


# --- 45.4


def linears(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear) and module.bias is None]


def zeros_for(linear):
    return nn.Parameter(linear.weight.new_zeros(linear.out_features))


def plainly(model):
    model.requires_grad_(False)
    new = []
    for linear in linears(model):
        linear.bias = nn.Parameter(torch.zeros_like(linear.weight[:, 0]))
        new.append(linear.bias)
    return new


def registered(model):
    for parameter in model.parameters():
        parameter.requires_grad = False
    found = linears(model)
    for linear in found:
        linear.register_parameter("bias", zeros_for(linear))
    return tuple(linear.bias for linear in found)


@pytest.mark.parametrize("answer", [plainly, registered])
def test_add_biases_accepts(answer):
    assert judge("45.4", answer).status == "right"


def with_biases(make, freeze=True, chosen=linears, answer=list):
    def attempt(model):
        if freeze:
            model.requires_grad_(False)
        found = chosen(model)
        for linear in found:
            linear.bias = make(linear)
        return answer(linear.bias for linear in found)

    return attempt


def shared(model):
    model.requires_grad_(False)
    one = {}
    for linear in linears(model):
        linear.bias = one.setdefault(linear.out_features, zeros_for(linear))
    return [linear.bias for linear in linears(model)] or list(one.values())


def freezes_last(model):
    new = plainly(model)
    model.requires_grad_(False)
    return new


@torch.no_grad()
def halves_the_weights(model):
    new = plainly(model)
    for linear in model.modules():
        if isinstance(linear, nn.Linear):
            linear.weight.mul_(0.5)
    return new


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("changed", halves_the_weights),
        ("not_zero", with_biases(lambda linear: nn.Parameter(torch.randn(linear.out_features)))),
        ("not_frozen", with_biases(zeros_for, freeze=False)),
        ("only_some", with_biases(zeros_for, chosen=lambda model: linears(model)[:2])),
        ("overwrote", with_biases(zeros_for, chosen=lambda m: [x for x in m.modules() if isinstance(x, nn.Linear)])),
        ("width", with_biases(lambda linear: nn.Parameter(torch.zeros(linear.in_features)))),
        ("shared", shared),
        ("not_trainable", freezes_last),
        ("returns", with_biases(zeros_for, answer=lambda new: sum(bias.numel() for bias in new))),
        ("list", with_biases(zeros_for, answer=lambda new: list(new)[:1])),
        ("dtype", with_biases(lambda linear: nn.Parameter(torch.zeros(linear.out_features)))),
        ("none", lambda model: model.requires_grad_(False) and None),
    ],
)
def test_add_biases_names(key, answer):
    assert judge("45.4", answer).key == f"45.4.{key}"


# --- 45.5


def two_terms(layout):
    for block in range(layout.num_layers - 2, layout.num_layers):
        yield Site("beside", "ffn", block), Parallel(layout.width, 4, scale=4.0)
        yield Site("scale", "value", block), Scale(layout.key_width)


def of_the_library(layout):
    return [*LoRA(1).place(layout), *((site, module) for site, module in IA3().place(layout) if site.block == 5)]


@pytest.mark.parametrize("answer", [two_terms, of_the_library])
def test_my_method_accepts(answer):
    assert judge("45.5", answer).status == "right"


def with_parts(*parts):
    def attempt(layout):
        yield from parts

    return attempt


def both_zero():
    low = LowRank(384, 384, 2, 2.0)
    nn.init.zeros_(low.A)
    return low


def beginning_elsewhere():
    term = Parallel(384, 2, 1.0)
    nn.init.normal_(term.up.weight, std=0.02)
    return term


def test_my_method_names():
    value, ffn = Site("scale", "value", 5), Site("beside", "ffn", 5)
    fine = (value, Scale(384))
    cases = {
        "none": with_parts(),
        "pairs": with_parts(fine, ffn),
        "module": with_parts(fine, (ffn, torch.zeros(384))),
        "one_part": lambda layout: ((Site("beside", "ffn", b), Parallel(384, 2, 1.0)) for b in range(6)),
        "budget": with_parts(fine, (ffn, Parallel(384, 64, 1.0))),
        "nothing_trains": with_parts((value, nn.Identity()), (Site("scale", "key", 5), nn.Identity())),
        "not_identity": with_parts(fine, (ffn, beginning_elsewhere())),
        "dead": with_parts(fine, (ffn, both_zero())),
    }
    for key, attempt in cases.items():
        assert judge("45.5", attempt).key == f"45.5.{key}", key


def test_an_attempt_is_no_method_of_the_course():
    from course_lib.additive import METHODS

    before = set(METHODS)
    judge("45.5", two_terms)
    assert set(METHODS) == before


def test_every_message_of_the_chapter_is_in_both_languages():
    from course_lib.exercises.messages import table

    own = {key: text for key, text in table().items() if key.startswith("45.")}
    assert {key.split(".")[1] for key in own} == {"1", "2", "3", "4", "5"}
    assert all(text["en"].strip() and text["zh"].strip() for text in own.values())
