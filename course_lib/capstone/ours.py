"""Our entry to the capstone. Copy it, change it, beat it."""

import course_lib as cl

WORDS, ROWS = 20, 3200  # short reviews, because attention and the FFN are paid by the word


def build(base, train, validation, seed=0):
    """LoRA in MiniLM's two top blocks: what lies below is computed once, so that minutes become seconds."""
    cl.seed(seed)
    method = cl.additive.LoRA(rank=4, layers=(4, 5))
    tuned = cl.attach(base, method, task=cl.tasks.Classification(2))
    short = [row for row in train if len(row["text"].split()) <= WORDS][:ROWS]
    cached = cl.cache_below(tuned, short)
    cl.fit(tuned, cached, epochs=2, batch_size=16, learning_rate=3e-3, seed=seed, progress=False)
    return tuned
