"""The checks of chapter 45."""

from __future__ import annotations

import random
from collections.abc import Callable

from .comparing import same
from .registry import Wrong, check_of

FAMILIES = {  # after Lialin et al. 2023
    "Houlsby adapter": "additive",
    "prompt tuning": "additive",
    "prefix tuning": "additive",
    "(IA)^3": "additive",
    "ladder side tuning": "additive",
    "BitFit": "selective",
    "LoRA": "reparametrised",
    "Compacter": "hybrid",
    "Mix-and-Match": "hybrid",
    "UniPELT": "hybrid",
}
STEMS = {"addit": "additive", "select": "selective", "specif": "selective", "repar": "reparametrised"}
BUDGET = 20_000  # numbers that a method of the learner's own may train on MiniLM


@check_of("45.1", "Ten methods in their families", minutes=8)
def families(attempt: Callable) -> None:
    """The ten methods, with a sentence of their own for the places where most people put them."""
    found = attempt()
    if found is None:
        raise Wrong("45.1.none")
    if not isinstance(found, dict):
        raise Wrong("45.1.type", found=type(found).__name__)
    missing = [name for name in FAMILIES if name not in found]
    if missing:
        raise Wrong("45.1.missing", missing=", ".join(missing))
    said = {}
    for name in FAMILIES:
        word = str(found[name]).lower().strip()
        said[name] = next((family for stem, family in STEMS.items() if word.startswith(stem)), word)
        if said[name] not in (*STEMS.values(), "hybrid"):
            raise Wrong("45.1.word", method=name, found=found[name])
    if all(family == "additive" for family in said.values()):
        raise Wrong("45.1.all_additive")
    named = [
        ("LoRA", "additive", "45.1.lora_additive"), ("LoRA", "selective", "45.1.lora_selective"),
        ("(IA)^3", "selective", "45.1.ia3_selective"), ("(IA)^3", "reparametrised", "45.1.ia3_reparametrised"),
        ("BitFit", "additive", "45.1.bitfit_additive"), ("Compacter", "additive", "45.1.compacter_additive"),
        ("Compacter", "reparametrised", "45.1.compacter_reparametrised"),
        ("Mix-and-Match", "additive", "45.1.mix_additive"), ("UniPELT", "additive", "45.1.unipelt_additive"),
        ("prefix tuning", "reparametrised", "45.1.prefix_reparametrised"),
    ]  # fmt: skip
    for method, family, key in named:
        if said[method] == family:
            raise Wrong(key)
    for method, family in FAMILIES.items():
        if said[method] != family:
            raise Wrong("45.1.value", method=method, found=said[method])


def unharmed(key: str, before: tuple, after: tuple) -> None:
    """Raise Wrong if a tensor that was handed over has been written into."""
    import torch

    if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
        raise Wrong(key)


@check_of("45.2", "The gate of a prefix", minutes=12)
def prefix_gate(attempt: Callable) -> None:
    """Lambda with and without a mask; the usual other shares are recognised by their values."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    B, H, T, S, p, d = 2, 3, 4, 6, 5, 8
    Q, K, P_k = noise(B, H, T, d), noise(B, H, S, d), noise(H, p, d) + 0.4
    mask = torch.ones(T, S, dtype=torch.bool).tril(S - T).expand(B, 1, T, S).clone()
    mask[1, ..., 0] = False  # padding on the left
    scores, prefix = Q @ K.mT / d**0.5, Q @ P_k.mT / d**0.5  # (B, H, T, S), (B, H, T, p)

    def gate(text: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return (vectors.logsumexp(-1) - text.logsumexp(-1)).sigmoid()

    def ask(*args) -> torch.Tensor:
        found = attempt(*args)
        if found is None:
            raise Wrong("45.2.none")
        if not isinstance(found, torch.Tensor):
            raise Wrong("45.2.shape", found=type(found).__name__)
        if found.shape == (B, H, T, 1):
            return found.squeeze(-1)
        if found.shape == (B, H, T, p):
            raise Wrong("45.2.not_summed")
        if found.shape != (B, H, T):
            raise Wrong("45.2.shape", found=tuple(found.shape))
        return found

    kept = Q.clone(), K.clone(), P_k.clone(), mask.clone()
    plain = ask(Q, K, P_k, None)
    unharmed("45.2.in_place", kept, (Q, K, P_k, mask))
    right = gate(scores, prefix)
    ratio = (prefix.logsumexp(-1) - scores.logsumexp(-1)).exp()
    named = {
        "45.2.over_prefix": torch.ones_like(right),
        "45.2.complement": 1 - right,
        "45.2.ratio": ratio,
        "45.2.no_scale": gate(scores * d**0.5, prefix * d**0.5),
        "45.2.count": torch.full_like(right, p / (p + S)),
        "45.2.zero_keys": p / (p + scores.exp().sum(-1)),
        "45.2.no_exp": prefix.sum(-1) / (prefix.sum(-1) + scores.sum(-1)),
        "45.2.largest": (prefix.amax(-1) - scores.amax(-1)).sigmoid(),
        "45.2.mean_share": torch.cat([prefix, scores], -1).softmax(-1)[..., :p].mean(-1),
        "45.2.one_query": right.mean(-1, keepdim=True).expand_as(right),
        "45.2.one_head": right.mean(1, keepdim=True).expand_as(right),
    }
    if not same(plain, right):
        for key, wrong in named.items():
            if same(plain, wrong):
                raise Wrong(key)
        raise Wrong("45.2.value")
    masked = ask(Q, K, P_k, mask)
    unharmed("45.2.in_place", kept, (Q, K, P_k, mask))
    hidden = scores.masked_fill(~mask, -torch.inf)
    if masked.isnan().any():
        raise Wrong("45.2.mask_nan")
    if not same(masked, gate(hidden, prefix)):
        named = {
            "45.2.mask_ignored": right,
            "45.2.mask_zero": gate(scores * mask, prefix),
            "45.2.mask_inverted": gate(scores.masked_fill(mask, -torch.inf), prefix),
        }
        for key, wrong in named.items():
            if same(masked, wrong):
                raise Wrong(key)
        raise Wrong("45.2.mask_value")
    large = ask(200 * Q, 200 * K, 200 * P_k, None)
    if not same(large, gate(4e4 * scores, 4e4 * prefix)):
        raise Wrong("45.2.overflow")
    learning = P_k.clone().requires_grad_(True)
    answer = ask(Q, K, learning, mask)
    if not answer.requires_grad:
        raise Wrong("45.2.no_gradient")


@check_of("45.3", "Merge LoRA", minutes=8)
def merge_lora(attempt: Callable) -> None:
    """W + (alpha / r) B A over matrices of several shapes; other scales and orders are recognised by their values."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for out, into, r, alpha in ((7, 5, 2, 16.0), (6, 6, 3, 4.5)):
        W, A, B = (torch.randn(*shape, generator=generator) for shape in ((out, into), (r, into), (out, r)))
        kept = W.clone()
        found = attempt(W, A, B, alpha)
        if not torch.equal(W, kept):
            raise Wrong("45.3.in_place")
        if found is None:
            raise Wrong("45.3.none")
        if not isinstance(found, torch.Tensor) or found.shape != W.shape:
            raise Wrong("45.3.shape", found=tuple(getattr(found, "shape", ())), right=tuple(W.shape))
        change = B @ A
        if same(found, W + alpha / r * change):
            continue
        named = {
            "45.3.by_alpha": W + alpha * change,
            "45.3.no_scale": W + change,
            "45.3.by_r": W + change / r,
            "45.3.root": W + alpha / r**0.5 * change,
            "45.3.inverse": W + r / alpha * change,
            "45.3.width": W + alpha / into * change,
            "45.3.scaled_base": alpha / r * (W + change),
            "45.3.only_change": alpha / r * change,
            "45.3.minus": W - alpha / r * change,
        }
        if out == into:
            named["45.3.transposed"] = W + alpha / r * change.T
        for key, wrong in named.items():
            if same(found, wrong):
                raise Wrong(key)
        raise Wrong("45.3.value")


@check_of("45.4", "Biases for a model without any", minutes=12)
def add_biases(attempt: Callable) -> None:
    """A nest of linear maps, most without a bias; what is new must be zero, its own, and the only thing that trains."""
    import copy

    import torch
    from torch import nn

    torch.manual_seed(0)

    class Gated(nn.Module):
        def __init__(self, d: int, f: int):
            super().__init__()
            self.gate_proj, self.up_proj = nn.Linear(d, f, bias=False), nn.Linear(d, f, bias=False)
            self.down_proj, self.norm = nn.Linear(f, d, bias=False), nn.LayerNorm(d)

        def forward(self, x):
            x = self.norm(x)
            return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))

    def fresh(dtype=torch.float32) -> nn.Sequential:
        torch.manual_seed(1)
        return nn.Sequential(Gated(6, 10), nn.ModuleDict({"deep": Gated(6, 8)})["deep"], nn.Linear(6, 4)).to(dtype)

    model, x = fresh(), torch.randn(3, 6)
    before, names = copy.deepcopy(model.state_dict()), dict(model.named_parameters())
    old_bias = model[2].bias
    with torch.no_grad():
        plain = model(x)
    new = attempt(model)
    without = [linear for linear in model.modules() if isinstance(linear, nn.Linear) and linear is not model[2]]
    if new is None and all(linear.bias is None for linear in without):
        raise Wrong("45.4.none")
    if model[2].bias is not old_bias or not torch.equal(model[2].bias, before["2.bias"]):
        raise Wrong("45.4.overwrote")
    if any(linear.bias is None for linear in without):
        count = sum(linear.bias is not None for linear in without)
        raise Wrong("45.4.only_some", found=count, right=len(without))
    biases = [linear.bias for linear in without]
    if any(bias.shape != (linear.out_features,) for bias, linear in zip(biases, without, strict=True)):
        raise Wrong("45.4.width")
    if any(bool((bias != 0).any()) for bias in biases):
        raise Wrong("45.4.not_zero")
    if len({id(bias) for bias in biases}) < len(biases):
        raise Wrong("45.4.shared")
    if not all(bias.requires_grad for bias in biases):
        raise Wrong("45.4.not_trainable")
    training = [name for name, parameter in names.items() if parameter.requires_grad]
    if training:
        raise Wrong("45.4.not_frozen", first=training[0])
    if not isinstance(new, list | tuple) or not all(isinstance(bias, torch.Tensor) for bias in new):
        raise Wrong("45.4.returns", found=type(new).__name__)
    if {id(bias) for bias in new} != {id(bias) for bias in biases}:
        raise Wrong("45.4.list", found=len(new), right=len(biases))
    after = model.state_dict()
    if not all(torch.equal(after[name], tensor) for name, tensor in before.items()) or not same(model(x), plain):
        raise Wrong("45.4.changed")
    half = fresh(torch.bfloat16)
    if any(bias.dtype != torch.bfloat16 for bias in attempt(half)):
        raise Wrong("45.4.dtype")


@check_of("45.5", "A method of your own", minutes=25)
def my_method(attempt: Callable) -> None:
    """At least two parts, on a model of MiniLM's shape: identity when new, all of it learns, within budget."""
    import torch
    from transformers import BertConfig, BertModel

    from course_lib import tasks
    from course_lib.additive import METHODS, Method, attach

    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    base = BertModel(BertConfig(vocab_size=50, max_position_embeddings=32, **sizes)).eval()
    given: list = []

    class Attempt(Method):
        family, paper, formula, count = "additive", "-", "-", "-"

        def place(self, layout):
            answer = attempt(layout)
            given.extend([] if answer is None else answer)
            if not given:
                raise Wrong("45.5.none")
            for pair in given:
                if not (isinstance(pair, tuple) and len(pair) == 2 and hasattr(pair[0], "kind")):
                    raise Wrong("45.5.pairs", found=str(pair)[:60])
                if not isinstance(pair[1], torch.nn.Module):
                    raise Wrong("45.5.module", site=pair[0].key, found=type(pair[1]).__name__)
            return given

    METHODS.pop("Attempt")  # it is no method of the course
    tuned = attach(base, Attempt(), task=tasks.Classification(2))
    parts = {(site.kind, site.where) for site, _ in given}
    if len(parts) < 2:
        kind, where = next(iter(parts))
        raise Wrong("45.5.one_part", kind=kind, where=where or "the block")
    own = {id(p): p for _, module in given for p in module.parameters()}
    trained = sum(p.numel() for p in own.values())
    if trained > BUDGET:
        raise Wrong("45.5.budget", found=f"{trained:,}", right=f"{BUDGET:,}")
    if not trained:
        raise Wrong("45.5.nothing_trains")
    ids, rng = torch.randint(5, 50, (4, 12)), random.Random(0)
    labels = torch.tensor([rng.randint(0, 1) for _ in range(4)])
    tuned.train()
    with torch.no_grad():
        with tuned.disabled():
            plain = tuned(input_ids=ids, output_hidden_states=True).hidden_states
        states = tuned(input_ids=ids, output_hidden_states=True).hidden_states
    apart = max((a - b).abs().max().item() for a, b in zip(states, plain, strict=True))
    if not apart <= 1e-6:
        raise Wrong("45.5.not_identity", gap=f"{apart:.1e}")
    began = {key: parameter.detach().clone() for key, parameter in own.items()}
    optimizer = torch.optim.SGD(tuned.trainable_parameters(), lr=1.0)
    for _step in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(tuned(input_ids=ids).logits, labels).backward()
        optimizer.step()
    for site, module in given:
        for name, parameter in module.named_parameters():
            if torch.equal(parameter, began[id(parameter)]):
                raise Wrong("45.5.dead", site=site.key, name=name)
