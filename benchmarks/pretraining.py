"""How quickly does the course pretrain? Tokens a second of `cl.fit` on the course's GPT beside two others, interleaved.

    python benchmarks/pretraining.py                       # two threads, float32
    python benchmarks/pretraining.py --dtype bfloat16 --rounds 12

The others: a model and loop in the manner of nanoGPT, written here from its published description (fused query, key
and value, scaled_dot_product_attention, exact GELU, tied head, AdamW with weight decay on matrices, clipping at 1,
random crops from one array, loss read every step), and transformers' GPT2LMHeadModel in the same loop. The course runs
twice, as "ours" and "ours again": how far these two differ is the noise of the comparison.

A round gives every contender the same number of steps, in an order that changes from round to round; the ratio is taken
within each round. Wall time counts everything between the first and the last step, collating and logging included;
CPU time is that of the whole process, and is what to look at on a machine that is busy with other things.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--layers", type=int, default=4)
parser.add_argument("--width", type=int, default=192)
parser.add_argument("--heads", type=int, default=6)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--context", type=int, default=128)
parser.add_argument("--vocabulary", type=int, default=2048)
parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=8)
parser.add_argument("--steps", type=int, default=8, help="steps of each contender in a round")
parser.add_argument("--compile", action="store_true", help="compile all three models")
options = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(options.threads)

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import course_lib as cl  # noqa: E402

lms = cl.language_models
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


# --- in the manner of nanoGPT ----------------------------------------------------------------------------------------


class CausalSelfAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = (t.view(B, T, self.heads, C // self.heads).transpose(1, 2) for t in self.c_attn(x).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class MLP(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.c_fc, self.gelu, self.c_proj = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.c_proj(self.gelu(self.c_fc(x)))


class PlainBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), CausalSelfAttention(width, heads)
        self.ln_2, self.mlp = nn.LayerNorm(width), MLP(width)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class PlainGPT(nn.Module):
    def __init__(self, vocabulary, context, width, layers, heads):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.h = nn.ModuleList(PlainBlock(width, heads) for _ in range(layers))
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.wte.weight = self.lm_head.weight
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids):
        x = self.wte(ids) + self.wpe(torch.arange(ids.size(1), device=ids.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class Plain:
    """The loop of nanoGPT for any model that gives logits."""

    def __init__(self, model, logits=lambda output: output):
        self.model, self.logits, self.position = model.to(DEVICE).train(), logits, 0
        matrices = [p for p in model.parameters() if p.dim() >= 2]
        vectors = [p for p in model.parameters() if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=DEVICE == "cuda")

    def batch(self):
        starts = torch.randint(len(DATA) - options.context, (options.batch,))
        x = torch.stack([torch.from_numpy(DATA[i : i + options.context].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(DATA[i + 1 : i + 1 + options.context].astype(np.int64)) for i in starts])
        return x.to(DEVICE), y.to(DEVICE)

    def run(self, steps):
        loss = 0.0
        for _ in range(steps):
            x, y = self.batch()
            for group in self.optimizer.param_groups:
                group["lr"] = 1e-3
            with torch.autocast(DEVICE, torch.bfloat16, enabled=options.dtype == "bfloat16"):
                logits = self.logits(self.model(x))
                loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1), ignore_index=-1)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            loss = loss.item()
        return loss


# --- ours ------------------------------------------------------------------------------------------------------------


class Ours:
    """`cl.fit` on the course's GPT, from its first step to its last."""

    def __init__(self, model):
        self.model = model

    def run(self, steps):
        history = cl.fit(
            self.model, WINDOWS, task=cl.tasks.NextToken(), batch_size=options.batch, max_steps=steps,
            learning_rate=1e-3, weight_decay=0.1, dtype=options.dtype, progress=False,
        )  # fmt: skip
        return history.loss[-1]


DATA = np.random.default_rng(0).integers(0, options.vocabulary, 2_000_000 // 8).astype(np.uint16)
WINDOWS = lms.windows(torch.from_numpy(DATA.astype(np.int64)), options.context)


def contenders():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"width": options.width, "layers": options.layers, "heads": options.heads}
    sizes |= {"vocabulary": options.vocabulary, "context": options.context}
    config = GPT2Config(
        vocab_size=options.vocabulary, n_positions=options.context, n_embd=options.width, n_layer=options.layers,
        n_head=options.heads, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=None, eos_token_id=None,
        use_cache=False,
    )  # fmt: skip
    models = {
        "ours": lms.GPT(**sizes), "ours again": lms.GPT(**sizes),
        "in the manner of nanoGPT": PlainGPT(**sizes), "transformers' GPT2": GPT2LMHeadModel(config),
    }  # fmt: skip
    if options.compile:
        for model in models.values():
            model.compile()
    return {
        "ours": Ours(models["ours"]), "ours again": Ours(models["ours again"]),
        "in the manner of nanoGPT": Plain(models["in the manner of nanoGPT"]),
        "transformers' GPT2": Plain(models["transformers' GPT2"], lambda output: output.logits),
    }  # fmt: skip


def seconds(contender) -> tuple[float, float]:
    """(wall, CPU) of one round; a call of fit is measured without its set-up, by one of a single step."""
    wall, cpu = time.perf_counter(), time.process_time()
    contender.run(options.steps + 1)
    middle, middle_cpu = time.perf_counter(), time.process_time()
    contender.run(1)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    end, end_cpu = time.perf_counter(), time.process_time()
    return (middle - wall) - (end - middle), (middle_cpu - cpu) - (end_cpu - middle_cpu)


def main():
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    runs, shuffled = contenders(), random.Random(0)
    for contender in runs.values():
        contender.run(3)  # warm up
    measured = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name in shuffled.sample(list(runs), len(runs)):
            measured[name].append(seconds(runs[name]))
    tokens = options.batch * options.context * options.steps
    sizes = f"{options.layers} layers, width {options.width}, vocabulary {options.vocabulary}"
    print(f"{sizes}, batch {options.batch} x {options.context}, {options.dtype}, {DEVICE}, {options.threads} threads")
    print(f"{'':26}{'tokens/s':>10}{'tokens/CPU-s':>14}   ours is ... times as fast (median over rounds, quartiles)")
    for name, times in measured.items():
        wall, cpu = (statistics.median(column) for column in zip(*times))
        line = f"{name:26}{tokens / wall:10,.0f}{tokens / cpu:14,.0f}   "
        for column, kind in enumerate(("wall", "CPU")):
            ratios = [other[column] / own[column] for own, other in zip(measured["ours"], times)]
            low, _, high = statistics.quantiles(ratios, n=4)
            line += f"{kind} {statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}]   "
        print(line)


if __name__ == "__main__":
    main()
