"""Chapter 43: soft prompts of several lengths and beginnings before SmolLM2."""

from __future__ import annotations

from course_lib.experiments.registry import experiment

SEEDS = range(5)
SWEEP_SEED = 100  # not among the five
REVIEWS, VALIDATION, TEST = 128, 100, 100
WORDS = (5, 12)  # reviews of so many words
BATCH = 8
TEXT = "Is the following movie review negative or positive? Answer with one of these words."
RATES = (0.01, 0.03, 0.1, 0.3)  # tried on the validation split, with 16 vectors
# The smallest rate within one standard error (.036) of the best on the validation split.
CHOSEN = {"vocabulary": 0.01, "text": 0.01, "random": 0.03}
OTHER_LENGTHS = (4, 1, 48)


def prompted(init: str, length: int, seed: int, learning_rate: float, split: str, count: int) -> dict[str, float]:
    """Train one prompt and score it: `says` is the share of reviews after which the likeliest token of the whole
    vocabulary is the right word, `two_way` after which the likelier of the two words is; `untrained` before training.

    `nearest_is_start`: of the vectors that began as a token's embedding, the share whose nearest token (cosine) it is.
    """
    import torch
    from torch.nn import functional as F

    import course_lib as cl

    base, reviews, task = cl.load_base("smollm2"), cl.load_data("movie-reviews"), cl.tasks.Answer()
    train, test = (
        list(cl.corpora.short(reviews[part], WORDS[1], most, least=WORDS[0]))
        for part, most in (("train", REVIEWS), (split, count))
    )
    cl.seed(seed)
    method = cl.additive.PromptTuning(length=length, init=init, init_text=TEXT if init == "text" else None)
    tuned = cl.attach(base, method, task=task)
    prompt = next(iter(tuned.trained_state().values()))
    begun = prompt.clone()
    found = _score(tuned, test, "_untrained")
    history = cl.fit(tuned, train, batch_size=BATCH, learning_rate=learning_rate, seed=seed, progress=False)
    found |= _score(tuned, test, "")
    words = F.normalize(base.model.get_input_embeddings().weight, dim=-1)
    begun_as, ended_as = ((F.normalize(vectors, dim=-1) @ words.T).argmax(1) for vectors in (begun, prompt))
    moved = (prompt - begun).norm(dim=-1) / begun.norm(dim=-1)
    return {
        **found, "nearest_is_start": torch.mean((begun_as == ended_as).float()).item(), "moved": moved.mean().item(),
        "length_of_a_vector": prompt.norm(dim=-1).mean().item(), "seconds": history.seconds,
    }


def _score(tuned, rows: list[dict], when: str) -> dict[str, float]:
    from course_lib.evaluation import outputs

    words = tuned.task.word_ids(tuned.tokenizer)
    said = outputs(tuned, rows, classes=words, progress=False)
    likelier = [words[i] for i in said.scores.argmax(1)]
    right = [a == b for a, b in zip(said.predictions, said.references)]
    two_way = [a == b for a, b in zip(likelier, said.references)]
    return {f"says{when}": sum(right) / len(right), f"two_way{when}": sum(two_way) / len(two_way)}


@experiment(
    "43-learning-rates",
    about="SmolLM2, 16 soft-prompt vectors, 128 short movie reviews once: validation scores by learning rate.",
    grid=[
        {"init": init, "learning_rate": rate, "seed": SWEEP_SEED} for init in CHOSEN for rate in RATES
    ],
    minutes=14,
)
def learning_rates(init: str, learning_rate: float, seed: int) -> dict[str, float]:
    return prompted(init, 16, seed, learning_rate, "validation", VALIDATION)


@experiment(
    "43-prompts",
    about="SmolLM2, a soft prompt, 128 short movie reviews once: 100 test reviews, by length and by beginning.",
    grid=[
        *({"init": init, "length": 16, "seed": seed} for init in CHOSEN for seed in SEEDS),
        *({"init": "vocabulary", "length": length, "seed": seed} for length in OTHER_LENGTHS for seed in SEEDS),
    ],
    minutes=40,
)
def prompts(init: str, length: int, seed: int) -> dict[str, float]:
    return prompted(init, length, seed, CHOSEN[init], "test", TEST)
