"""AdapterFusion against its formula, and what it says of folders that cannot be fused."""

import shutil

import pytest
import torch
from conftest import first, saved_adapters, stir

import course_lib as cl
from course_lib.additive import AdapterFusion, BottleneckAdapter, ParallelAdapter, PromptTuning, Sum, attach, load


@pytest.fixture
def folders(models, tmp_path):
    return saved_adapters(models["bert"], tmp_path)


def call(tuned, ids):
    return first(tuned(input_ids=ids, attention_mask=torch.ones_like(ids)))


def test_fusion_is_the_formula(models, folders):
    """sum_n softmax_n(Q h . K a_n) V a_n, one position and one adapter at a time."""
    tuned = stir(attach(models["bert"], AdapterFusion(folders)))
    for block in range(3):
        fusion, h = tuned.additions["default"].parts[f"blocks/{block}/stream"], torch.randn(2, 5, 32)
        adapters = [load(models["bert"], f).additions["default"].parts[f"blocks/{block}/stream"] for f in folders]
        a = [adapter(h) for adapter in adapters]
        q = h @ fusion.query.weight.T + fusion.query.bias
        scores = [(q * (a_n @ fusion.key.weight.T + fusion.key.bias)).sum(-1, keepdim=True) for a_n in a]
        weights = torch.cat(scores, -1).softmax(-1)
        assert weights.std() > 0.01
        by_hand = sum(weights[..., n : n + 1] * (a_n @ fusion.value.weight.T) for n, a_n in enumerate(a))
        assert torch.allclose(fusion(h), by_hand, atol=1e-5)


def test_fusion_begins_as_a_mixture_of_the_adapters(models, folders):
    """With V = I and Q h . K a_n small, each adapter has about one part in N."""
    fusion = attach(models["bert"], AdapterFusion(folders)).additions["default"].parts["blocks/1/stream"]
    assert torch.allclose(fusion.value.weight, torch.eye(32), atol=1e-5)
    h = torch.randn(2, 5, 32)
    mean = torch.stack([source(h) for source in fusion.sources]).mean(0)
    assert (fusion(h) - mean).abs().max() < 0.1 * mean.abs().max()


def test_only_q_k_and_v_train_and_all_is_stored(models, ids, folders):
    tuned = attach(models["bert"], AdapterFusion(folders), task=cl.tasks.Classification(3)).train()
    before = {name: buffer.clone() for name, buffer in tuned.additions.named_buffers()}
    assert {name.split(".")[-2] for name in tuned.trained_state()} == {"query", "key", "value", "head"}
    d, layers, head = 32, 3, 3 * 33
    adapters = sum(load(models["bert"], folder).budget().trained for folder in folders)
    budget = tuned.budget()
    assert budget.trained == layers * (3 * d * d + 2 * d) + head
    assert budget.stored == budget.trained + adapters
    optimizer = torch.optim.AdamW(tuned.trainable_parameters(), lr=0.1)
    call(tuned, ids).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(buffer, before[name]) for name, buffer in tuned.additions.named_buffers())


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: Sum(PromptTuning(2), m)], ids=["alone", "in a sum"])
def test_a_saved_fusion_needs_no_other_folder(models, ids, folders, tmp_path, wrap):
    tuned = stir(attach(models["bert"], wrap(AdapterFusion(folders))))
    answer = call(tuned, ids)
    tuned.save(tmp_path / "fused")
    for folder in folders:
        shutil.rmtree(folder)
    again = load(models["bert"], tmp_path / "fused")
    assert (call(again, ids) - answer).abs().max() <= 1e-6
    elsewhere = attach(models["bert"], again.additions["default"].method)  # the method holds its adapters' numbers
    elsewhere.additions.load_state_dict(again.additions.state_dict())
    assert (call(elsewhere, ids) - answer).abs().max() <= 1e-6
    for name, buffer in attach(models["bert"], again.additions["default"].method).additions.named_buffers():
        assert torch.equal(buffer, again.additions.get_buffer(name))


def test_adapters_with_heads_of_their_own_are_fused(models, ids, tmp_path):
    for name, labels in (("a", 2), ("b", 4)):
        stir(attach(models["bert"], BottleneckAdapter(3), task=cl.tasks.Classification(labels))).save(tmp_path / name)
    tuned = attach(models["bert"], AdapterFusion([tmp_path / "a", tmp_path / "b"]), task=cl.tasks.Classification(3))
    assert call(tuned, ids).shape == (3, 3)


def test_what_cannot_be_fused_is_said_in_a_sentence(models, folders, tmp_path):
    bert = models["bert"]
    saved = {
        "houlsby": BottleneckAdapter(4, placement="houlsby"), "dropped": BottleneckAdapter(4, skip_layers=1),
        "parallel": ParallelAdapter(4),
    }
    for name, method in saved.items():
        attach(bert, method).save(tmp_path / name)
    wrong = (
        (["a"], "at least two saved adapters"),
        ("abc", "at least two saved adapters; got 'abc'"),
        ([folders[0], tmp_path / "nowhere"], "no saved addition"),
        ([folders[0], tmp_path / "parallel"], "fuses saved BottleneckAdapters; .*parallel holds ParallelAdapter"),
        ([folders[0], tmp_path / "houlsby"], "placement='houlsby'"),
        ([folders[0], tmp_path / "dropped"], "skip_layers=0 and .*dropped 1"),
    )
    for sources, message in wrong:
        with pytest.raises(cl.CourseError, match=message):
            AdapterFusion(sources)
    with pytest.raises(cl.CourseError, match="another base: model_type bert there and gpt2 here"):
        attach(models["gpt2"], AdapterFusion(folders))
    with pytest.raises(cl.CourseError, match="other weights"):
        attach(cl.bases.Base("tiny", bert, None).randomised(3), AdapterFusion(folders))


def test_an_incomplete_fusion_names_what_is_missing(models, folders, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    attach(models["bert"], AdapterFusion(folders)).save(tmp_path / "fused")
    weights = tmp_path / "fused" / "adapter_model.safetensors"
    with safe_open(weights, "pt") as file:
        metadata = file.metadata()
    state = load_file(weights)
    for key in ("blocks.1.stream.sources.0.up.bias", "blocks.1.stream.query.bias"):
        save_file({name: t for name, t in state.items() if name != key}, weights, metadata=metadata)
        with pytest.raises(cl.CourseError, match="incomplete"):
            load(models["bert"], tmp_path / "fused")
