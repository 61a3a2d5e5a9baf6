"""Every number that a notebook or page quotes from data/results is what the stored rows give."""

import json

import pytest

from course_lib.experiments import claims_in, store
from course_lib.runtime import CourseError, root

PAGES = sorted([*(root() / "notebooks").glob("*.ipynb"), *(root() / "docs").glob("*.md"), root() / "README.md"])


def texts(path):
    if path.suffix == ".md":
        return [path.read_text(encoding="utf-8")]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_what_the_text_says_is_what_was_measured(path):
    for text in texts(path):
        for claim in claims_in(text):
            assert claim.holds(), f"{path.name} says {claim.said}, but {claim.terms} is {claim.expected()}"


@pytest.fixture
def stored(tmp_path, monkeypatch):
    rows = [
        {
            "point": {"method": method, "rows": 256, "rate": 0.008, "seed": seed},
            "measured": {"accuracy": value, "before": value - 0.1 * (1 + seed), "parameters": 1200.0},
        }
        for method, values in {"probe": (0.60, 0.62, 0.64), "adapter": (0.70, 0.74, 0.75)}.items()
        for seed, value in enumerate(values)
    ]
    content = {"name": "made-up", "about": "-", "provenance": {"command": "-"}, "rows": rows}
    monkeypatch.setattr(store, "path_of", lambda name: tmp_path / f"{name}.json")
    (tmp_path / "made-up.json").write_text(json.dumps(content))


GOOD = [
    "it reaches 0.730<!--claim made-up accuracy method=adapter,rows=256 .3f-->",
    "it reaches 73 %<!--claim made-up accuracy method=adapter .0% -->",
    "[0.570, 0.670]<!--claim made-up accuracy method=probe .3f interval-->",
    "better by 0.110<!--claim made-up accuracy method=adapter - method=probe .3f-->",
    "a gain of +0.200<!--claim made-up accuracy-before method=probe +.3f-->",
    "1,200<!--claim made-up parameters method=probe ,.0f-->",
    "0.620<!--claim made-up accuracy method=probe,rate=0.008 .3f-->",
]


@pytest.mark.parametrize("text", GOOD)
def test_true_claims_hold(stored, text):
    (claim,) = claims_in(text)
    assert claim.holds(), claim.expected()


@pytest.mark.parametrize(
    ("right", "wrong"), [("0.730", "0.731"), ("73 %", "74 %"), ("0.570", "0.571"), ("0.110", "0.111")]
)
def test_wrong_numbers_are_found(stored, right, wrong):
    (text,) = (text for text in GOOD if right in text)
    (claim,) = claims_in(text.replace(right, wrong, 1))
    assert not claim.holds()


@pytest.mark.parametrize(("terms", "sentence"), [
    ("made-up accuracy method=lora", "no row with"),
    ("made-up f1 method=probe", "is none of these"),
    ("made-up accuracy rows=256", "apart"),
    ("made-up accuracy probe", "KEY=VALUE"),
    ("nowhere accuracy method=probe", "no stored results"),
])  # fmt: skip
def test_unknown_claims_are_errors(stored, terms, sentence):
    (claim,) = claims_in(f"0.5<!--claim {terms}-->")
    with pytest.raises(CourseError, match=sentence):
        claim.holds()


def test_a_claim_without_its_number_is_an_error(stored):
    with pytest.raises(CourseError, match="behind no number"):
        list(claims_in("much better<!--claim made-up accuracy method=probe-->"))
