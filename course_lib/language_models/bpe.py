"""Byte-pair encoding on bytes, in plain Python, and the same vocabulary as a fast `tokenizers.Tokenizer`.

    bpe = BPE.train(texts, merges=1000)
    bpe.encode("the film"), bpe.decode(ids), bpe.tokens[300]
    fast = bpe.fast()                            # the same ids, a hundred times faster; can be saved as one JSON file

Sennrich, Haddow and Birch (ACL 2016) merge characters; GPT-2 (Radford and others 2019) merges bytes, as here. Ids,
merges and ties are those of the `tokenizers` library: tests compare them.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from ..runtime import CourseError

if TYPE_CHECKING:
    import tokenizers

Pair = tuple[int, int]

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTES: tuple[bytes, ...] = tuple(bytes([byte]) for byte in [*_PRINTABLE, *_OTHERS])  # token i < 256 is BYTES[i]
_ID_OF = {byte[0]: i for i, byte in enumerate(BYTES)}
# GPT-2's files write every byte as one visible character: itself if it is printable, else one from 0x100 upwards.
VISIBLE = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(0x100 + i) for i, byte in enumerate(_OTHERS)}
_BYTE_OF = {character: byte for byte, character in VISIBLE.items()}


@lru_cache
def _gpt2_rule():
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel(add_prefix_space=False)


def pieces(text: str) -> list[bytes]:
    """`text` cut by GPT-2's rule into pieces that no token crosses: words with the space before them, runs of digits,
    of punctuation, of white space. Joined they are the text's UTF-8 bytes."""
    return [bytes(_BYTE_OF[character] for character in piece) for piece, _ in _gpt2_rule().pre_tokenize_str(text)]


def merge(ids: Sequence[int], pair: Pair, new: int) -> list[int]:
    """`ids` with each occurrence of `pair` replaced by `new`, from left to right and never overlapping."""
    merged, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


@dataclass(frozen=True)
class BPE:
    """A byte-pair vocabulary: 256 bytes, then one token for each merge, in the order in which they were learnt.

    merges[k] = (left, right) are the ids that token 256 + k joins.
    """

    merges: tuple[Pair, ...]

    @classmethod
    def train(cls, texts: Iterable[str], merges: int) -> BPE:
        """Learn up to `merges` merges from `texts`: always the commonest pair; of equals, the one of the lowest ids.

        Only words that contain the merged pair are counted again. Learning ends early when no pair is left.
        """
        if isinstance(texts, str):
            raise CourseError("BPE.train takes a list of texts, but one text was given: write BPE.train([text], ...).")
        frequency = Counter(piece for text in texts for piece in pieces(text))
        words = {piece: [_ID_OF[byte] for byte in piece] for piece in frequency}
        counts: Counter[Pair] = Counter()
        holders: defaultdict[Pair, set[bytes]] = defaultdict(set)  # the words that contain a pair, or once did
        for piece, ids in words.items():
            for pair in pairwise(ids):
                counts[pair] += frequency[piece]
                holders[pair].add(piece)
        queue = [(-count, pair) for pair, count in counts.items()]
        heapq.heapify(queue)
        learnt: list[Pair] = []
        while queue and len(learnt) < merges:
            count, pair = heapq.heappop(queue)
            if -count != counts[pair]:  # an old entry: put the pair back with its present count
                if counts[pair] > 0:
                    heapq.heappush(queue, (-counts[pair], pair))
                continue
            new, changed = 256 + len(learnt), set()
            learnt.append(pair)
            for piece in holders.pop(pair):
                before, after = words[piece], merge(words[piece], pair, new)
                words[piece] = after
                for old in pairwise(before):
                    counts[old] -= frequency[piece]
                for made in pairwise(after):
                    counts[made] += frequency[piece]
                    if new in made:
                        holders[made].add(piece)
                        changed.add(made)
            for made in changed:
                heapq.heappush(queue, (-counts[made], made))
        return cls(tuple(learnt))

    @cached_property
    def tokens(self) -> list[bytes]:
        """The bytes that each id stands for."""
        tokens = list(BYTES)
        for left, right in self.merges:
            tokens.append(tokens[left] + tokens[right])
        return tokens

    @cached_property
    def ranks(self) -> dict[Pair, int]:
        """Pair -> its place in the order of merges."""
        return {pair: rank for rank, pair in enumerate(self.merges)}

    def first(self, merges: int) -> BPE:
        """The smaller vocabulary that only its first `merges` merges make."""
        return BPE(self.merges[:merges])

    def encode(self, text: str) -> list[int]:
        """The ids of `text`: in each piece, again and again, the merge that was learnt first among those possible."""
        return [i for piece in pieces(text) for i in self._encode_piece(piece)]

    def _encode_piece(self, piece: bytes) -> list[int]:
        ids = [_ID_OF[byte] for byte in piece]
        while len(ids) > 1:
            pair = min(pairwise(ids), key=lambda pair: self.ranks.get(pair, len(self.merges)))
            if pair not in self.ranks:
                break
            ids = merge(ids, pair, 256 + self.ranks[pair])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text that `ids` stand for; bytes that are no whole character become U+FFFD."""
        return b"".join(self.tokens[i] for i in ids).decode("utf-8", "replace")

    def fast(self) -> tokenizers.Tokenizer:
        """The same vocabulary as a `tokenizers.Tokenizer`: fast(text).ids equal encode(text)."""
        from tokenizers import Tokenizer, decoders, models

        shown = ["".join(VISIBLE[byte] for byte in token) for token in self.tokens]
        merges = [(shown[left], shown[right]) for left, right in self.merges]
        tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(shown)}, merges=merges))
        tokenizer.pre_tokenizer = _gpt2_rule()
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer
