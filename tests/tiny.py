"""Tiny random model folders: what a test needs of a real one, in milliseconds and without network.

Import as `from tests.tiny import tiny_bert_folder, tiny_static_folder`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# fmt: off
WORDS = (
    "the", "a", "cat", "dog", "bird", "man", "woman", "child", "house", "river", "tree", "sits", "runs",
    "sings", "reads", "over", "under", "near", "big", "small", "red", "blue", "old", "new", "two", "three",
    "city", "train", "music", "water", "fire", "bread", "plays", "eats", "sees", "and", "or", "not", "is",
    "are", "was", "in", "on", "of", "to", "with", "##s", "##ing", "##ed", "##er", "##ly",
)
# fmt: on
VOCABULARY = (*SPECIAL, *WORDS, *"bcdefghijklmnopqrstuvwxyz0123456789.,!?'-", *(f"##{c}" for c in "abcdefghijklmnop"))

SENTENCES = (
    "The cat sits near the river.",
    "A dog runs over the old house!",
    "Two birds sing in a tree",
    "music",
    "The woman reads, and the child plays with the red train in the big city near the water of the river.",
    "",
    "bread and fire",
    "Three men see a blue house under the tree.",
)

# Mode -> key of 1_Pooling/config.json in releases before 5.4.
_POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def tiny_bert_folder(
    folder: str | Path,
    *,
    hidden: int = 32,
    layers: int = 3,
    heads: int = 4,
    vocab: Sequence[str] = VOCABULARY,
    max_length: int = 64,
    pooling: str | Sequence[str] = "mean",
    normalize: bool = True,
    seed: int = 0,
    sentence_transformers: bool = True,
    padding_side: str = "right",
    prompts: dict[str, str] | None = None,
    masked_lm: bool = False,
) -> Path:
    """A BERT with random weights and a lower-casing WordPiece tokenizer, as a Hugging Face folder.

    With `sentence_transformers` the folder also holds the legacy (<= 5.3) layout files: Transformer, Pooling and,
    with `normalize`, Normalize. `max_length` counts tokens, special ones included. With `masked_lm` the model has the
    head of a masked language model. Returns `folder` as a Path.
    """
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertModel

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * hidden,
        max_position_embeddings=max_length,
        pad_token_id=0,
        # Ten times BERT's own: outputs then depend on every word, so a wrong layer is seen.
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForMaskedLM(config) if masked_lm else BertModel(config)
        for parameter in model.parameters():  # biases 0 and scales 1 would hide a swapped key
            parameter.data.add_(0.02 * torch.randn_like(parameter))
        model.save_pretrained(folder)
    write_tokenizer(folder, vocab, max_length=max_length, padding_side=padding_side)
    if sentence_transformers:
        write_modules(folder, hidden, (pooling,) if isinstance(pooling, str) else pooling, normalize)
        _write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
        _write_json(folder / "config_sentence_transformers.json", _st_config(prompts))
    return folder


def tiny_static_folder(
    folder: str | Path,
    *,
    width: int = 16,
    vocab: Sequence[str] = VOCABULARY,
    normalize: bool = False,
    seed: int = 0,
    prompts: dict[str, str] | None = None,
) -> Path:
    """A sentence-transformers StaticEmbedding with a random table, in the layout of releases before 5.4."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = Path(folder)
    module = folder / "0_StaticEmbedding"
    module.mkdir(parents=True, exist_ok=True)
    write_tokenizer(module, vocab, max_length=512)
    table = np.random.default_rng(seed).normal(size=(len(vocab), width)).astype(np.float32)
    save_file({"embedding.weight": table}, module / "model.safetensors", metadata={"format": "pt"})
    modules = [("0_StaticEmbedding", "StaticEmbedding")] + [("1_Normalize", "Normalize")] * normalize
    _write_json(folder / "modules.json", [_module(i, path, name) for i, (path, name) in enumerate(modules)])
    _write_json(folder / "config_sentence_transformers.json", _st_config(prompts))
    return folder


def write_tokenizer(
    folder: str | Path,
    vocab: Sequence[str] = VOCABULARY,
    *,
    max_length: int = 64,
    padding_side: str = "right",
    further: Sequence[str] = (),
) -> None:
    """tokenizer.json, tokenizer_config.json, special_tokens_map.json and vocab.txt of a lower-casing WordPiece.

    `further` are special tokens besides the usual ones, with the ids behind the vocabulary.
    """
    from tokenizers import Tokenizer
    from tokenizers.decoders import WordPiece as WordPieceDecoder
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing

    folder = Path(folder)
    ids = {token: i for i, token in enumerate(vocab)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]"))
    tokenizer.add_special_tokens([*SPECIAL, *further])
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    special = {f"{key}_token": token for key, token in names.items()}
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(
        folder / "tokenizer_config.json",
        {
            **special,
            "do_lower_case": True,
            "model_max_length": max_length,
            "padding_side": padding_side,
            "tokenizer_class": "BertTokenizer",
        },
    )
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")


def write_modules(
    folder: Path, width: int, pooling: Sequence[str], normalize: bool, *, include_prompt: bool = True
) -> None:
    """modules.json and 1_Pooling/config.json of the layout of releases before 5.4."""
    (folder / "1_Pooling").mkdir(exist_ok=True)
    keys = {key: mode in pooling for mode, key in _POOLING_KEYS.items()}
    _write_json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": width, **keys, "include_prompt": include_prompt},
    )
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * normalize
    _write_json(folder / "modules.json", [_module(i, path, name) for i, (path, name) in enumerate(modules)])


def _module(index: int, path: str, name: str) -> dict[str, Any]:
    return {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}


def _st_config(prompts: dict[str, str] | None) -> dict[str, Any]:
    version = {"sentence_transformers": "3.0.0", "transformers": "4.40.0", "pytorch": "2.2.0"}
    return {"__version__": version, "prompts": prompts or {}, "default_prompt_name": None}


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
