"""The course's own GPT as it is committed: small, whole, and with the losses that its record states. Nothing trains."""

import json

import pytest
import torch

import course_lib as cl
from course_lib.bases import own_folder
from course_lib.experiments import chapter_32

FOLDER = own_folder("course-gpt")
ABOUT = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def base():
    return cl.load_base("course-gpt")


def test_its_files_are_those_of_the_record_and_small():
    found = {name: chapter_32.sha256((FOLDER / name).read_bytes()) for name in ABOUT["files"]}
    assert found == ABOUT["files"]
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(found)
    assert (FOLDER / "model.safetensors").stat().st_size < 8e6
    assert not {path.suffix for path in FOLDER.iterdir()} - {".json", ".safetensors", ".md"}


def test_it_was_trained_by_the_command_at_a_clean_commit():
    assert ABOUT["command"] == "python -m course_lib experiment 32-course-gpt"
    assert not ABOUT["commit"].endswith("+")
    assert cl.results("32-course-gpt").rows(model="course-gpt")[0]["measured"]["parameters"] == 2_222_208


def test_it_loads_frozen_and_writes(base):
    assert base.num_parameters() == 2_222_208
    assert len(base.tokenizer) == base.model.config.vocab_size == 2048
    assert not any(p.requires_grad for p in base.model.parameters())
    assert base.model.dtype == torch.float32
    ids = base.tokenizer("How are you", return_tensors="pt")
    assert base.model.generate(**ids, max_new_tokens=5, do_sample=False).shape == (1, ids["input_ids"].shape[1] + 5)


@pytest.mark.parametrize("kind", chapter_32.KINDS)
def test_the_stored_loss_is_found_again(base, kind):
    text = chapter_32.sample(chapter_32.documents("test")[kind])
    if chapter_32.sha256(text.encode()) != ABOUT["samples"][kind]["sha256"]:
        assert kind != "chat"  # chat is a pinned package; the others are this interpreter's own library
        pytest.skip("another version of Python has other texts")
    gpt = cl.language_models.from_transformers(base.model)
    bits = cl.language_models.bits_per_byte(gpt, text, tokenizer=base.tokenizer)
    assert bits == pytest.approx(ABOUT["samples"][kind]["bits_per_byte"], abs=2e-3)
    assert bits < 2.5


def test_an_addition_goes_on_it(base):
    tuned = cl.attach(base, cl.additive.ParallelAdapter(bottleneck=4), task=cl.tasks.NextToken())
    ids = base.tokenizer("Hello there", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(tuned(**ids).logits, base.model(**ids).logits)
    assert tuned.budget().trained > 0
