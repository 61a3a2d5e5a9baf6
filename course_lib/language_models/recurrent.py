"""Recurrent networks: one state that reads the text from left to right (Elman 1990, Hochreiter and Schmidhuber 1997,
Cho et al. 2014).

The three cells are written out, with torch.nn's names and weights; the model runs torch's fused loops, which compute
the same (a test holds them together), or with `fused=False` the cells one step after the other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..runtime import CourseError
from .blocks import num_parameters


class Cell(nn.Module):
    """Weights of `gates` maps of the input x (B, d) and of the state h (B, d), stacked."""

    gates = 1

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.width = width
        self.weight_ih = nn.Parameter(torch.empty(self.gates * width, inputs))
        self.weight_hh = nn.Parameter(torch.empty(self.gates * width, width))
        self.bias_ih = nn.Parameter(torch.empty(self.gates * width))
        self.bias_hh = nn.Parameter(torch.empty(self.gates * width))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(width), 1 / math.sqrt(width))

    def of_input(self, x: Tensor) -> Tensor:
        return x @ self.weight_ih.T + self.bias_ih  # (B, gates d)

    def of_state(self, h: Tensor) -> Tensor:
        return h @ self.weight_hh.T + self.bias_hh

    def start(self, x: Tensor) -> tuple[Tensor, ...]:
        """The state before the first token: zeros."""
        return (x.new_zeros(len(x), self.width),)


class RNNCell(Cell):
    """h <- tanh(W x + b + U h + c)"""

    def forward(self, x: Tensor, state: tuple[Tensor]) -> tuple[Tensor]:
        (h,) = state
        return (torch.tanh(self.of_input(x) + self.of_state(h)),)


class LSTMCell(Cell):
    """c <- f * c + i * g, h <- o * tanh(c): the memory c is added to, and gates say what is kept, written and read."""

    gates = 4

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, c = state
        i, f, g, o = (self.of_input(x) + self.of_state(h)).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def start(self, x: Tensor) -> tuple[Tensor, ...]:
        return super().start(x) * 2


class GRUCell(Cell):
    """h <- (1 - z) * n + z * h, n = tanh(W x + b + r * (U h + c)): z keeps the old state, r forgets it for n."""

    gates = 3

    def forward(self, x: Tensor, state: tuple[Tensor]) -> tuple[Tensor]:
        (h,) = state
        r_x, z_x, n_x = self.of_input(x).chunk(3, dim=-1)
        r_h, z_h, n_h = self.of_state(h).chunk(3, dim=-1)
        r, z = (r_x + r_h).sigmoid(), (z_x + z_h).sigmoid()
        n = torch.tanh(n_x + r * n_h)
        return ((1 - z) * n + z * h,)


CELLS = {"rnn": (RNNCell, nn.RNN), "lstm": (LSTMCell, nn.LSTM), "gru": (GRUCell, nn.GRU)}


class Recurrent(nn.Module):
    """ids (B, T) -> logits (B, T, V): layers of cells over the tokens, each reading the states of the one below."""

    context = reach = None  # the state has no fixed length

    def __init__(
        self, cell: str = "lstm", vocabulary: int = 256, width: int = 256, layers: int = 1, dropout: float = 0.0,
        fused: bool = True,
    ):  # fmt: skip
        super().__init__()
        if cell not in CELLS:
            raise CourseError(f"cell={cell!r} is not known; choose one of {', '.join(CELLS)}.")
        own, torchs = CELLS[cell]
        self.cell, self.vocabulary, self.fused = cell, vocabulary, fused
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(width))
        self.dropout = nn.Dropout(dropout)
        if fused:
            between = dropout if layers > 1 else 0.0
            self.recurrence = torchs(width, width, layers, batch_first=True, dropout=between)
        else:
            self.recurrence = nn.ModuleList(own(width, width) for _ in range(layers))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, input_ids: Tensor, cache: dict | None = None) -> Tensor:
        """With a `cache` the ids go on from the state that it holds, and it holds the new one afterwards."""
        x = self.dropout(self.embedding(input_ids))  # (B, T, d)
        run = self.recurrence if self.fused else self.written_out
        states, last = run(x, cache["state"] if cache else None)
        if cache is not None:
            cache["state"] = last
        return self.head(self.dropout(states))

    def written_out(self, x: Tensor, state: list | None) -> tuple[Tensor, list]:
        """The same as torch's loop: layer by layer, token by token."""
        last = []
        for number, cell in enumerate(self.recurrence):
            now, outputs = state[number] if state else cell.start(x[:, 0]), []
            for t in range(x.shape[1]):
                now = cell(x[:, t], now)
                outputs.append(now[0])
            x = torch.stack(outputs, dim=1)
            if number + 1 < len(self.recurrence):
                x = self.dropout(x)
            last.append(now)
        return x, last

    def new_cache(self) -> dict:
        """An empty cache: a generation carries the state in it from token to token."""
        return {}

    def num_parameters(self) -> int:
        return num_parameters(self)
