"""The side of the `adapters` library in bench.py's section of that name, in an environment of its own.

    PYTHON benchmarks/adapters_worker.py FOLDER METHOD ROWS TOKENS

FOLDER holds a model as save_pretrained writes it. Reads one command a line, answers one line of JSON: "step" makes a
training step and gives its seconds, "peak" makes three and gives the peak memory in MB and what of it came on top.
"""

import json
import re
import sys
import time
from pathlib import Path

import adapters
import torch
from adapters import CompacterConfig, LoReftConfig, ParBnConfig, SeqBnConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, logging


def model_with(folder: str, method: str):
    """The model in eval mode, so without dropout, its own numbers frozen; the addition's (and a head's) trainable."""
    encoder = "Bert" in (Path(folder) / "config.json").read_text()
    kind = AutoModelForSequenceClassification if encoder else AutoModelForCausalLM
    model = kind.from_pretrained(folder)
    width = model.config.hidden_size
    config = {
        "BottleneckAdapter": lambda: SeqBnConfig(reduction_factor=width / 16),
        "ParallelAdapter": lambda: ParBnConfig(reduction_factor=width / 16),
        "Compacter": lambda: CompacterConfig(reduction_factor=width / 16, phm_dim=4),
        "LoReFT": lambda: LoReftConfig(r=4, prefix_positions=4, suffix_positions=4, tied_weights=True),
    }[method]()
    adapters.init(model)
    model.add_adapter("added", config=config)
    model.train_adapter("added")
    return model.eval(), encoder


def memory_now(what: str) -> float:
    """"VmRSS" or "VmHWM", the peak, of this process in MB."""
    return int(re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text()).group(1)) / 1024


def main() -> None:
    folder, method, rows, tokens = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    logging.set_verbosity_error()
    model, encoder = model_with(folder, method)
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(1000, 20_000, (rows, tokens), generator=draw)
    labels = torch.randint(0, 2, (rows,), generator=draw) if encoder else ids
    numbers = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(numbers, lr=1e-4, fused=True)

    def step() -> float:
        begun = time.perf_counter()
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - begun

    print(json.dumps({"trained": sum(p.numel() for p in numbers), "version": adapters.__version__}), flush=True)
    for command in sys.stdin:
        if command.strip() == "peak":
            before = memory_now("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak of loading
            for _ in range(3):
                step()
            answer = {"mb": memory_now("VmHWM"), "mb_above_model": memory_now("VmHWM") - before}
        else:
            answer = {"seconds": step()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
