"""The checks of chapter 52: right answers in several forms pass, each typical wrong one gets its own name."""

import math
import re
from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from course_lib.exercises import chapter_52
from course_lib.exercises.registry import judge

# --- 52.1 -------------------------------------------------------------------------------------------------


def shifted(labels, start, pad):
    inputs = labels.masked_fill(labels == -100, pad).roll(1, 1)
    inputs[:, 0] = start
    return inputs


def by_loop(labels, start, pad):
    return torch.tensor([[start] + [pad if i == -100 else i for i in row[:-1]] for row in labels.tolist()])


def by_padding(labels, start, pad):
    return F.pad(torch.where(labels < 0, pad, labels)[:, :-1], (1, 0), value=start)


@pytest.mark.parametrize("answer", [shifted, by_loop, by_padding])
def test_shift_accepts(answer):
    assert judge("52.1", answer).status == "right"


def clean(labels, pad):
    return labels.masked_fill(labels == -100, pad)


def writes_over(labels, start, pad):
    labels[labels == -100] = pad
    return shifted(labels, start, pad)


def overwritten(labels, start, pad):
    inputs = clean(labels, pad)
    inputs[:, 0] = start
    return inputs


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("unshifted", lambda labels, start, pad: clean(labels, pad)),
        ("minus_hundred", lambda labels, start, pad: labels.clone()),
        ("minus_hundred", lambda labels, start, pad: F.pad(labels[:, :-1], (1, 0), value=start)),
        ("left", lambda labels, start, pad: F.pad(clean(labels, pad)[:, 1:], (0, 1), value=pad)),
        ("rolled", lambda labels, start, pad: clean(labels, pad).roll(1, 1)),
        ("wrong_start", lambda labels, start, pad: F.pad(clean(labels, pad)[:, :-1], (1, 0), value=pad)),
        ("wrong_start", lambda labels, start, pad: F.pad(clean(labels, pad)[:, :-1], (1, 0), value=99)),
        ("overwritten", overwritten),
        ("rows", lambda labels, start, pad: F.pad(clean(labels, pad)[:-1], (0, 0, 1, 0), value=start)),
        ("too_long", lambda labels, start, pad: F.pad(clean(labels, pad), (1, 0), value=start)),
        ("shape", lambda labels, start, pad: clean(labels, pad)[:, :-1]),
        ("padding", lambda labels, start, pad: shifted(labels, start, start)),
        ("in_place", writes_over),
        ("not_tensor", lambda labels, start, pad: by_loop(labels, start, pad).tolist()),
        ("value", lambda labels, start, pad: shifted(labels, start, pad) + 1),
    ],
)
def test_shift_names(key, answer):
    assert judge("52.1", answer).key == f"52.1.{key}"


# --- 52.2 -------------------------------------------------------------------------------------------------


def grams(words, n):
    return Counter(zip(*(words[i:] for i in range(n))))


def corpus_bleu(hypotheses, references):
    log_p = 0
    for n in range(1, 5):
        pairs = [(grams(h, n), grams(r, n)) for h, r in zip(hypotheses, references)]
        hits = sum((h & r).total() for h, r in pairs)
        if hits == 0:
            return 0.0
        log_p += math.log(hits / sum(h.total() for h, _ in pairs)) / 4
    h, r = sum(map(len, hypotheses)), sum(map(len, references))
    return 100 * math.exp(log_p + min(0, 1 - r / h))


def by_sacrebleu(hypotheses, references):
    from sacrebleu.metrics import BLEU

    join = " ".join
    metric = BLEU(tokenize="none", smooth_method="none")
    return metric.corpus_score([join(h) for h in hypotheses], [[join(r) for r in references]]).score


@pytest.mark.parametrize("answer", [corpus_bleu, by_sacrebleu])
def test_bleu_accepts(answer):
    assert judge("52.2", answer).status == "right"


def with_options(**options):
    return lambda hypotheses, references: chapter_52.bleu(hypotheses, references, **options)


def sentence_mean(hypotheses, references, **options):
    each = [chapter_52.bleu([h], [r], **options) for h, r in zip(hypotheses, references)]
    return sum(each) / len(each)


def weighted_mean(hypotheses, references):
    each = [len(r) * corpus_bleu([h], [r]) for h, r in zip(hypotheses, references)]
    return sum(each) / sum(map(len, references))


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("mean_of_sentences", sentence_mean),
        ("mean_of_sentences_weighted", weighted_mean),
        ("mean_of_precisions", lambda h, r: sentence_mean(h, r, brevity="none")),
        ("fraction", lambda h, r: corpus_bleu(h, r) / 100),
        ("swapped", lambda h, r: corpus_bleu(r, h)),
        ("no_clipping", with_options(clip=False)),
        ("no_brevity", with_options(brevity="none")),
        ("brevity_both_ways", with_options(brevity="both")),
        ("brevity_ratio", with_options(brevity="ratio")),
        ("brevity_upside_down", with_options(brevity="upside down")),
        ("brevity_of_sentences", with_options(brevity="sentence")),
        ("arithmetic", with_options(mean="arithmetic")),
        ("pooled", with_options(mean="pooled")),
        ("unigrams", with_options(orders=1)),
        ("up_to_three", with_options(orders=3)),
        ("zero", lambda h, r: corpus_bleu(h, r) or 1e-3),
        ("not_a_number", lambda h, r: [corpus_bleu(h, r)] * 2),
        ("value", lambda h, r: corpus_bleu(h, r) + 1),
    ],
)
def test_bleu_names(key, answer):
    assert judge("52.2", answer).key == f"52.2.{key}"


def test_every_wrong_bleu_is_another_number():
    for short in (True, False):
        hypotheses, references = chapter_52._corpus(short)
        values = [chapter_52.bleu(hypotheses, references), *chapter_52._wrong_bleus(hypotheses, references).values()]
        assert min(abs(a - b) for i, a in enumerate(values) for b in values[:i]) > 1e-3


# --- 52.3 -------------------------------------------------------------------------------------------------


def beam_step(log_p, steps, K):
    scores, flat = (log_p[:, None] + steps).flatten().topk(K)
    return flat // steps.shape[1], flat % steps.shape[1], scores


def by_sorting(log_p, steps, K):
    every = [
        (log_p[i].item() + steps[i, t].item(), i, t) for i in range(len(log_p)) for t in range(steps.shape[1])
    ]
    scores, parents, tokens = zip(*sorted(every, reverse=True)[:K])
    return list(parents), list(tokens), list(scores)


@pytest.mark.parametrize("answer", [beam_step, by_sorting])
def test_beam_accepts(answer):
    assert judge("52.3", answer).status == "right"


def on(table, largest=True):
    def answer(log_p, steps, K):
        scores, flat = table(log_p[:, None], steps).flatten().topk(K, largest=largest)
        return flat // steps.shape[1], flat % steps.shape[1], scores

    return answer


def each_its_own(log_p, steps, K):
    if len(log_p) == 1:
        return beam_step(log_p, steps, K)
    best = steps.max(-1)
    return torch.arange(K), best.indices, log_p + best.values


def best_beam_only(log_p, steps, K):
    first = log_p.argmax()
    scores, tokens = (log_p[first] + steps[first]).topk(K)
    return first.expand(K), tokens, scores


def with_scores(change):
    def answer(log_p, steps, K):
        parents, tokens, scores = beam_step(log_p, steps, K)
        return parents, tokens, change(scores, steps[parents, tokens])

    return answer


def divided_by_beams(log_p, steps, K):
    scores, flat = (log_p[:, None] + steps).flatten().topk(K)
    return flat % len(log_p), flat // len(log_p), scores


def writes_over(log_p, steps, K):
    steps += log_p[:, None]
    return beam_step(torch.zeros_like(log_p), steps, K)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("each_its_own", each_its_own),
        ("past_forgotten", on(lambda past, steps: steps)),
        ("worst", on(lambda past, steps: past + steps, largest=False)),
        ("multiplied", on(lambda past, steps: past * steps)),
        ("probabilities", on(lambda past, steps: past + steps.exp())),
        ("best_beam_only", best_beam_only),
        ("exchanged", lambda *given: [beam_step(*given)[i] for i in (1, 0, 2)]),
        ("score_is_probability", with_scores(lambda scores, last: scores.exp())),
        ("score_of_the_step", with_scores(lambda scores, last: last)),
        ("score", with_scores(lambda scores, last: scores + 1)),
        ("order", lambda *given: [part.flip(0) for part in beam_step(*given)]),
        ("index", divided_by_beams),
        ("shape", lambda log_p, steps, K: beam_step(log_p, steps, K + 1)),
        ("not_three", lambda *given: 7),
        ("not_three", lambda *given: beam_step(*given)[2][:2]),
        ("in_place", writes_over),
        ("value", lambda log_p, steps, K: (torch.zeros(K), torch.zeros(K), torch.zeros(K))),
    ],
)
def test_beam_names(key, answer):
    assert judge("52.3", answer).key == f"52.3.{key}"


# --- 52.4 -------------------------------------------------------------------------------------------------

MARK = re.compile(r"%\d+|%[sd]|\{[^{}]*\}")


def survives(source, target):
    return sorted(MARK.findall(source)) == sorted(MARK.findall(target))


def by_counter(source, target):
    return Counter(MARK.findall(source)) == Counter(MARK.findall(target))


@pytest.mark.parametrize("answer", [survives, by_counter])
def test_placeholders_accepts(answer):
    assert judge("52.4", answer).status == "right"


def found_by(pattern, compare=lambda a, b: sorted(a) == sorted(b)):
    return lambda source, target: compare(re.findall(pattern, source), re.findall(pattern, target))


ALL = MARK.pattern


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("lost", lambda source, target: True),
        ("lost", found_by(ALL, lambda a, b: set(b) <= set(a))),
        ("substring", lambda source, target: all(mark in target for mark in MARK.findall(source))),
        ("sets", found_by(ALL, lambda a, b: set(a) == set(b))),
        ("invented", found_by(ALL, lambda a, b: not Counter(a) - Counter(b))),
        ("only_percent", found_by(r"%\d+|%[sd]")),
        ("only_braces", found_by(r"%[0-9]+|\{\w*\}|%s")),
        ("only_digits", found_by(r"%\d+|\{\w*\}|%d")),
        ("changed", found_by(ALL, lambda a, b: len(a) == len(b))),
        ("order", found_by(ALL, lambda a, b: a == b)),
        ("text", found_by(r"%\s?\w+|\{\w*\}")),
        ("text", found_by(ALL, lambda a, b: bool(a) and sorted(a) == sorted(b))),
        ("refused", lambda source, target: False if "%1" in source else survives(source, target)),
        ("not_bool", lambda source, target: MARK.findall(source)),
    ],
)
def test_placeholders_names(key, answer):
    assert judge("52.4", answer).key == f"52.4.{key}"
