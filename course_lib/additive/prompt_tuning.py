"""Prompt tuning: Lester, Al-Rfou, Constant, "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021.

    E <- [P ; E],    P in R^(p x d)

The text is preceded by p vectors that no word has. They are trained; the model is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..architectures import Layout
from ..runtime import CourseError
from . import checks
from .base import Method
from .sites import Site

VIRTUAL_TOKENS = {  # the fields that peft's prompt methods share; the sizes are checked against the tensors
    **dict.fromkeys(("num_virtual_tokens", "token_dim", "num_attention_heads", "num_layers")),
    "num_transformer_submodules": (1,),
}
INITS = ("vocabulary", "text", "random")
COMMON = 5_000  # the paper samples from the 5,000 most common tokens; vocabularies list frequent ones first


@dataclass(frozen=True)
class PromptTuning(Method):
    """`length` p; `init` "vocabulary" (embeddings of common tokens), "text" (those of `init_text`, repeated or cut to
    p) or "random" (uniform in [-0.5, 0.5], as in the paper).

    Encoders whose classifier reads the first token keep [CLS] first: [CLS; P; E]. `compat="peft"` gives peft's
    [P; CLS; E], where the classifier reads a virtual token.
    """

    length: int = 20
    init: str = "vocabulary"
    init_text: str | None = None
    compat: str | None = None

    family = "additive"
    paper = "Lester et al. 2021"
    formula = "E <- [P ; E]"
    count = "p d"
    peft_type = "PROMPT_TUNING"
    peft_fields = ("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")
    peft_values = VIRTUAL_TOKENS
    why_no_merge = "its vectors stand in the input, and no weight of the model does"

    def __post_init__(self):
        checks.whole_number(self, "length")
        checks.one_of(self, "init", INITS)
        checks.one_of(self, "compat", (None, "peft"))
        if (self.init == "text") != (self.init_text is not None):
            raise CourseError("init='text' and init_text='some words' go together: give both or neither.")

    peft_head = "base_model."

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        weight = layout.embedding.weight.detach()
        if self.init == "random":
            vectors = torch.rand(self.length, layout.width) - 0.5
        else:
            vectors = weight[self.token_ids(layout)]
        yield Site("prompt"), Prompt(vectors.float().clone(), first=self.compat == "peft")

    def token_ids(self, layout: Layout) -> Tensor:
        """The p tokens whose embeddings the prompt begins with."""
        tokenizer = layout.tokenizer
        if self.init == "vocabulary":
            rare = set() if tokenizer is None else {
                i for token, i in tokenizer.get_vocab().items() if token.startswith("[unused")
            } | set(tokenizer.all_special_ids)
            common = [i for i in range(layout.vocabulary) if i not in rare][:COMMON]
            return torch.tensor(common)[torch.randint(len(common), (self.length,))]
        if tokenizer is None:
            raise CourseError("init='text' needs a tokenizer: attach to load_base(...), not to a bare model.")
        ids = tokenizer(self.init_text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise CourseError("init_text has no tokens: give at least one word.")
        return torch.tensor((ids * self.length)[: self.length])

    def to_peft(self, layout: Layout, state: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]] | None:
        if not (layout.causal or self.compat == "peft"):  # peft puts the prompt before [CLS]
            return None
        return prompt_config(layout, self.length), {"prompt_embeddings": state["prompt.prompt_embeddings"]}

    @classmethod
    def from_peft(cls, config: dict, state: dict[str, Tensor], layout: Layout) -> PromptTuning:
        return cls(config["num_virtual_tokens"], init="random", compat=None if layout.causal else "peft")

    def state_from_peft(self, layout: Layout, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"prompt.prompt_embeddings": state["prompt_embeddings"]}


def prompt_config(layout: Layout, length: int) -> dict:
    """The fields that peft's prompt methods share."""
    return {
        "num_virtual_tokens": length, "token_dim": layout.width, "num_transformer_submodules": 1,
        "num_attention_heads": layout.num_heads, "num_layers": layout.num_layers,
    }


class Prompt(nn.Module):
    """P, of shape (p, d)."""

    def __init__(self, vectors: Tensor, first: bool = False):
        super().__init__()
        self.prompt_embeddings = nn.Parameter(vectors)
        self.first = first

    @property
    def length(self) -> int:
        return len(self.prompt_embeddings)

    def start(self, layout: Layout) -> int:
        """Where the prompt is put: before everything, or behind a [CLS] that the classifier reads."""
        return 1 if layout.family.reads_first and not self.first else 0

    def forward(self) -> Tensor:
        return self.prompt_embeddings
