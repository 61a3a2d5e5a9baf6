"""Our methods against the `adapters` library: its weights in, its answers and its gradients out.

tests/golden/make_adapters_golden.py made the tensors, once, in an environment that has the library.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import first
from safetensors import safe_open
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from course_lib.additive import (
    IA3,
    AdapterFusion,
    BottleneckAdapter,
    Compacter,
    LoReFT,
    MixAndMatch,
    ParallelAdapter,
    PrefixTuning,
    Sum,
    UniPELT,
    attach,
)

FOLDER = Path(__file__).parents[2] / "golden"
MODELS = {
    "bert": (BertConfig, BertModel), "llama": (LlamaConfig, LlamaForCausalLM), "gpt2": (GPT2Config, GPT2LMHeadModel),
}
ALL = tuple(MODELS)
CASES = {  # name: (our method, the families on which the library computes the same)
    "houlsby": (BottleneckAdapter(4, placement="houlsby", compat="adapters"), ALL),
    "pfeiffer": (BottleneckAdapter(4), ALL),
    "parallel": (ParallelAdapter(4, scale=2.5), ("bert",)),
    "compacter": (Compacter(4, n=2), ALL),
    "loreft": (LoReFT(2, first=2, last=1), ALL),
    "loreft-untied": (Sum(LoReFT(2, first=2, last=0), LoReFT(2, first=0, last=1)), ALL),
    "prefix": (PrefixTuning(3, hidden=5, compat="adapters"), ALL),
    "ia3": (IA3(compat="adapters"), ("bert",)),
    "mam": (MixAndMatch(3, 5, 4, 4.0, compat="adapters"), ("bert",)),
    "unipelt": (UniPELT(3, 5, 4, 2, compat="adapters"), ("bert",)),
}
GRID = [(case, family) for case, (_, families) in CASES.items() for family in families]

# From the library's names to ours, read from top to bottom.
RULES = [
    (r"^(?:model\.|transformer\.)?(?:encoder\.layer|layers|h)\.(\d+)\.", r"blocks.\1."),
    (r"blocks\.\d+\..*self_prefix\.wte\.weight", "attend.start"),
    (r"blocks\.\d+\..*self_prefix\.control_trans", "attend.mlp"),
    (r"blocks\.(\d+)\..*prefix_gates\.\w+", r"gated.attend.gates.\1.linear"),
    (r"blocks\.(\d+)\.reft_layer\.refts\.loreft-untied\.units\.0\.", r"part1.blocks.\1.edit."),
    (r"blocks\.(\d+)\.reft_layer\.refts\.loreft-untied\.units\.1\.", r"part2.blocks.\1.edit."),
    (r"reft_layer\.refts\.loreft\.units\.0\.", "edit."),
    (r"edit\.learned_source", "edit.linear"),
    (r"edit\.projection\.weight", "edit.rows"),
    (r"attention(?:\.output|_adapters)\.adapters\.\w+", "attention.after"),
    (r"output(?:_adapters)?\.adapters\.", "ffn."),
    (r"output(?:_adapters)?\.adapter_fusion_layer\.a,b,c", "stream"),
    (r"adapter_down\.0", "down"),
    (r"adapter_up", "up"),
    (r"W_left", "t"),
    (r"W_right", "s"),
    (r"(down|up)\.b$", r"\1.bias"),
    (r"^.*phm_rule", "blocks.0.attention.after.down.A"),
    (r"attention\.self\.(query|value)\.loras\.unipelt\.lora_(\w)", r"\1.beside.inner.\2"),
    (r"attention\.self\.(query|value)\.loras\.unipelt\.gate", r"\1.beside.gate.linear"),
    (r"attention\.self\.(key|value)\.loras\.ia3\.lora_B", r"\1.scale.l"),
    (r"intermediate\.dense\.loras\.ia3\.lora_B", "ffn_in.scale.l"),
    (r"ffn\.(houlsby|compacter)", "ffn.after"),
    (r"ffn\.pfeiffer", "stream"),
    (r"ffn\.parallel", "ffn.beside"),
    (r"ffn\.mam", "part2.ffn.beside"),
    (r"(blocks\.\d+)\.part2", r"part2.\1"),
    (r"ffn\.unipelt\.gate", "stream.gate.linear"),
    (r"ffn\.unipelt", "stream.inner"),
]


def our_name(theirs, case):
    for pattern, ours in RULES:
        theirs = re.sub(pattern, ours, theirs)
    if theirs.startswith("attend."):
        theirs = {"mam": "part1.", "unipelt": "gated."}.get(case, "") + theirs
    return theirs


def ours_from(tensors, case, kind):
    """The library's weights (or gradients) of one case under our names and in our shapes."""
    found = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{case}/{kind}/"):
            name = our_name(key.split("/", 2)[2], case)
            leaf = name.rsplit(".", 1)[1]
            # they compute x W and hold A^T, t as columns and s as rows; (IA)^3 is a matrix of one column
            tensor = tensor.transpose(1, 2) if leaf == "A" and tensor.dim() == 3 else tensor
            found[name] = tensor.flatten(-2) if leaf in ("t", "s", "l") else tensor
    return found


def named(addition):
    """(name in files, tensor) of all that an addition trains or holds; what several parts share, once."""
    seen = set()
    for site, module in addition.at(*{site.kind for site in addition.sites}):
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{site.key}.{name}", tensor




def read(family):
    """(the base with the golden weights, the tensors of all cases)"""
    with safe_open(FOLDER / f"adapters_{family}.safetensors", "pt") as file:
        sizes = json.loads(file.metadata()["sizes"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a file, not a dict)
    config, model = MODELS[family]
    base = model(config(**sizes)).eval()
    weights = {key.removeprefix("base/"): t for key, t in tensors.items() if key.startswith("base/")}
    missing, unexpected = base.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}  # tied
    return base, tensors


def put(addition, state):
    own = dict(named(addition))
    assert own.keys() == state.keys()
    with torch.no_grad():
        for name, tensor in own.items():
            assert tensor.shape == state[name].shape, name
            tensor.copy_(state[name])


def agree(tuned, tensors, case):
    """Answers at the text's positions, and gradients, at 1e-5."""
    answer = first(tuned(input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"]))
    text, expected = tensors["attention_mask"].bool(), tensors[f"{case}/answer"]
    assert (answer - expected)[text].abs().max() <= 1e-5 * (1 + expected.abs().max())
    (answer * tensors["probe"]).sum().backward()
    gradients = ours_from(tensors, case, "gradient")
    trained = {name: t for name, t in named(tuned.additions["default"]) if t.requires_grad}
    assert trained
    for name, tensor in trained.items():
        theirs = gradients[name]
        assert (tensor.grad - theirs).abs().max() <= 1e-5 * (1 + theirs.abs().max()), name
        assert theirs.abs().max() > 1e-3 or name.endswith("key.bias")  # (softmax does not see a constant)


@pytest.mark.parametrize(("case", "family"), GRID)
def test_values_and_gradients_are_those_of_adapters(case, family):
    base, tensors = read(family)
    tuned = attach(base, CASES[case][0])
    put(tuned.additions["default"], ours_from(tensors, case, "weight"))
    for part in tuned.additions["default"].parts.values():
        if case.startswith("loreft"):  # the gradient at R itself, however a library keeps it orthonormal
            assert torch.allclose(part.R(), part.rows, atol=1e-5)
            part.R = lambda part=part: part.rows
    agree(tuned, tensors, case)


@pytest.mark.parametrize("family", ALL)
def test_fusion_is_that_of_adapters(family, tmp_path):
    base, tensors = read(family)
    weights = ours_from(tensors, "fusion", "weight")
    for name, bottleneck in (("a", 4), ("b", 2), ("c", 4)):
        one = attach(base, BottleneckAdapter(bottleneck))
        own = {key.replace(f"ffn.{name}", "stream"): t for key, t in weights.items() if f"ffn.{name}" in key}
        put(one.additions["default"], own)
        one.save(tmp_path / name)
    tuned = attach(base, AdapterFusion([tmp_path / name for name in "abc"]))
    adapters = {key: t for key, t in weights.items() if ".ffn." in key}
    places = {name: f"stream.sources.{n}" for n, name in enumerate("abc")}
    adapters = {re.sub(r"ffn\.(\w)", lambda found: places[found[1]], key): t for key, t in adapters.items()}
    put(tuned.additions["default"], {k: t for k, t in weights.items() if ".ffn." not in k} | adapters)
    agree(tuned, tensors, "fusion")


def test_the_golden_files_are_small():
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) < 1_000_000
