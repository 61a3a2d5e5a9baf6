"""P-tuning: Liu et al., "GPT Understands, Too", arXiv:2103.10385 (2021).

    E <- [P ; E],    P = MLP(P')  or  P = MLP(LSTM(P'))

A soft prompt whose vectors come from a small network, so that neighbours know of each other in training. Afterwards the
network is dropped and P kept: p d numbers, an ordinary soft prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..architectures import Layout
from . import checks
from .base import Method
from .prompt_tuning import VIRTUAL_TOKENS, Prompt, prompt_config
from .sites import Site


@dataclass(frozen=True)
class PTuning(Method):
    """`length` p; `encoder` "mlp" or "lstm"; `hidden` its width, by default the model's; `compat` as PromptTuning's."""

    length: int = 20
    encoder: str = "mlp"
    hidden: int | None = None
    compat: str | None = None

    family = "additive"
    paper = "Liu et al. 2021"
    formula = "E <- [P ; E], P = MLP(P') or LSTM(P')"
    count = "stores p d"
    peft_type = "P_TUNING"
    peft_fields = (
        "encoder_reparameterization_type", "encoder_hidden_size", "encoder_num_layers", "encoder_dropout",
    )  # fmt: skip
    peft_values = VIRTUAL_TOKENS
    peft_head = "base_model."
    why_no_merge = "its vectors stand in the input, and no weight of the model does"

    def __post_init__(self):
        checks.whole_number(self, "length")
        checks.one_of(self, "encoder", ("mlp", "lstm"))
        checks.one_of(self, "compat", (None, "peft"))
        if self.hidden is not None:
            checks.whole_number(self, "hidden")

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        yield Site("prompt"), EncodedPrompt(
            self.length, layout.width, self.hidden or layout.width, self.encoder, first=self.compat == "peft"
        )

    def to_peft(self, layout: Layout, state: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]] | None:
        if not (layout.causal or self.compat == "peft"):
            return None
        fields = prompt_config(layout, self.length)
        fields["encoder_reparameterization_type"] = self.encoder.upper()
        fields["encoder_hidden_size"] = self.hidden or layout.width
        return fields, {"prompt_embeddings": state["prompt.prompt_embeddings"]}

    @classmethod
    def from_peft(cls, config: dict, state: dict[str, Tensor], layout: Layout) -> PTuning:
        kind = str(config.get("encoder_reparameterization_type", "MLP")).lower().split(".")[-1]
        hidden = config.get("encoder_hidden_size")
        return cls(config["num_virtual_tokens"], kind, hidden, compat=None if layout.causal else "peft")

    def state_from_peft(self, layout: Layout, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"prompt.prompt_embeddings": state["prompt_embeddings"]}


class EncodedPrompt(Prompt):
    """P = MLP(P') or MLP(LSTM(P')), of shape (p, d)."""

    def __init__(self, length: int, width: int, hidden: int, encoder: str, first: bool = False):
        super().__init__(nn.init.normal_(torch.empty(length, width)), first)
        if encoder == "lstm":  # as in the paper: two layers, both directions, and a two-layer MLP
            self.lstm = nn.LSTM(width, hidden, num_layers=2, bidirectional=True, batch_first=True)
            self.mlp = nn.Sequential(nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, width))
        else:  # three layers, as in peft
            self.lstm = None
            self.mlp = nn.Sequential(
                nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width)
            )

    def forward(self) -> Tensor:
        if self.mlp is None:
            return self.prompt_embeddings
        states = self.prompt_embeddings if self.lstm is None else self.lstm(self.prompt_embeddings[None])[0][0]
        return self.mlp(states)

    def stored(self) -> dict[str, Tensor]:
        return {"prompt_embeddings": self().detach()}

    def fill(self, state: dict[str, Tensor]) -> None:
        """A loaded prompt has no network any more: it is what the network said."""
        self.mlp = self.lstm = None
        self.prompt_embeddings.copy_(state["prompt_embeddings"])
