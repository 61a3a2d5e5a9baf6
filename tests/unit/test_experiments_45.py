"""The experiments of chapter 45: equal counts, identity at the start, and what each axis changes."""

import pytest
import torch

import course_lib as cl
from course_lib.additive import METHODS
from course_lib.experiments import chapter_45
from course_lib.experiments.registry import named


@pytest.fixture(scope="module")
def base():
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
    return BertModel(BertConfig(vocab_size=40, max_position_embeddings=16, **sizes)).eval()


@pytest.fixture(autouse=True)
def no_trace():
    yield
    METHODS.pop("Design", None)
    chapter_45.design.cache_clear()


@pytest.mark.parametrize("point", chapter_45.DESIGNS[:-1], ids=str)
def test_every_design_has_equally_many_numbers_and_begins_at_identity(base, point):
    ids = torch.randint(3, 40, (2, 7), generator=torch.Generator().manual_seed(0))
    tuned = cl.attach(base, chapter_45.method_of(**point))
    d, r = 24, chapter_45.BOTTLENECK
    assert tuned.budget().trained == chapter_45.TOP * (2 * d * r + d + r)
    with torch.no_grad():
        assert torch.equal(tuned(input_ids=ids).last_hidden_state, base(input_ids=ids).last_hidden_state)
    assert tuned.lowest_block() == 1  # of three: the lowest stays as it is, and can be cached


def test_the_axes_are_different_functions(base):
    ids, said = torch.randint(3, 40, (2, 7), generator=torch.Generator().manual_seed(0)), []
    for point in chapter_45.DESIGNS[:-1]:
        torch.manual_seed(0)
        tuned = cl.attach(base, chapter_45.method_of(**point))
        with torch.no_grad():
            for parameter in tuned.additions.parameters():
                parameter.normal_(std=0.3)
            said.append(tuned(input_ids=ids).last_hidden_state)
    apart = torch.tensor([[(a - b).abs().max() for a in said] for b in said])
    assert (apart + torch.eye(len(said)) > 1e-3).all()


def test_rates_are_chosen_on_validation_rows_and_seeds_are_others():
    sweep, final = named("45-learning-rates").grid, named("45-design-space").grid
    assert {point["seed"] for point in sweep}.isdisjoint({point["seed"] for point in final})
    assert len(final) == len(chapter_45.DESIGNS) * 5
    assert all("learning_rate" in point for point in sweep)
