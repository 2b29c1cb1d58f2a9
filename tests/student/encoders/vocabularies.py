"""Tiny tokenizers of each family, built without network: WordPiece, byte-level BPE and Unigram."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.tiny import SENTENCES, WORDS


class Special(NamedTuple):
    """Special tokens of a family, which stand at the beginning of the vocabulary in the order of `order`."""

    pad: str
    unknown: str
    begin: str
    end: str
    mask: str
    order: str
    """Fields, in the order of their ids."""

    @property
    def listed(self) -> list[str]:
        """By id."""
        return [getattr(self, name) for name in self.order.split()]


BERT = Special("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "pad unknown begin end mask")
FAIRSEQ = Special("<pad>", "<unk>", "<s>", "</s>", "<mask>", "begin pad end unknown mask")
MPNET = FAIRSEQ._replace(unknown="[UNK]")


class Vocabulary(NamedTuple):
    """A tokenizer and its special tokens."""

    tokenizer: tokenizers.Tokenizer
    special: Special

    @property
    def size(self) -> int:
        """Tokens."""
        return self.tokenizer.get_vocab_size()

    @property
    def ids(self) -> dict[str, int]:
        """What a `config.json` says of special tokens."""
        named = {"pad": self.special.pad, "bos": self.special.begin, "eos": self.special.end}
        return {f"{name}_token_id": self.special.listed.index(token) for name, token in named.items()}

    def write(self, folder: Path, *, max_length: int) -> None:
        """The files that a folder has of it; texts are cut at `max_length` tokens."""
        self.tokenizer.save(str(folder / "tokenizer.json"))
        pad, unknown, begin, end, mask, _ = self.special
        names = {"pad": pad, "unk": unknown, "mask": mask, "cls": begin, "sep": end, "bos": begin, "eos": end}
        content = {f"{name}_token": token for name, token in names.items()} | {
            "model_max_length": max_length,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(content), encoding="utf-8")


Make = Callable[[], Vocabulary]
"""Rows of the table name a function: a tokenizer is built when a test needs it."""


def wordpiece(special: Special) -> Make:
    """Lower-cased words and their pieces, as of BERT and MPNet."""
    pieces = [*special.listed, *WORDS, *"bcdefghijklmnopqrstuvwxyz0123456789.,!?'-", *(f"##{c}" for c in "abcdefghijk")]

    @functools.cache
    def make() -> Vocabulary:
        ids = {piece: i for i, piece in enumerate(pieces)}
        tokenizer = tokenizers.Tokenizer(models.WordPiece(ids, unk_token=special.unknown))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        return _finished(tokenizer, special)

    return make


def byte_pairs(special: Special, *, begins: bool = True) -> Make:
    """Merged bytes, as of RoBERTa and most models since; without `begins`, texts have a token at their end only."""

    @functools.cache
    def make() -> Vocabulary:
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=310,
            special_tokens=special.listed,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(SENTENCES, trainer)
        return _finished(tokenizer, special, begins=begins)

    return make


def unigram(special: Special) -> Make:
    """Pieces with probabilities, as of XLM-RoBERTa; a word begins with a visible space."""

    @functools.cache
    def make() -> Vocabulary:
        words = [word for word in WORDS if not word.startswith("#")]
        scores = {f"▁{word}": -3.0 - 0.01 * i for i, word in enumerate(words)}
        scores |= {piece: -8.0 - 0.01 * i for i, piece in enumerate("▁abcdefghijklmnopqrstuvwxyzATM.,!")}
        pieces = [(token, 0.0) for token in special.listed] + list(scores.items())
        unknown = special.listed.index(special.unknown)
        tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=unknown))
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        return _finished(tokenizer, special)

    return make


def _finished(tokenizer: tokenizers.Tokenizer, special: Special, *, begins: bool = True) -> Vocabulary:
    tokenizer.add_special_tokens(list(dict.fromkeys(special.listed)))
    around = [special.begin] * begins + ["$A", special.end]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(around),
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in dict.fromkeys((special.begin, special.end))],
    )
    return Vocabulary(tokenizer, special)
