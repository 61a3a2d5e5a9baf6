"""Edit distances of one text to many equal those of the textbook's table, pair by pair."""

import random

from course_lib.evaluation import edit_distances


def textbook(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def test_the_known_example():
    assert edit_distances("kitten", ["sitting", "kitten", "", "mitten"]).tolist() == [3, 0, 6, 1]


def test_random_texts_agree_with_the_textbook():
    rng = random.Random(0)
    for _ in range(60):
        text, *others = ("".join(rng.choices("abcd", k=rng.randint(0, 9))) for _ in range(6))
        assert edit_distances(text, others).tolist() == [textbook(text, other) for other in others]


def test_lists_of_tokens_and_nothing_to_compare():
    assert edit_distances(["K", "AE", "T"], [["K", "AH", "T", "S"], []]).tolist() == [2, 3]
    assert edit_distances("abc", []).tolist() == []
