"""Language models, from counting to Transformers, under one interface: plain tensors in, logits out.

    import course_lib as cl
    lms = cl.language_models

    ids = lms.as_ids("to be or not to be")            # (N,) bytes as numbers
    model = lms.NGram(order=5).fit(ids)               # counts; vocabulary 256 by default, like the others
    model = lms.Recurrent(cell="lstm", width=256)     # or "rnn", "gru"
    model = lms.Convolution(width=192, layers=4)
    model = lms.GPT(vocabulary=256, context=128, width=192, layers=4, heads=6)
    cl.fit(model, lms.windows(ids, 128), task=cl.tasks.NextToken(), batch_size=16, max_steps=500)

    model(ids[None, :64])                             # logits (B, T, V): at each position, scores for the NEXT token
    model.num_parameters()
    model.vocabulary, model.context, model.reach      # tokens it knows, takes in, can use (None: no limit)
    lms.bits_per_byte(model, "held-out text")         # the same measure for all of them
    lms.perplexity(model, ids)
    lms.surprise(model, ids)                          # bits of each token (N,)
    lms.generate(model, ids[:10], tokens=100, temperature=0.8, top_p=0.95, seed=0)   # (1, 110)

Every file is a lesson of its own: ngram.py, convolution.py, recurrent.py, blocks.py (attention, norms, rotary
positions, masks, the block), gpt.py, sampling.py, evaluation.py.
"""

from .convolution import Convolution
from .evaluation import bits_per_byte, perplexity, surprise
from .gpt import GPT, GPTConfig
from .ngram import NGram
from .recurrent import Recurrent
from .sampling import generate, next_token_probabilities
from .text import as_ids, windows

__all__ = [
    "GPT",
    "Convolution",
    "GPTConfig",
    "NGram",
    "Recurrent",
    "as_ids",
    "bits_per_byte",
    "generate",
    "next_token_probabilities",
    "perplexity",
    "surprise",
    "windows",
]
