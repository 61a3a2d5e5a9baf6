"""Where peft's defaults differ from the papers, `compat=` gives theirs."""

import copy

import peft
import pytest
import torch
from conftest import first, stir, tiny

import course_lib as cl
from course_lib.additive import IA3, BottleneckAdapter, PrefixTuning, attach, load

DIFFERING = {"gpt2": {"query"}, "qwen2": {"query"}, "bert": {"output"}, "roberta": {"output"}}


def answer(model, ids):
    return first(model(input_ids=ids, attention_mask=torch.ones_like(ids)))


def roles(tuned):
    return {site.where for site in tuned.additions["default"].sites}


@pytest.mark.parametrize("family", [*DIFFERING, "llama"])
def test_ia3_with_pefts_default_targets(ids, family, tmp_path):
    """peft names the targets by itself; it scales what the paper leaves alone, on all families but Llama."""
    base = tiny(family)
    theirs = peft.get_peft_model(copy.deepcopy(base), peft.IA3Config()).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(base, tmp_path / "theirs", trainable=True)
    assert ours.additions["default"].method.compat == (None if family == "llama" else "peft")
    assert roles(attach(base, IA3(compat="peft"))) - roles(attach(base, IA3())) == DIFFERING.get(family, set())
    a, b = answer(theirs, ids), answer(ours, ids)
    assert (a - b).abs().max() <= 1e-5 * (1 + a.abs().max())
    a.square().mean().backward()
    b.square().mean().backward()
    expected = {n.replace(".default", ""): p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    addition = ours.additions["default"]
    own = {f"{site.key}.l": module.l.grad for site, module in addition.at("scale", "scale_input")}
    found = addition.method.to_peft(ours.layout, own)[1]
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        assert (found[key].reshape(gradient.shape) - gradient).abs().max() <= 1e-5 * (1 + gradient.abs().max()), key


@pytest.mark.parametrize("family", DIFFERING)
def test_ia3_is_the_papers_by_default_and_both_are_opened_by_peft(ids, family, tmp_path):
    base = tiny(family)
    for compat in (None, "peft"):
        tuned = stir(attach(base, IA3(compat=compat)))
        tuned.save(tmp_path / str(compat))
        theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / str(compat)).eval()
        a = answer(tuned, ids)
        assert (answer(theirs, ids) - a).abs().max() <= 1e-5 * (1 + a.abs().max())
        again = load(base, tmp_path / str(compat))
        assert again.additions["default"].method == IA3(compat=compat)
        assert (answer(again, ids) - a).abs().max() <= 1e-6 * (1 + a.abs().max())
        merged = tuned.merge()
        assert (answer(merged, ids) - a).abs().max() <= 1e-5 * (1 + a.abs().max())


def test_what_the_adapters_library_deviates_in_is_not_written_as_pefts(models, tmp_path):
    for method in (IA3(compat="adapters"), PrefixTuning(3, None, compat="adapters")):
        tuned = attach(models["bert"], method)
        tuned.save(tmp_path)
        with pytest.raises((KeyError, ValueError, TypeError), match="COURSE_"):
            peft.PeftModel.from_pretrained(copy.deepcopy(models["bert"]), tmp_path)
        assert load(models["bert"], tmp_path).additions["default"].method == method


def test_an_unknown_compat_is_refused():
    for method in (IA3, BottleneckAdapter, PrefixTuning):
        with pytest.raises(cl.CourseError, match="compat='hub', which is not known"):
            method(compat="hub")
