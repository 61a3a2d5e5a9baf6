"""The simplest tokenizer: a text's UTF-8 bytes are its ids, and a few numbers above them mean more than text."""

from __future__ import annotations

from collections.abc import Sequence

from .text import as_ids


class Bytes:
    """Text <-> ids 0 to 255, with the names and the manners of a transformers tokenizer.

    Above the bytes stand pad (256), begin (257), end (258), mask (259) and then `sentinels`, the marks of hidden spans.
    With `end=True` every text is closed by the end token, as encoder-decoders need it.
    """

    pad_token_id, bos_token_id, eos_token_id, mask_token_id = 256, 257, 258, 259
    padding_side = "right"

    def __init__(self, sentinels: int = 0, end: bool = False):
        self.end = [self.eos_token_id] if end else []
        self.sentinel_ids = list(range(260, 260 + sentinels))
        self.all_special_ids = [256, 257, 258, 259, *self.sentinel_ids]

    def __len__(self) -> int:
        return 260 + len(self.sentinel_ids)

    def __call__(
        self, text: str | Sequence[str], truncation: bool = False, max_length: int | None = None,
        add_special_tokens: bool = True,
    ) -> dict[str, list]:  # fmt: skip
        """{"input_ids": ...} of a text or a list of texts; `truncation` cuts to `max_length`, the end token kept."""
        if not isinstance(text, str):
            return {"input_ids": [self(t, truncation, max_length, add_special_tokens)["input_ids"] for t in text]}
        ids, end = as_ids(text).tolist(), self.end if add_special_tokens else []
        return {"input_ids": (ids[: max_length - len(end)] if truncation else ids) + end}

    def decode(self, ids, skip_special_tokens: bool = True) -> str:
        """The text of ids (N,); bytes that are no UTF-8, such as half a character at a cut, show as a mark.

        Special ids are left out, or with `skip_special_tokens=False` shown as <256> and so on.
        """
        raw = b""
        for i in as_ids(ids).tolist():
            if i < 256:
                raw += bytes([i])
            elif not skip_special_tokens:
                raw += f"<{i}>".encode()
        return raw.decode(errors="replace")

    def batch_decode(self, rows, skip_special_tokens: bool = True) -> list[str]:
        return [self.decode(row, skip_special_tokens) for row in rows]

    def to_transformers(self):
        """The same as a transformers tokenizer: byte-level BPE without a single merge."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        bare = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in bytes_to_unicode().items()}, merges=[]))
        bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        bare.decoder = decoders.ByteLevel()
        names = {"pad_token": "<pad>", "bos_token": "<begin>", "eos_token": "<end>", "mask_token": "<mask>"}
        marks = [f"<extra_id_{n}>" for n in range(len(self.sentinel_ids))]
        bare.add_special_tokens([*names.values(), *marks])
        if self.end:
            bare.post_processor = processors.TemplateProcessing(
                single="$A <end>", special_tokens=[("<end>", self.eos_token_id)]
            )
        return PreTrainedTokenizerFast(tokenizer_object=bare, extra_special_tokens=marks, **names)
