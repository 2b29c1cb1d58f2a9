"""Tokenizers of every kind that can be made smaller, trained on the text of the licence, with its quirks."""

import functools
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from jdistill.student import Tokenizer as OurTokenizer

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SIZE = 700


@functools.cache
def texts() -> tuple[str, ...]:
    """Lines of the licence."""
    lines = (Path(__file__).parents[3] / "LICENSE").read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if len(line) > 20)


def wordpiece() -> Tokenizer:
    """Lower-cased words and pieces, as of BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=SIZE, special_tokens=SPECIAL, show_progress=False)
    return _trained(tokenizer, trainer)


def byte_level() -> Tokenizer:
    """Merged bytes, as of RoBERTa and ModernBERT, with RoBERTa's own post-processor."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer = _trained(tokenizer, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def whole_words_first() -> Tokenizer:
    """The same, but a word that is a token is looked up before anything is merged, as of Llama 3 and EuroBERT."""
    definition = json.loads(byte_level().to_str())
    definition["model"]["ignore_merges"] = True
    assert "ĠContribution" in definition["model"]["vocab"]
    # No merges lead to it any more.
    definition["model"]["merges"] = [pair for pair in definition["model"]["merges"] if "".join(pair) != "ĠContribution"]
    return Tokenizer.from_str(json.dumps(definition))


def sentencepiece_bpe() -> Tokenizer:
    """Merged characters over whole texts, every way to make a token a merge of its own, bytes for the rest: Gemma."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=SIZE, special_tokens=SPECIAL, show_progress=False)
    definition = json.loads(_trained(tokenizer, trainer).to_str())
    vocab: dict[str, int] = definition["model"]["vocab"]
    ranked = sorted((id_, token) for token, id_ in vocab.items())
    splits = [(t[:i], t[i:]) for _, t in ranked for i in range(1, len(t)) if t[:i] in vocab and t[i:] in vocab]
    definition["model"]["merges"] = [list(pair) for pair in splits if "".join(pair) not in SPECIAL]
    first = max(vocab.values()) + 1
    vocab |= {f"<0x{byte:02X}>": first + byte for byte in range(256)}
    definition["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    definition["pre_tokenizer"] = None
    return Tokenizer.from_str(json.dumps(definition))


def unigram() -> Tokenizer:
    """Pieces with probabilities, as of XLM-RoBERTa."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=SIZE, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False, n_sub_iterations=1
    )
    return _trained(tokenizer, trainer)


KINDS = {
    "wordpiece": wordpiece,
    "byte-level bpe": byte_level,
    "bpe, whole words first": whole_words_first,
    "sentencepiece bpe": sentencepiece_bpe,
    "unigram": unigram,
}


def write(tokenizer: Tokenizer, folder: Path) -> OurTokenizer:
    """The tokenizer with all files that a model has, and as ours."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos": "<s>", "cls": "<s>", "pad": "<pad>", "eos": "</s>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
    settings = {f"{name}_token": token for name, token in named.items()}
    (folder / "special_tokens_map.json").write_text(json.dumps(settings))
    decoder = {str(tokenizer.token_to_id(token)): {"content": token, "special": True} for token in SPECIAL}
    more = {"added_tokens_decoder": decoder, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | more))
    return OurTokenizer.from_folder(folder)


def _trained(tokenizer: Tokenizer, trainer) -> Tokenizer:
    tokenizer.train_from_iterator(texts(), trainer)
    # Not special, and not in the model's own vocabulary: as runs of spaces are in ModernBERT's.
    tokenizer.add_tokens(["|||name|||", "zzz"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("<s>", "</s>")]
    )
    return tokenizer
