"""A language whose entropy is known: the floor under every model's cross-entropy (Shannon 1948)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..runtime import CourseError


class SyntheticLanguage(nn.Module):
    """Each of V symbols is drawn from a distribution that the two symbols before it choose: a Markov chain of order 2.

    The V * V distributions are drawn once from a Dirichlet distribution with the given concentration: the smaller, the
    more predictable the language. `language(ids)` gives the true logits, so that the language can be measured like any
    model; none can do better than `entropy` on average, because the cross-entropy exceeds it by a divergence.
    """

    context, reach = None, 2

    def __init__(self, seed: int = 0, vocabulary: int = 16, concentration: float = 0.3):
        super().__init__()
        if vocabulary < 2 or concentration <= 0:
            raise CourseError(
                f"A language needs at least two symbols and a positive concentration; {vocabulary} and "
                f"{concentration} were given."
            )
        self.vocabulary = vocabulary
        draw = np.random.default_rng(seed)
        p = draw.dirichlet(np.full(vocabulary, concentration), size=(vocabulary, vocabulary))
        p = 0.999 * p + 0.001 / vocabulary  # nothing is impossible: every pair is reached, logarithms are finite
        self.p = p  # p[i, j, k]: the probability of k after i, j
        self.stationary = self._stationary()  # (V, V), of pairs

    def _stationary(self) -> np.ndarray:
        """The distribution of pairs that one more step leaves as it is: pi[j, k] = sum_i pi[i, j] p[i, j, k]."""
        V = self.vocabulary
        step = np.zeros((V, V, V, V))  # from (i, j) to (j, k)
        for j in range(V):
            step[:, j, j, :] = self.p[:, j, :]
        system = np.vstack([step.reshape(V * V, V * V).T - np.eye(V * V), np.ones(V * V)])
        pi = np.linalg.lstsq(system, np.append(np.zeros(V * V), 1.0), rcond=None)[0]
        return pi.reshape(V, V)

    @property
    def entropy(self) -> float:
        """Bits a symbol: -sum_ij pi[i, j] sum_k p[i, j, k] log2 p[i, j, k], exact."""
        return float(-(self.stationary[..., None] * self.p * np.log2(self.p)).sum())

    def entropy_at(self, order: int) -> float:
        """Bits a symbol for a model that sees order - 1 symbols: order 1 none, 2 one, 3 or more all that matters."""
        if order >= 3:
            return self.entropy
        pairs = self.stationary
        singles = pairs.sum(0)
        if order == 1:
            return float(-(singles * np.log2(singles)).sum())
        after = pairs / pairs.sum(1, keepdims=True)
        return float(-(pairs * np.log2(after)).sum())

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n symbols (n,), int64, from the stationary distribution."""
        draw = np.random.default_rng(seed)
        i, j = divmod(int(draw.choice(self.vocabulary**2, p=self.stationary.ravel())), self.vocabulary)
        cumulative, uniform = self.p.cumsum(-1), draw.random(n)
        cumulative[..., -1] = 1.0
        symbols = np.empty(n, dtype=np.int64)
        for t in range(n):
            symbols[t] = cumulative[i, j].searchsorted(uniform[t], side="right")
            i, j = j, symbols[t]
        return torch.from_numpy(symbols)

    def forward(self, input_ids: Tensor) -> Tensor:
        """The true log-probabilities (B, T, V); behind a text's first symbol, those given that one alone."""
        ids = input_ids.cpu().numpy()
        p = np.empty((*ids.shape, self.vocabulary))
        first = self.stationary / self.stationary.sum(1, keepdims=True)
        p[:, :1] = first[ids[:, :1]]
        p[:, 1:] = self.p[ids[:, :-1], ids[:, 1:]]
        return torch.from_numpy(np.log(p)).float().to(input_ids.device)

    def num_parameters(self) -> int:
        """The free numbers: V * V distributions over V symbols."""
        return self.vocabulary**2 * (self.vocabulary - 1)
