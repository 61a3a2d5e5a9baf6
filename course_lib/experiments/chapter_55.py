"""Chapter 55: recommenders on MovieLens 100K, everything but the user's own films ranked."""

from __future__ import annotations

from course_lib.experiments.registry import experiment

SEEDS = range(5)
ITEMS = 1682
WIDTH, LENGTH, BATCH = 64, 50, 128
DAYS = 7  # of recent popularity; with the epochs and rates below chosen on the validation items, seed 100
TAIL = 100  # a film with fewer ratings to learn from belongs to the tail
# method: (objective, epochs, learning rate, dropout)
TRAINED = {
    "factorisation": ("pairwise", 30, 5e-3, 0.0),
    "one-negative": ("one negative", 100, 2e-3, 0.2),
    "all-items": ("all items", 40, 1e-3, 0.3),
}
METHODS = ("popularity", "recent", "neighbours", *TRAINED)


def recommended(method: str, seed: int, part: str, epochs: int | None = None):
    """The scores (U, V) of a method for what each user takes next, and the split."""
    import torch

    import course_lib as cl
    from course_lib.tasks import recommendation

    rows = list(cl.load_data("ratings")["interactions"])
    split = recommendation.leave_last_out(recommendation.histories(rows))
    counts = recommendation.popularity(split.train, ITEMS)
    if method == "popularity":
        return counts.expand(len(split.users), -1), split
    if method == "recent":
        return recommendation.recent_popularity(rows, split, part, ITEMS, DAYS), split
    if method == "neighbours":
        together = recommendation.neighbours(split.train, ITEMS)
        return torch.stack([together[items[-3:]].sum(0) for items in split.known(part)]), split
    objective, planned, rate, dropout = TRAINED[method]
    cl.seed(seed)
    items = recommendation.Items(ITEMS, WIDTH)
    if method == "factorisation":
        model = recommendation.MatrixFactorisation(len(split.users), items, WIDTH)
    else:
        model = recommendation.SASRec(items, WIDTH, LENGTH, dropout=dropout)
    cl.fit(
        model, recommendation.windows(split.train, LENGTH), task=cl.tasks.NextItem(objective),
        epochs=epochs or planned, batch_size=BATCH, learning_rate=rate, seed=seed, dtype="float32", progress=False,
    )  # fmt: skip
    return recommendation.scores(model.cpu(), split.known(part)), split


def scored(method: str, seed: int, part: str, epochs: int | None = None) -> dict[str, float]:
    """HR@10 and NDCG@10 by full ranking and against 100 sampled films; `hr_tail`, for films of the tail."""
    import numpy as np

    from course_lib.evaluation import gains, hits, ranks, sampled_ranks
    from course_lib.tasks.recommendation import popularity

    scores, split = recommended(method, seed, part, epochs)
    targets, known = split.targets(part), split.known(part)
    full = ranks(scores.numpy(), targets, known)
    sampled = sampled_ranks(full, np.array([ITEMS - len(items) - 1 for items in known]), seed=seed)
    tail = (popularity(split.train, ITEMS)[targets] < TAIL).numpy()
    return {
        "hr": hits(full).mean(), "ndcg": gains(full).mean(),
        "hr_sampled": hits(sampled).mean(), "ndcg_sampled": gains(sampled).mean(),
        "hr_tail": hits(full[tail]).mean(), "median_rank": float(np.median(full)),
    }  # fmt: skip


@experiment(
    "55-recommenders",
    about="MovieLens 100K, each user's last film: full ranking, and against 100 sampled films.",
    grid=[{"method": method, "seed": seed} for method in METHODS for seed in SEEDS],
    minutes=45,
)
def recommenders(method: str, seed: int) -> dict[str, float]:
    return scored(method, seed, "test")
