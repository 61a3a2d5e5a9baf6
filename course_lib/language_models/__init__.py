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
    lms.bits_after_shuffling(model, ids, keep=8)      # bits of a token when only the last 8 before it are in order
    lms.generate(model, ids[:10], tokens=100, temperature=0.8, top_p=0.95, seed=0)   # (1, 110)

    encoder = lms.Encoder(vocabulary=260, width=192)  # BERT's layout; logits for the token that stands there
    encoder.states(ids[None, :64], attention_mask)    # (B, T, d); a GPT has states, too
    pair = lms.EncoderDecoder(vocabulary=260)         # pair(source_ids, target_ids, source_mask) -> logits (B, T, V)
    pair.given(source_ids)                            # the decoder behind its source: a model like the others

    language = lms.SyntheticLanguage(seed=0)          # .sample(n), .entropy (bits a symbol), true logits
    tokenizer = lms.Bytes(sentinels=32)               # for the tasks MaskedTokens (with an Encoder) and SpanDenoising
    tokenizer = lms.Characters(texts)                 # a token for each character: for Chinese

    lms.to_transformers(model)                        # the same function as GPT2LMHeadModel, LlamaForCausalLM, ...
    lms.from_transformers(cl.load_base("smollm2").model)
    lms.save(model, "my-gpt", lms.Bytes())            # for lms.load, cl.load_base; cl.attach(model, method) works

Every file is a lesson of its own: ngram.py, convolution.py, recurrent.py, blocks.py (attention, norms, rotary
positions, masks, the block), gpt.py, encoder.py, encoder_decoder.py, sampling.py, evaluation.py.
"""

from .bytes_tokenizer import Bytes
from .characters import Characters
from .convolution import Convolution
from .encoder import Encoder, EncoderConfig
from .encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from .evaluation import bits_after_shuffling, bits_per_byte, perplexity, surprise
from .gpt import GPT, GPTConfig
from .ngram import NGram
from .recurrent import Recurrent
from .sampling import beam_search, generate, next_token_probabilities
from .synthetic import SyntheticLanguage
from .text import as_ids, windows
from .transformers_weights import from_transformers, load, save, to_transformers, twin

__all__ = [
    "GPT",
    "Bytes",
    "Characters",
    "Convolution",
    "Encoder",
    "EncoderConfig",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "GPTConfig",
    "NGram",
    "Recurrent",
    "SyntheticLanguage",
    "as_ids",
    "beam_search",
    "bits_after_shuffling",
    "bits_per_byte",
    "from_transformers",
    "generate",
    "load",
    "next_token_probabilities",
    "perplexity",
    "save",
    "surprise",
    "to_transformers",
    "twin",
    "windows",
]
