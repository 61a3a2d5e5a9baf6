"""Tasks: tokens and labels against hand-made ones, losses against transformers' own, texts that come back."""

import copy

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

import course_lib as cl
from course_lib.tasks import Answer, Classification, Generation, SequenceToSequence, Tagging

TEXTS = 3 * [
    "the unbelievable film was unwatchable", "Anna Schmidt lives in Neustadt", "where do the neighbours live ?",
]
TAGS = ("O", "B-PER", "I-PER", "B-LOC")
SENTENCES = [
    {"tokens": ["Anna", "Schmidt", "lives", "in", "Neustadt", "."], "tags": ["B-PER", "I-PER", "O", "O", "B-LOC", "O"]},
    {"tokens": ["unbelievable", "!"], "tags": ["O", "O"]},
    {"tokens": ["南", "京"], "tags": [3, 0]},
]
PAIRS = [
    {"source": "the film", "target": "unwatchable"}, {"source": "Anna lives", "target": "in Neustadt"},
    {"source": "where do the neighbours live ?", "target": "the unbelievable film was unwatchable"},
]


def wordpiece():
    """BERT's: [CLS] ... [SEP], ## inside words, padded on the right."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(
        vocab_size=80, special_tokens=specials, show_progress=False))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        padding_side="right",
    )


def byte_level(roberta: bool = False):
    """GPT-2's (nothing around the text, padded on the left) or RoBERTa's (<s> ... </s>, padded on the right)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "<pad>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if roberta:
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", padding_side="right" if roberta else "left"
    )


def sentencepiece():
    """T5's: words begin with a mark for the space, the text ends with </s>."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.train_from_iterator(TEXTS, trainers.UnigramTrainer(
        vocab_size=70, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A $B </s>", [("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )


SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny(family, tokenizer):
    special = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    ends = {**special, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.eos_token_id}
    if family == "bert":
        return BertModel(BertConfig(**SIZES, **special, max_position_embeddings=64))
    if family == "roberta":
        return RobertaModel(RobertaConfig(**SIZES, **special, max_position_embeddings=66))
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, **ends))
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES, **ends, num_key_value_heads=1))
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**SIZES, **ends, num_key_value_heads=1))
    return T5ForConditionalGeneration(T5Config(
        d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0, **ends))


@pytest.fixture(scope="module")
def bases():
    """A tiny model of every family with a tokenizer of its kind."""
    torch.manual_seed(0)
    tokenizers = {
        "bert": wordpiece(), "roberta": byte_level(roberta=True), "gpt2": byte_level(), "llama": byte_level(),
        "qwen2": byte_level(), "t5": sentencepiece(),
    }
    return {
        family: cl.bases.Base(family, tiny(family, tokenizer).eval().requires_grad_(False), tokenizer)
        for family, tokenizer in tokenizers.items()
    }


FAMILIES = ("bert", "roberta", "gpt2", "llama", "qwen2", "t5")
DECODERS = ("gpt2", "llama", "qwen2")
METHOD = cl.additive.LoRA(2, targets=("query", "value", "ffn_out"))


def columns(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def batch_of(task, rows, tokenizer):
    return task.collate(task.features(rows, tokenizer), tokenizer)


# --- tagging ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_token_of_each_word_carries_its_tag(bases, family):
    tokenizer, task = bases[family].tokenizer, Tagging(TAGS)
    for row, feature in zip(SENTENCES, task.features(SENTENCES, tokenizer)):
        labelled = [place for place, label in enumerate(feature["labels"]) if label != -100]
        numbers = [TAGS.index(tag) if isinstance(tag, str) else tag for tag in row["tags"]]
        assert [feature["labels"][place] for place in labelled] == numbers
        assert len(feature["labels"]) == len(feature["input_ids"]) > len(row["tokens"])  # words of several tokens
        for begin, end, word in zip(labelled, [*labelled[1:], len(feature["input_ids"])], row["tokens"]):
            piece = tokenizer.decode(feature["input_ids"][begin:end], skip_special_tokens=True)
            piece = piece.replace(" ", "").replace("##", "")
            assert piece in (word, word.lower(), "")  # unknown characters are one unknown token


def test_tags_stand_where_transformers_word_ids_put_them(bases):
    """On a tokenizer that takes lists of words, both ways agree, token by token."""
    tokenizer, task = bases["bert"].tokenizer, Tagging(TAGS)
    for row, feature in zip(SENTENCES, task.features(SENTENCES, tokenizer)):
        theirs = tokenizer(row["tokens"], is_split_into_words=True)
        assert feature["input_ids"] == theirs["input_ids"]
        words = theirs.word_ids()
        first = [word is not None and word != before for word, before in zip(words, [None, *words])]
        assert [label != -100 for label in feature["labels"]] == first


@pytest.mark.parametrize("family", FAMILIES)
def test_a_taggers_loss_is_transformers_and_its_predictions_are_a_tag_a_word(bases, family):
    base, task = bases[family], Tagging(TAGS)
    batch = batch_of(task, SENTENCES, base.tokenizer)
    model = task.with_head(copy.deepcopy(base.model), base.tokenizer).eval()
    with torch.no_grad():
        output = model(**batch)
        loss, words = task.loss(output, batch)
    assert words == 10
    assert torch.allclose(loss / words, output.loss, atol=1e-6)
    assert task.references(batch) == [SENTENCES[0]["tags"], SENTENCES[1]["tags"], ["B-LOC", "O"]]
    assert [len(tags) for tags in task.predictions(output, batch)] == [6, 2, 2]
    perfect = torch.nn.functional.one_hot(batch["labels"].clamp_min(0), len(TAGS)).float()
    assert task.predictions(type(output)(logits=perfect), batch) == task.references(batch)


def test_rows_that_cannot_be_tagged_are_errors(bases):
    tokenizer = bases["bert"].tokenizer
    with pytest.raises(cl.CourseError, match=r"8 tokens long, and max_length is 5.*Raise"):
        Tagging(TAGS, max_length=5).features([{"tokens": ["a", "b", "c", "d", "e", "f"], "tags": [0] * 6}], tokenizer)
    with pytest.raises(cl.CourseError, match="2 words have 1"):
        Tagging(TAGS).features([{"tokens": ["a", "b"], "tags": ["O"]}], tokenizer)
    with pytest.raises(cl.CourseError, match="the tag 'B-ORG'"):
        Tagging(TAGS).features([{"tokens": ["a"], "tags": ["B-ORG"]}], tokenizer)
    with pytest.raises(cl.CourseError, match=r"'\\u200b' has no token"):
        Tagging(TAGS).features([{"tokens": ["a", "\u200b"], "tags": ["O", "O"]}], tokenizer)
    with pytest.raises(cl.CourseError, match="at least two"):
        Tagging(("O",))


# --- generation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", DECODERS)
def test_only_the_target_is_learnt_and_its_loss_is_transformers(bases, family):
    """transformers shifts the labels itself; ours come from scores at the last columns only, padded on the left."""
    base, task = bases[family], Generation("Say {source} as:", " {target}")
    batch = batch_of(task, PAIRS, base.tokenizer)
    ends = [base.tokenizer(f" {row['target']}")["input_ids"] + [base.tokenizer.eos_token_id] for row in PAIRS]
    assert task.references(batch) == ends
    assert batch["attention_mask"][:, -1].all()
    assert not batch["attention_mask"].all()
    assert batch["logits_to_keep"] == max(map(len, ends)) + 1 < batch["input_ids"].shape[1]
    asked = [base.tokenizer(f"Say {row['source']} as:")["input_ids"] for row in PAIRS]
    assert [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["prompt_mask"])] == asked
    with torch.no_grad():
        positions = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
        output = base.model(**cl.tasks.inputs_of(batch), position_ids=positions)
        loss, tokens = task.loss(output, batch)
        sums = 0
        for row in task.features(PAIRS, base.tokenizer):  # one by one, without any padding
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
            sums += base.model(input_ids=ids, labels=labels).loss * (labels != -100).sum()
    assert tokens == sum(map(len, ends))
    assert torch.allclose(loss, sums, rtol=1e-5)
    assert [len(said) for said in task.predictions(output, batch)] == list(map(len, ends))


def test_long_prompts_lose_their_beginning_and_long_targets_their_end(bases):
    tokenizer = bases["gpt2"].tokenizer
    row, whole = PAIRS[2], Generation("{source}", "{target}").features([PAIRS[2]], bases["gpt2"].tokenizer)[0]
    prompt, target = tokenizer(row["source"])["input_ids"], tokenizer(row["target"])["input_ids"]
    assert whole["input_ids"] == [*prompt, *target, tokenizer.eos_token_id]
    cut = Generation("{source}", "{target}", max_length=3, max_target=2).features([row], tokenizer)[0]
    assert cut["input_ids"] == [*prompt[-3:], *target[:2]]  # cut, the target does not end there
    assert cut["labels"] == [-100] * 3 + target[:2]
    assert cut["reference"] == row["target"]


@pytest.mark.parametrize("family", [*DECODERS, "t5"])
def test_written_texts_are_the_models_own_one_by_one(bases, family):
    """Sorted by length, in batches of two, padded: the same as each prompt alone; up to the end token."""
    base = bases[family]
    task = Generation("Say {source} as:") if family != "t5" else SequenceToSequence("Say {source} as:")
    rows = [{"source": "film"}, {"source": "the neighbours live in Neustadt"}, {"source": "Anna"}]
    texts = task.generate(base.model, rows, base.tokenizer, batch_size=2, max_new_tokens=6)
    for row, text in zip(rows, texts):
        ids = torch.tensor([base.tokenizer(f"Say {row['source']} as:")["input_ids"]])
        said = base.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False,
            pad_token_id=base.tokenizer.pad_token_id)[0]
        alone = said if family == "t5" else said[ids.shape[1]:]
        assert text == base.tokenizer.decode(alone, skip_special_tokens=True)
    assert len(set(texts)) > 1 or family == "t5"


def test_writing_stops_at_the_end_token(bases):
    base, task = bases["llama"], Generation("Say {source} as:")
    end, other = base.tokenizer.eos_token_id, base.tokenizer(" the")["input_ids"][0]

    class Scripted(type(base.model)):
        def forward(self, input_ids=None, **inputs):
            output = super().forward(input_ids=input_ids, **inputs)
            output.logits[..., end if input_ids.shape[1] == 1 else other] = 1e4  # one word, then the end
            return output

    model = Scripted(base.model.config).eval()
    assert task.generate(model, PAIRS, base.tokenizer) == [" the"] * 3


# --- sequence to sequence -----------------------------------------------------------------------------------


def test_the_decoder_reads_its_labels_one_place_to_the_right(bases):
    base, task = bases["t5"], SequenceToSequence()
    batch = batch_of(task, PAIRS, base.tokenizer)
    assert torch.equal(batch["decoder_input_ids"], base.model.prepare_decoder_input_ids_from_labels(batch["labels"]))
    assert (batch["labels"] == -100).any()
    assert not (batch["decoder_input_ids"] == -100).any()
    with torch.no_grad():
        output = base.model(**cl.tasks.inputs_of(batch))
        loss, tokens = task.loss(output, batch)
        read = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        theirs = base.model(**read)  # it shifts the labels itself
    assert torch.allclose(loss / tokens, theirs.loss, rtol=1e-5)
    ends = base.tokenizer([row["target"] for row in PAIRS])["input_ids"]
    assert task.references(batch) == ends
    assert [len(said) for said in task.predictions(output, batch)] == list(map(len, ends))


# --- every task, every family -------------------------------------------------------------------------------

ROWS = {
    Classification(2): [{"text": text, "label": number % 2} for number, text in enumerate(TEXTS)],
    Tagging(TAGS): SENTENCES * 3,
    Answer((" the", " live"), "Review: {text}\nSentiment:"): [{"text": t, "label": i % 2} for i, t in enumerate(TEXTS)],
    Generation("{source}:", max_target=9): PAIRS * 3,
    SequenceToSequence(max_target=9): PAIRS * 3,
}
DEFINED = [
    (task, family) for task in ROWS for family in FAMILIES
    if {"Answer": family in DECODERS, "Generation": family in DECODERS, "SequenceToSequence": family == "t5"}.get(
        type(task).__name__, True)
]


def case_name(value):
    return type(value).__name__ if isinstance(value, cl.tasks.Task) else value


@pytest.mark.parametrize(("task", "family"), DEFINED, ids=case_name)
def test_a_task_is_attached_learnt_and_evaluated(bases, task, family):
    if isinstance(task, Answer):
        single = [w for w in (" the", " live", " do", " in") if len(bases[family].tokenizer(w)["input_ids"]) == 1]
        task = Answer(tuple(single[:2]), task.template)
        rows = [{"text": text, "label": number % 2} for number, text in enumerate(TEXTS)]
    else:
        rows = ROWS[task]
    base = bases[family]
    before = base.fingerprint()
    tuned = cl.attach(base, METHOD, task=task)
    start = copy.deepcopy(tuned.trained_state())
    history = cl.fit(tuned, rows, max_steps=3, batch_size=3, learning_rate=3e-2, dtype="float32", progress=False)
    assert history.steps == 3
    assert not [name for name, tensor in tuned.trained_state().items() if torch.equal(tensor, start[name])]
    scores = cl.evaluate(tuned, rows, n_boot=20, batch_size=4, progress=False)
    assert scores.rows == 9
    assert set(scores) == set(getattr(task, "metrics", ("accuracy",)))
    assert base.fingerprint() == before
    assert cl.tasks.from_description(cl.tasks.describe(task)) == task


@pytest.mark.parametrize(("task", "family"), [
    (task, family) for task in ROWS for family in FAMILIES if (task, family) not in DEFINED
], ids=case_name)  # fmt: skip
def test_a_task_that_a_family_cannot_do_is_an_error(bases, task, family):
    with pytest.raises(cl.CourseError, match=f"{type(task).__name__} (needs a model|is a task for)"):
        cl.attach(bases[family], METHOD, task=task)


def test_a_template_names_columns_that_exist(bases):
    with pytest.raises(cl.CourseError, match=r"'src'.*the rows have, which are source, target"):
        Generation("{src}").features(PAIRS, bases["gpt2"].tokenizer)
    with pytest.raises(cl.CourseError, match="no tokens"):
        Generation("").features(PAIRS, bases["gpt2"].tokenizer)
    other = copy.deepcopy(bases["t5"].model)
    other.config.decoder_start_token_id = 5
    with pytest.raises(cl.CourseError, match=r"begins with token 5, not 0.*start=5"):
        SequenceToSequence().with_head(other)
    SequenceToSequence(start=5).with_head(other)


def test_a_small_model_learns_to_write_the_targets(bases):
    base, rows = bases["llama"], PAIRS
    tuned = cl.attach(base, cl.additive.FullFineTuning(), task=Generation("{source}:", " {target}"))
    cl.fit(tuned, rows, max_steps=120, batch_size=3, learning_rate=2e-2, dtype="float32", progress=False)
    assert tuned.task.generate(tuned, rows) == [f" {row['target']}" for row in rows]
    assert cl.evaluate(tuned, rows, n_boot=20, progress=False)["exact_match"].value == 1.0


def test_writing_beyond_the_position_table_is_an_error(bases):
    tuned = cl.attach(bases["gpt2"], cl.additive.PromptTuning(10), task=Generation("{source}:", max_target=60))
    with pytest.raises(cl.CourseError, match=r"61 are to be written.*64 positions"):
        tuned.task.generate(tuned, PAIRS)
