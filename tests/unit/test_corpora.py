"""The corpora: counts as the cards say, splits that do not leak, caching, options, the Hub, errors."""

import re
from collections import Counter

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib import corpora
from course_lib.corpora import (
    audit,
    base,
    card,
    cards,
    intents,
    load_data,
    names,
    news,
    normalise,
    reading,
    split_of,
)
from course_lib.corpora.entities_zh import well_formed
from course_lib.runtime import CourseError

CORE = [name for name in names() if not name.startswith("home-")]
SLOW = {"news", "chat", "python-docs", "python-code", "entities-zh"}  # 4 to 8 s each when they are first read
QUICK = [name for name in CORE if name not in SLOW]
CLASSIFICATION = ["movie-reviews", "product-reviews", "tweets", "editorials", "shop-reviews-zh", "sms-spam"]


@pytest.fixture(scope="module")
def loaded():
    kept = {}

    def get(name):
        return kept.setdefault(name, load_data(name))

    return get


# --- the cards and the data say the same -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_every_corpus_has_a_complete_card(name):
    text = card(name)
    for item in ("Origin", "Rows", "Columns", "Licence", "Flaws", "Used in"):
        assert re.search(rf"^- {item}: \S", text, re.MULTILINE), f"the card of {name} lacks '{item}'"
    assert ("Options" in text) == bool(corpora.CORPORA[name].options)
    package = corpora.CORPORA[name].package
    if package:
        assert f"{package} {corpora.CORPORA[name].version()}" in text


@pytest.mark.parametrize("name", QUICK)
def test_rows_and_columns_are_those_of_the_card(name, loaded):
    text, data = card(name), loaded(name)
    assert cards.rows_line(name) in text, f"measure again: cards.refresh('{name}')"
    columns = re.search(r"^- Columns: (.*)$", text, re.MULTILINE).group(1)
    for split in data.values():
        for column in split.column_names:
            assert f"`{column}`" in columns


def test_no_card_without_a_corpus():
    titles = re.findall(r"^## (\S+)$", cards.path().read_text("utf-8"), re.MULTILINE)
    assert titles == [name for name in names() if not corpora.CORPORA[name].written]


def test_every_file_of_ours_has_its_card():
    ours = {name: corpus.written for name, corpus in corpora.CORPORA.items() if corpus.written}
    page = cards.path("roles").read_text("utf-8")
    assert cards.path("roles").parent.name == "written"
    for name, file in ours.items():
        assert f"\n## {name}\n" in page
        assert file in page
        assert (cards.path("roles").parent / file).is_file()


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_no_text_twice_and_every_row_in_its_split(name, loaded):
    data, seen = loaded(name), set()
    assert list(data) == ["train", "validation", "test"]
    for split, rows in data.items():
        for text in rows["text"]:
            key = normalise(text)
            assert key not in seen
            assert split_of(key) == split
            seen.add(key)


@pytest.mark.parametrize("name", ["ui-en-fr", "ui-en-zh", "ui-en-de"])
def test_no_english_message_of_the_test_set_is_in_train(name, loaded):
    data = loaded(name)
    english = {split: {normalise(text) for text in rows["source"]} for split, rows in data.items()}
    assert not english["train"] & english["test"]
    assert not english["train"] & english["validation"]
    assert all(source != target for source, target in zip(data["train"]["source"], data["train"]["target"]))


def test_variants_of_an_emoji_share_a_split(loaded):
    places = {source: split for split, rows in loaded("names-en-fr").items() for source in rows["source"]}
    tones = [f"waving hand {tone} skin tone" for tone in ("light", "medium-light", "medium", "medium-dark", "dark")]
    assert len({places[name] for name in ["waving hand", *tones]}) == 1
    assert len({places[f"{who} astronaut"] for who in ("man", "woman")} | {places["astronaut"]}) == 1


def test_pronunciations_of_a_word_share_a_split(loaded):
    words = {split: set(rows["word"]) for split, rows in loaded("pronunciation").items()}
    assert not words["train"] & (words["test"] | words["validation"])
    assert not any("(" in word or "#" in word for word in words["train"])


def test_the_first_rows_are_a_random_sample(loaded):
    for name in CLASSIFICATION:
        train = loaded(name)["train"]
        share, first = sum(train["label"]) / len(train), train.select(range(400))["label"]
        assert abs(sum(first) / 400 - share) < 4 * (share * (1 - share) / 400) ** 0.5


def test_duplicates_can_be_kept_and_still_share_a_split():
    data = load_data("sms-spam", keep_duplicates=True)
    assert sum(map(len, data.values())) == reading("sms-spam").rows
    places = {}
    for split, rows in data.items():
        for text in rows["text"]:
            assert places.setdefault(normalise(text), split) == split


def test_texts_with_two_labels_are_dropped():
    account = reading("shop-reviews-zh")
    assert account.contradictions > 0
    both = load_data("shop-reviews-zh", keep_duplicates=True)
    assert sum(map(len, both.values())) == account.rows
    assert account.rows - account.duplicates - account.contradictions == sum(
        map(len, load_data("shop-reviews-zh").values())
    )


# --- what the readers do ---------------------------------------------------------------------------------------------


def test_labels_follow_the_ratings(loaded):
    names_of = loaded("movie-reviews")["train"].features["label"].names
    assert names_of == ["negative", "positive"]
    for name in ("movie-reviews", "tweets"):
        for rows in loaded(name).values():
            assert all(
                abs(score) >= 0.25 and (score > 0) == label for score, label in zip(rows["score"], rows["label"])
            )
    three = load_data("tweets", classes=3, neutral=0.5)["train"]
    assert three.features["label"].names == ["negative", "neutral", "positive"]
    assert all((abs(score) < 0.5) == (label == 1) for score, label in zip(three["score"], three["label"]))


def test_html_is_unescaped(loaded):
    for name in ("tweets", "product-reviews", "sms-spam"):
        assert not any(re.search(r"&(amp|lt|gt);", text) for rows in loaded(name).values() for text in rows["text"])


@pytest.mark.parametrize(
    ("tweet", "bare"),
    [
        (
            "USAID chief urges focus as Ebola spreads http://reut.rs/1o6ZQRo",
            "USAID chief urges focus as Ebola spreads",
        ),
        ("RT @pharmalot: Should bonds be issued? http://x.com/a #pharma", "Should bonds be issued? #pharma"),
        ("An upgrade, via @commentisfree http://www.theguardian.com/a", "An upgrade"),
        ("Lose weight: http://ow.ly/IdxL1 by @LacieJaeGlo #fitness", "Lose weight: #fitness"),
        ("3 m.p.h. is enough. Is it? bit.ly/2x", "3 m.p.h. is enough. Is it?"),
    ],
)
def test_addresses_and_handles_are_stripped(tweet, bare):
    assert news.strip_addresses(tweet) == bare


def test_no_address_is_left_in_the_headlines():
    left = [
        text
        for rows in load_data("headlines").values()
        for text in rows["text"]
        if re.search(r"https?:|www\.|@\w", text)
    ]
    assert left == []


def test_news_topics_and_repair():
    assert news.topic_of("http://www.bbc.co.uk/news/uk-politics-38895007") == "politics"
    assert news.topic_of("http://www.cnn.com/2017/02/07/asia/x/index.html") == "world"
    assert news.topic_of("http://abcnews.go.com/US/story") is None
    assert news.topic_of("http://www.dw.com/en/x") is None
    assert news.repair('It doesn"t matter to teachers"?unions, he said."?Then "?at last') == (
        "It doesn't matter to teachers' unions, he said.\" Then - at last"
    )


def test_tags_are_well_formed():
    assert well_formed(["O", "B-PER", "I-PER", "E-PER", "S-LOC"])
    for wrong in (["I-PER"], ["B-PER", "O"], ["B-PER", "E-LOC"], ["B-PER"], ["B-PER", "B-PER", "E-PER"]):
        assert not well_formed(wrong)


def test_intent_templates_expand_and_tags_fit():
    grammar = intents.Grammar(
        {"color": {"values": ["red", {"in": "(dark|light) blue"}]}},
        {"set": "(set|make)", "name": "[the] {name}"},
    )
    seen = {" ".join(intents.tagged(grammar.expand("<set> <name> (to {color};now)"))[0]) for _ in range(400)}
    assert any(
        re.fullmatch(r"(set|make) (the )?\w.* (to (red|(dark|light) blue) now|now to .*)", text) for text in seen
    )
    assert len(seen) > 50
    for broken in ("[open", "(a|b", "{color", "<rule>", "{unknown}", "a)"):
        with pytest.raises(ValueError, match=r"unbalanced|names"):
            [grammar.expand(broken) for _ in range(50)]
    assert intents.tagged([("to ", ""), ("50", "level"), ("%", "")]) == (["to", "50%"], ["O", "B-level"])
    data = load_data("intents")
    for rows in data.values():
        assert all(len(tokens) == len(tags) for tokens, tags in zip(rows["tokens"], rows["tags"]))
    many = [intent for intent, count in Counter(data["train"]["intent"]).items() if count > 100]
    templates = {
        split: {t for t, i in zip(rows["template"], rows["intent"]) if i in many} for split, rows in data.items()
    }
    assert not templates["train"] & templates["test"]


def test_ratings_are_tables_in_the_order_of_time(loaded):
    data = loaded("ratings")
    assert {name: len(rows) for name, rows in data.items()} == {
        "interactions": 100_000,
        "users": 943,
        "items": 1_682,
    }
    times = list(data["interactions"]["timestamp"])
    assert times == sorted(times)
    assert set(data["interactions"]["item"]) <= set(data["items"]["item"])


def test_human_eval_is_a_test_set_only(loaded):
    assert list(loaded("human-eval")) == ["test"]


def test_faq_in_chinese():
    assert any("\u4e00" <= letter <= "\u9fff" for letter in load_data("faq", language="zh")["train"][0]["question"])


# --- cache -----------------------------------------------------------------------------------------------------------


def test_cache_gives_the_same_and_survives_damage(tmp_path, monkeypatch):
    folders = {name: corpora.CORPORA[name].folder() for name in ["faq"]}
    monkeypatch.setattr(base.Corpus, "folder", lambda self: folders[self.name])
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    read = load_data("faq")
    (cached,) = (tmp_path / "corpora").iterdir()

    def no_reading(*arguments):
        raise AssertionError("read again although it is cached")

    with monkeypatch.context() as patch:
        patch.setattr(base, "collect", no_reading)
        again = load_data("faq")
    for split in read:
        assert read[split].to_list() == again[split].to_list()
        assert read[split].features == again[split].features
        assert read[split]._fingerprint == again[split]._fingerprint
        assert not again[split].cache_files  # in memory: `map` writes nothing beside the cache
    assert "duplicates dropped" in again["train"].info.description
    (cached / "train.arrow").write_bytes(b"half")
    assert load_data("faq")["train"].to_list() == read["train"].to_list()
    assert [path.name for path in (tmp_path / "corpora").iterdir()] == [cached.name]


def test_a_full_disk_costs_the_cache_only(tmp_path, monkeypatch):
    folders = {"faq": corpora.CORPORA["faq"].folder()}
    monkeypatch.setattr(base.Corpus, "folder", lambda self: folders[self.name])
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(base.os, "replace", full)
    assert len(load_data("faq")["train"]) > 500
    assert list((tmp_path / "corpora").iterdir()) == []


# --- the Hub ---------------------------------------------------------------------------------------------------------


def _stand_in(monkeypatch, answer):
    asked = []

    def load_dataset(path, config=None, **options):
        asked.append((path, config, options))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_the_hub_original_has_our_columns_and_three_splits(monkeypatch):
    features = datasets.Features({"sms": datasets.Value("string"), "label": datasets.ClassLabel(names=["ham", "spam"])})
    rows = [f"message {word}" for word in ("a", "b", "c", "d", "e", "f", "g", "h") for _ in range(2)] + [
        f"x{i}y" * i for i in range(90)
    ]
    table = datasets.Dataset.from_dict({"sms": rows, "label": [0] * len(rows)}, features=features)
    asked = _stand_in(monkeypatch, datasets.DatasetDict(train=table))
    data = load_data("sms-spam", source="hub")
    assert asked == [("ucirvine/sms_spam", None, {})]
    assert list(data) == ["train", "validation", "test"]
    assert data["train"].column_names == ["text", "label"]
    assert sum(map(len, data.values())) == len(rows)
    assert all(split_of(normalise(text)) == split for split, part in data.items() for text in part["text"])


def test_hub_translations_become_source_and_target(monkeypatch):
    pair = datasets.Dataset.from_dict({"translation": [{"en": "yes", "fr": "oui"}, {"en": "no", "fr": "non"}]})
    asked = _stand_in(monkeypatch, datasets.DatasetDict(train=pair, validation=pair, test=pair))
    data = load_data("ui-en-fr", source="hub")
    assert asked[0][:2] == ("Helsinki-NLP/opus-100", "en-fr")
    assert data["test"].to_list() == [{"source": "yes", "target": "oui"}, {"source": "no", "target": "non"}]


def test_without_network_the_hub_is_a_sentence(monkeypatch):
    _stand_in(monkeypatch, ConnectionError("Couldn't reach the Hub"))
    with pytest.raises(
        CourseError, match=r"rotten_tomatoes' could not be loaded .*load_data\('movie-reviews'\) without"
    ):
        load_data("movie-reviews", source="hub")
    with pytest.raises(CourseError, match="has no original on the Hub"):
        load_data("editorials", source="hub")
    with pytest.raises(CourseError, match="takes no options"):
        load_data("tweets", source="hub", classes=3)


# --- errors and prints -----------------------------------------------------------------------------------------------


def test_wrong_names_and_options_are_sentences():
    with pytest.raises(CourseError, match="Did you mean 'movie-reviews'"):
        load_data("movie_review")
    with pytest.raises(CourseError, match=r"There is no corpus 'zzz'\. There are: movie-reviews"):
        card("zzz")
    with pytest.raises(CourseError, match="has no option 'language'; it has: classes, neutral"):
        load_data("tweets", language="en")
    with pytest.raises(CourseError, match="classes is 5; give 2"):
        load_data("tweets", classes=5)
    with pytest.raises(CourseError, match="give 'package'"):
        load_data("tweets", source="web")


def test_card_and_reading_print():
    assert repr(card("chat")).startswith("## chat")
    assert card("chat")._repr_markdown_() == str(card("chat"))
    assert str(reading("movie-reviews")).startswith("movie-reviews: 10,375 usable rows read; 0 malformed; 2 duplicates")


def test_audit_runs_on_a_corpus(loaded):
    found = audit(loaded("ui-en-de"), "source", progress=False)
    assert found.counts()[("train", "test")] + found.counts()[("test", "train")] >= len(found.leaks("test")) > 0


@given(
    st.lists(st.sampled_from(["flu", "shots", "save", "lives", "study", "says", "Ebola"]), min_size=1),
    st.integers(0, 9),
)
def test_an_address_goes_wherever_it_stands(words, place):
    place = min(place, len(words))
    tweet = [*words[:place], "http://nyti.ms/1xG?a=b", "@nytimes", *words[place:]]
    assert news.strip_addresses(" ".join(tweet)) == " ".join(words)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("ab \n", max_size=12), max_size=20), st.integers(0, 5), st.integers(0, 3))
def test_short_keeps_order_and_counts_words(texts, words, least):
    rows = datasets.Dataset.from_dict({"text": texts})
    wanted = [text for text in texts if least <= len(text.split()) <= words]
    assert list(corpora.short(rows, words, least=least)["text"]) == wanted
    assert list(corpora.short(rows, words, 2, least=least)["text"]) == wanted[:2]
