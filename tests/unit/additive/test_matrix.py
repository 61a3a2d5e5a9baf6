"""Every method on every architecture under every task that is defined there: it learns, and its files bring it back."""

import pytest
import torch
from conftest import VOCABULARY, fused, stir, tiny
from test_contract import CASES

import course_lib as cl
from course_lib.additive import LinearProbe, attach, load
from course_lib.tasks import Answer, Classification, Generation, SequenceToSequence, Tagging

ENCODERS, DECODERS = ("bert", "roberta"), ("llama", "gpt2", "qwen2")
TASKS = {
    Classification(3): (*ENCODERS, *DECODERS, "t5"),
    Tagging(("O", "B", "I")): (*ENCODERS, *DECODERS, "t5"),
    Answer(): DECODERS,
    Generation(): DECODERS,
    SequenceToSequence(): ("t5",),
}
TWINS = {"roberta": "bert", "qwen2": "llama"}  # the same row of the table of architectures
METHODS = {name: (method, families) for name, (method, families, _) in CASES.items() if not name.startswith("fusion")}
METHODS["fusion"] = (None, ("bert", "llama", "gpt2", "t5"))  # holds adapters of its base, so there is one for each
METHODS["probe"] = (LinearProbe(), ("bert", "llama", "gpt2", "t5"))


def is_defined(name, family, task):
    families = METHODS[name][1]
    if family not in families and TWINS.get(family) not in families:
        return False
    if name == "vocabulary-bias":  # without a head there is nothing to probe, under one nothing to bias
        return not hasattr(task, "labels") and not isinstance(task, Tagging)
    return name != "probe" or isinstance(task, Classification | Tagging)


GRID = [
    pytest.param(name, family, task, id=f"{name}-{type(task).__name__}-{family}")
    for name in METHODS for task, families in TASKS.items() for family in families if is_defined(name, family, task)
]


class Tokens:
    """What tasks with encoded rows, and prompts that begin as common words, ask of a tokenizer."""

    pad_token_id, eos_token_id, all_special_ids = 0, 1, (0, 1, 2)

    def __init__(self, side):
        self.padding_side = side

    def get_vocab(self):
        return {}


@pytest.fixture(scope="module")
def bases():
    return {
        family: cl.bases.Base(family, tiny(family), Tokens("left" if family in DECODERS else "right"))
        for family in (*ENCODERS, *DECODERS, "t5")
    }


def features(task):
    """Three encoded rows of different length, each ending with the end token."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for length in (7, 4, 6):
        ids = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
        row = {"input_ids": [*ids, 1], "labels": length % 3}
        if isinstance(task, Tagging):
            row["labels"] = [-100, *(i % 3 for i in ids[1:]), -100]
        elif isinstance(task, SequenceToSequence):
            row["labels"] = [*ids[: length - 2], 1]
        elif isinstance(task, Generation):
            row["labels"] = [-100, -100, *ids[2:], 1]
        rows.append(row)
    return rows


@pytest.mark.parametrize(("name", "family", "task"), GRID)
def test_a_method_learns_a_task_on_an_architecture(bases, name, family, task, tmp_path):
    base = bases[family]
    method = fused(family) if name == "fusion" else METHODS[name][0]
    tuned = stir(attach(base, method, task=task), 0.1).train()
    batch = task.collate(features(task), base.tokenizer)
    output = tuned(**cl.tasks.inputs_of(batch))
    loss, units = task.loss(output, batch)
    assert units == {"Tagging": 14, "Generation": 14, "SequenceToSequence": 14}.get(type(task).__name__, 3)
    assert list(map(type, task.predictions(output, batch))) == list(map(type, task.references(batch)))
    (loss / units).backward()
    gradients = {name: p.grad for name, p in tuned.additions.named_parameters() if p.requires_grad}
    assert not [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()]
    assert sum(gradient.abs().sum() for gradient in gradients.values()) > 0
    assert all(parameter.grad is None for parameter in tuned.model.parameters())
    tuned.eval().save(tmp_path)
    with torch.no_grad():
        said = tuned(**cl.tasks.inputs_of(batch)).logits
        again = load(base, tmp_path)(**cl.tasks.inputs_of(batch)).logits
        with tuned.disabled():
            plain = tuned(**cl.tasks.inputs_of(batch)).logits
    assert (again - said).abs().max() <= 1e-6 * (1 + said.abs().max())
    assert (plain - said).abs().max() > 1e-4


@pytest.mark.parametrize("name", METHODS)
def test_every_method_stands_on_some_model_of_each_kind(name):
    """A line in the table that is left out by accident would be tested nowhere."""
    tested = {param.values[1] for param in GRID if param.values[0] == name}
    assert tested & {"gpt2", "llama"}
    assert tested & {"bert"} or name == "vocabulary-bias"
    refused = {"llama-adapter", "unipelt", "bitfit"}
    assert ("t5" in tested) == (name not in refused)
