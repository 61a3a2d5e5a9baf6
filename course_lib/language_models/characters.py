"""A tokenizer for a script without spaces: each character is a token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence


class Characters:
    """Text <-> ids of its characters, learnt from `texts`: those that occur at least `at_least` times.

    Five ids mean more than a character: pad (0), begin (1), which stands first in every text and whose state a
    classifier reads, end (2), mask (3), and unknown (4), which stands for every other character.
    """

    pad_token_id, bos_token_id, eos_token_id, mask_token_id, unk_token_id = range(5)
    all_special_ids = tuple(range(5))
    padding_side = "right"

    def __init__(self, texts: Iterable[str], at_least: int = 2):
        counts = Counter(character for text in texts for character in text)
        often = sorted((c for c, n in counts.items() if n >= at_least), key=lambda c: (-counts[c], c))
        self.characters = often
        self.ids = {character: i for i, character in enumerate(often, start=5)}

    def __len__(self) -> int:
        return 5 + len(self.characters)

    def __call__(self, text: str | Sequence[str], truncation: bool = False, max_length: int | None = None) -> dict:
        """{"input_ids": ...} of a text or a list of texts, begin first; `truncation` cuts to `max_length` ids."""
        if not isinstance(text, str):
            return {"input_ids": [self(t, truncation, max_length)["input_ids"] for t in text]}
        ids = [self.bos_token_id, *(self.ids.get(character, self.unk_token_id) for character in text)]
        return {"input_ids": ids[:max_length] if truncation else ids}

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; an unknown character and a mask show as a box, the other special ids not at all."""
        shown = {self.mask_token_id: "□", self.unk_token_id: "□"}
        return "".join(self.characters[i - 5] if i >= 5 else shown.get(i, "") for i in map(int, ids))
