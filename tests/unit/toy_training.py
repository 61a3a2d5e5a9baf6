"""A task and models small enough to train in a second; also run as a program, to be killed or launched twice."""

import json
import os
import random
import signal
import sys
from types import SimpleNamespace

import torch


class Tagging:
    """One label a token, some of them ignored (-100): batches hold different numbers of counted units."""

    def encode(self, rows, tokenizer):
        return {
            "input_ids": [[ord(letter) % 50 for letter in text] for text in rows["text"]],
            "labels": [[-100 if letter == "e" else ord(letter) % 3 for letter in text] for text in rows["text"]],
        }

    def collate(self, features, tokenizer):
        length = max(len(feature["input_ids"]) for feature in features)

        def padded(name, value):
            return torch.tensor([f[name] + [value] * (length - len(f[name])) for f in features])

        ids, labels = padded("input_ids", 0), padded("labels", -100)
        return {"input_ids": ids, "attention_mask": (labels != -100).long(), "labels": labels}

    def loss(self, output, batch):
        loss = torch.nn.functional.cross_entropy(
            output["logits"].float().flatten(0, 1), batch["labels"].flatten(), reduction="sum"
        )
        return loss, (batch["labels"] != -100).sum()


class Tagger(torch.nn.Module):
    """A frozen embedding, a trained layer with dropout and a head."""

    def __init__(self, dropout=0.1, width=16, max_position_embeddings=64):
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(max_position_embeddings=max_position_embeddings)
        self.embedding = torch.nn.Embedding(50, width).requires_grad_(False)
        self.hidden, self.norm = torch.nn.Linear(width, width), torch.nn.LayerNorm(width)
        self.dropout, self.head = torch.nn.Dropout(dropout), torch.nn.Linear(width, 3)

    def forward(self, input_ids, attention_mask=None, labels=None):
        hidden_states = self.embedding(input_ids)
        hidden_states = self.norm(hidden_states + self.dropout(torch.relu(self.hidden(hidden_states))))
        return {"logits": self.head(hidden_states)}


def texts(rows=40, seed=0, longest=12):
    generator = random.Random(seed)
    return [{"text": "".join(generator.choices("abcdefghij", k=generator.randint(2, longest)))} for _ in range(rows)]


def splits(rows=40):
    return {"train": texts(rows), "validation": texts(12, seed=1)}


class Dying(Tagging):
    """Sends its own process a signal at the nth loss."""

    def __init__(self, at, number=signal.SIGKILL):
        self.left, self.number = at, number

    def loss(self, output, batch):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        return super().loss(output, batch)


def tiny_bert(dropout=0.0):
    from transformers import BertConfig, BertForTokenClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32, num_labels=3, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return BertForTokenClassification(config)


def main(options):
    """fit a Tagger as `options` says; writes history and weights' sum as JSON where they say."""
    from course_lib.training import fit

    out, die_at = options.pop("out"), options.pop("die_at", 0)
    model = tiny_bert() if options.pop("bert", False) else Tagger(options.pop("dropout", 0.1))
    task = Dying(die_at) if die_at else Tagging()
    history = fit(model, splits(options.pop("rows", 40)), task=task, progress=False, **options)
    weights = [float(p.detach().double().sum()) for p in model.parameters()]
    if os.environ.get("RANK", "0") == "0":
        with open(out, "w") as file:
            json.dump({"history": history.to_dict(), "weights": weights, "world": os.environ.get("WORLD_SIZE")}, file)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
