"""The sentences of ours: the notation is read right, the layers agree, and no name is in two splits."""

import random

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from course_lib.corpora import load_data, roles

LINE = "[agent (PER Mara Lind)] , who works for (ORG Lind & Sons | 1 works_for *) , [verb sold] [patient her boat] ."


@pytest.fixture(scope="module")
def sentences():
    return load_data("roles")


def test_an_annotated_line_by_hand():
    row = roles.parse(LINE)
    assert row["text"] == "Mara Lind , who works for Lind & Sons , sold her boat ."
    assert row["tokens"] == row["text"].split()
    assert " ".join(row["entities"]) == "B-PER I-PER O O O O B-ORG I-ORG I-ORG O O O O O"
    assert " ".join(row["roles"]) == "B-agent I-agent O O O O O O O O B-verb B-patient I-patient O"
    assert row["relations"] == ["0 works_for 1"]


def test_relations_count_back_and_may_point_forward():
    line = "(PER Ada Lee) saw (PER Bo) and (PER Cy | * child_of 2 ; 1 child_of *)"
    assert roles.parse(line)["relations"] == ["2 child_of 0", "1 child_of 2"]
    assert roles.parse("[patient the house of (PER Ada Lee)]")["entities"][-2:] == ["B-PER", "I-PER"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[agent Mara", "not closed"), ("Mara] sold", "too many"), ("[hero Mara]", "unknown name: hero"),
        ("(GOD Mara)", "unknown name: GOD"), ("(PER Mara | 1 loves *)", "unknown relation: loves"),
    ],
)
def test_a_slip_in_the_file_is_found(line, said):
    with pytest.raises(ValueError, match=said):
        roles.parse(line)


def test_parts_and_values_are_filled_in_and_no_value_twice():
    lists = {"person": ["Ada", "Bo"]}
    parts = {"who": ["[ROLE (PER {person})]"], "when": ["-"]}
    line = roles.expand("<who agent> [verb saw] <who patient> , <when> .", lists, parts, random.Random(1))
    assert line in {f"[agent (PER {a})] [verb saw] [patient (PER {b})] ." for a, b in (("Ada", "Bo"), ("Bo", "Ada"))}


def test_every_row_is_whole(sentences):
    assert len(sentences["test"]) == 60
    for rows in sentences.values():
        for row in rows:
            assert len(row["tokens"]) == len(row["entities"]) == len(row["roles"])
            assert row["roles"].count("B-verb") == 1
            kinds = [kind for kind, _first, _last in get_entities(row["entities"])]
            for relation in row["relations"]:
                head, name, tail = relation.split()
                wanted = {"works_for": "PER ORG", "founded": "PER ORG", "lives_in": "PER LOC",
                          "located_in": "ORG LOC", "child_of": "PER PER"}[name]
                assert f"{kinds[int(head)]} {kinds[int(tail)]}" == wanted, row["text"]


def test_names_of_one_split_are_in_no_other(sentences):
    names = {}
    for split, rows in sentences.items():
        names[split] = {
            " ".join(row["tokens"][first : last + 1])
            for row in rows for _kind, first, last in get_entities(row["entities"])
        }
    assert not names["train"] & names["validation"]
    assert not names["train"] & names["test"]
    assert not names["validation"] & names["test"]
    assert not set(sentences["train"]["template"]) & set(sentences["validation"]["template"])
