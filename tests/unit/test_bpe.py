"""Byte-pair encoding: the same merges and ids as the `tokenizers` library, and no text is ever lost."""

import json
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from course_lib import load_data
from course_lib.language_models.bpe import BPE, BYTES, VISIBLE, merge, pieces
from course_lib.runtime import CourseError

TEXTS = {
    "english": lambda: load_data("ui-en-zh")["train"]["source"][:400],
    "chinese": lambda: load_data("ui-en-zh")["train"]["target"][:400],
    "runs": lambda: ["aaaa aaa aa aaaaa bbbb aaaaaa", "aaab baaa\n\n\n\n    x\n        y", "!!!! ....... !!!!!!!"],
}
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(scope="module", params=TEXTS)
def trained(request):
    texts = TEXTS[request.param]()
    bpe = BPE.train(texts, 300)
    return texts, bpe, bpe.fast()


def by_the_library(texts, merges):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=256 + merges, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def test_training_finds_the_librarys_merges_and_ids(trained):
    texts, ours, _ = trained
    theirs = by_the_library(texts, 300)
    vocabulary = theirs.get_vocab()
    pairs = [(vocabulary[left], vocabulary[right]) for left, right in json.loads(theirs.to_str())["model"]["merges"]]
    assert list(ours.merges) == pairs
    shown = ["".join(VISIBLE[byte] for byte in token) for token in ours.tokens]
    assert {token: i for i, token in enumerate(shown)} == vocabulary


def test_encoding_gives_the_librarys_ids(trained):
    texts, ours, fast = trained
    for text in [*texts[:100], "Ünïcode 2,048 \t 中文 😀", "aaaaaaa", ""]:
        assert ours.encode(text) == fast.encode(text).ids


@settings(max_examples=150, deadline=None)
@given(text=ANY)
def test_no_text_is_lost_and_the_fast_one_agrees(trained, text):
    _, ours, fast = trained
    ids = ours.encode(text)
    assert ours.decode(ids) == text
    assert fast.encode(text).ids == ids
    assert b"".join(pieces(text)) == text.encode()


def test_the_bytes_stand_in_the_librarys_order():
    assert sorted(BYTES) == [bytes([i]) for i in range(256)]
    assert sorted(VISIBLE.values()) == sorted(pre_tokenizers.ByteLevel.alphabet())


@pytest.mark.parametrize(
    ("ids", "merged"),
    [([1, 1, 1], [9, 1]), ([1, 1, 1, 1], [9, 9]), ([1], [1]), ([], []), ([2, 1, 1], [2, 9]), ([1, 2, 1], [1, 2, 1])],
)
def test_merging_goes_from_left_to_right_without_overlap(ids, merged):
    before = list(ids)
    assert merge(ids, (1, 1), 9) == merged
    assert ids == before


def test_the_commonest_pair_comes_first_and_counts_agree_with_a_fresh_count():
    texts = ["low lower lowest newest widest newest"]
    bpe = BPE.train(texts, 12)
    words = Counter(pieces(texts[0]))
    ids = {word: [BYTES.index(bytes([byte])) for byte in word] for word in words}
    for rank, learnt in enumerate(bpe.merges):
        counts = Counter()
        for word, often in words.items():
            for pair in pairwise(ids[word]):
                counts[pair] += often
        assert learnt == max(counts, key=lambda pair: (counts[pair], -pair[0], -pair[1]))
        ids = {word: merge(parts, learnt, 256 + rank) for word, parts in ids.items()}


def test_fewer_merges_are_a_prefix_and_training_ends_when_nothing_is_left():
    bpe = BPE.train(["abab"], 100)
    assert [bpe.tokens[256 + rank] for rank in range(len(bpe.merges))] == [b"ab", b"abab"]
    assert bpe.first(1).tokens[256:] == [b"ab"]
    assert len(bpe.first(0).encode("abab")) == 4


def test_a_half_character_is_marked():
    assert BPE(()).decode(BPE(()).encode("好")[:2]) == "\ufffd"


def test_one_text_instead_of_a_list_is_a_sentence():
    with pytest.raises(CourseError, match="list of texts"):
        BPE.train("one text", 5)
