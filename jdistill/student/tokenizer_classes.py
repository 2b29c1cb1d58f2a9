"""Builds the tokenizer that transformers would load from a folder, which may differ from its tokenizer.json.

Since release 5, tokenizer classes take only the vocabulary and added tokens from the files and rebuild the rest from
their own rules and the options in tokenizer_config.json. For example, `do_lower_case: false` overrides a tokenizer.json
that lower-cases. This module builds the same tokenizers in the format of tokenizer.json, so that students and exports
tokenize texts like their teachers and users do.

Source: transformers 5.23, `AutoTokenizer.from_pretrained` and `TokenizersBackend`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Definition = dict[str, Any]
"""Content of a tokenizer.json."""

REGISTERED: Mapping[str, str | None] = {
    "bert": "BertTokenizer",
    "camembert": "CamembertTokenizer",
    "distilbert": "BertTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "modernbert": None,
    "mpnet": "MPNetTokenizer",
    "nomic_bert": "BertTokenizer",
    "qwen3": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}
"""`model_type` -> its tokenizer class in transformers; None: always the generic class."""

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Settings that name a special token."""

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Regular expression of Qwen's pre-tokenizer."""


class _Class(NamedTuple):
    model: str
    """Type of the model in tokenizer.json."""
    tokens: Mapping[str, Any]
    """Default special tokens."""
    build: Callable[[Definition, Mapping[str, Any]], Definition]
    """Builds sections of tokenizer.json from the original ones and the settings, defaults included."""
    template: Callable[[Mapping[str, Any], Callable[[str], int]], Definition] | None = None
    """Builds `post_processor` from settings and token ids; None: as in the file, or from `add_bos_token` and so on."""


def class_of(settings: Mapping[str, Any], hf: Mapping[str, Any]) -> str | None:
    """The class that `AutoTokenizer` chooses for a folder.

    Args:
      settings: content of tokenizer_config.json.
      hf: content of config.json.

    Returns:
      Its name without "Fast"; None for the generic class, which uses tokenizer.json unchanged.
    """
    named = settings.get("tokenizer_class") or hf.get("tokenizer_class")
    named = named.removesuffix("Fast") if isinstance(named, str) else None
    kind = hf.get("model_type")
    registered = REGISTERED.get(kind) if isinstance(kind, str) else None
    if named is not None and kind in REGISTERED and registered is None:  # transformers distrusts their files
        return None
    found = named or registered
    return found if found in CLASSES else None


def as_transformers(
    definition: Definition,
    settings: Mapping[str, Any],
    special_tokens: Mapping[str, Any],
    hf: Mapping[str, Any],
    added_tokens: Mapping[str, int] | None = None,
) -> Definition:
    """The tokenizer.json of the tokenizer that transformers would load from a folder.

    Args:
      definition: content of the folder's tokenizer.json, or only its vocabulary.
      settings: content of tokenizer_config.json.
      special_tokens: content of special_tokens_map.json, used if `settings` has no `added_tokens_decoder`.
      hf: content of config.json.
      added_tokens: content of added_tokens.json, used under the same condition.
    """
    kind = CLASSES.get(class_of(settings, hf) or "")
    model = definition.get("model") or {}
    if kind is not None and model.get("type") not in (None, kind.model):  # the class cannot rebuild it
        kind = None
    own = "added_tokens_decoder" in settings  # it replaces the two older files, which are then not read
    named = {**({} if kind is None else kind.tokens), **settings, **({} if own else special_tokens)}  # later ones win
    named = {**named, **{name: _content(named[name]) for name in NAMED if name in named}}
    built = definition if kind is None else {**definition, **kind.build(definition, named)}
    ids = _ids(model.get("vocab") or {})
    if added_tokens and not own:
        definition = {**definition, "added_tokens": _with_first_form(definition, named, added_tokens, kind is None)}
    added = _added(definition, settings, named, ids, generic=kind is None, special_tokens=special_tokens)
    built = {**built, "added_tokens": added}
    ids = {**ids, **{token["content"]: token["id"] for token in added}}  # for the templates
    if kind is not None and kind.template is not None:
        return {**built, "post_processor": kind.template(named, lambda token: ids.get(token, 0))}
    if "post_processor" not in definition and ("add_bos_token" in settings or "add_eos_token" in settings):
        return {**built, "post_processor": _around(_bos_and_eos(named), lambda token: ids.get(token, 0))}
    return built


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, Mapping) else token


def _ids(vocabulary: Any) -> dict[str, int]:
    if isinstance(vocabulary, Mapping):
        return dict(vocabulary)
    return {entry[0]: i for i, entry in enumerate(vocabulary)}


def _with_first_form(
    definition: Definition, named: Mapping[str, Any], added_tokens: Mapping[str, int], generic: bool
) -> list[dict[str, Any]]:
    """The added tokens of tokenizer.json and added_tokens.json, ascending; for equal ids the former take precedence.

    The generic class keeps those of tokenizer.json and appends the others at free ids.
    """
    special = {_content(token) for token in (*(named.get(name) for name in NAMED), *_listed(named, _EXTRA))}
    tokens: dict[int, dict[str, Any]] = {}
    for content, place in added_tokens.items():
        flags = {"normalized": content not in special, "special": content in special}
        # None: `_added` gives it the next free one.
        tokens[place] = {"id": None if generic else place, "content": content, **_PLAIN, **flags}
    from_file = {token["id"]: token for token in definition.get("added_tokens") or []}
    if generic:
        known = {token["content"] for token in from_file.values()}
        return [
            *from_file.values(),
            *(tokens[place] for place in sorted(tokens) if tokens[place]["content"] not in known),
        ]
    merged = {**tokens, **from_file}
    return [merged[place] for place in sorted(merged)]


_EXTRA = "extra_special_tokens"


def _added(
    definition: Definition,
    settings: Mapping[str, Any],
    named: Mapping[str, Any],
    ids: Mapping[str, int],
    *,
    generic: bool,
    special_tokens: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The added tokens, ascending: those in the files, then special tokens that only the settings name."""
    listed = settings.get("added_tokens_decoder") or {}
    from_file = definition.get("added_tokens") or []
    # A class that rebuilds its tokenizer takes added tokens from `added_tokens_decoder` alone, if there is one.
    first = from_file if generic or "added_tokens_decoder" not in settings else []
    tokens = {token["content"]: dict(token) for token in first}
    for place in sorted(listed, key=int):
        token = listed[place]
        flags = {flag: bool(token.get(flag)) for flag in ("single_word", "lstrip", "rstrip", "special")}
        plain = {**flags, "normalized": token.get("normalized", not flags["special"])}
        content = token["content"]
        tokens[content] = {"id": tokens.get(content, {}).get("id"), "content": content, **plain}
    extra = [*_listed(named, "additional_special_tokens"), *_listed(named, _EXTRA)]
    # transformers appends, in this order, what the settings name but no file lists.
    for token in [*(named.get(name) for name in NAMED), *extra]:
        content = _content(token)
        if not isinstance(content, str) or content in tokens:
            continue
        given = special_tokens.get("mask_token") if content == named.get("mask_token") else None
        lstrip = given.get("lstrip", False) if isinstance(given, Mapping) else False
        tokens[content] = {"id": None, "content": content, **_PLAIN, "lstrip": lstrip}
    # As the library numbers added tokens: one that is in the vocabulary keeps its id, others follow at the end.
    free = len(ids)
    for token in tokens.values():
        if token["id"] is None or not generic:
            token["id"] = ids.get(token["content"], free)
        free = max(free, token["id"] + 1)
    return sorted(tokens.values(), key=lambda token: token["id"])


_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def _listed(named: Mapping[str, Any], key: str) -> list[Any]:
    value = named.get(key) or []
    return list(value.values()) if isinstance(value, Mapping) else list(value)


def _bos_and_eos(named: Mapping[str, Any]) -> tuple[str | None, str | None]:
    bos = named.get("bos_token") if named.get("add_bos_token") else None
    return bos, named.get("eos_token") if named.get("add_eos_token") else None


def _around(ends: tuple[str | None, str | None], id_of: Callable[[str], int]) -> Definition:
    """A template that adds a token before and after each text."""

    def single(kind: int, name: str) -> list[dict[str, Any]]:
        special = [None if token is None else {"SpecialToken": {"id": token, "type_id": kind}} for token in ends]
        return [item for item in (special[0], {"Sequence": {"id": name, "type_id": kind}}, special[1]) if item]

    tokens = {token: {"id": token, "ids": [id_of(token)], "tokens": [token]} for token in ends if token is not None}
    first, second = single(0, "A"), single(1, "B")
    return {"type": "TemplateProcessing", "single": first, "pair": [*first, *second], "special_tokens": tokens}


def _bert_template(named: Mapping[str, Any], id_of: Callable[[str], int]) -> Definition:
    cls, sep = named["cls_token"], named["sep_token"]
    whole = _around((cls, sep), id_of)
    # BERT's pairs have one [CLS], at the start; those of `_around` repeat it.
    second = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": sep, "type_id": 1}}]
    return {**whole, "pair": [*whole["single"], *second]}


def _xlm_template(named: Mapping[str, Any], id_of: Callable[[str], int]) -> Definition:
    return _around((named["bos_token"], named["eos_token"]), id_of)


def _roberta_template(named: Mapping[str, Any], id_of: Callable[[str], int]) -> Definition:
    cls, sep = named["cls_token"], named["sep_token"]
    return {
        "type": "RobertaProcessing",
        "sep": [sep, id_of(sep)],
        "cls": [cls, id_of(cls)],
        "trim_offsets": bool(named.get("trim_offsets", True)),
        "add_prefix_space": bool(named.get("add_prefix_space", False)),
    }


def _word_pieces(definition: Definition, named: Mapping[str, Any]) -> Definition:
    model = {
        "type": "WordPiece",
        "unk_token": named["unk_token"],
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": definition["model"]["vocab"],
    }
    accents = named.get("strip_accents")
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": bool(named.get("tokenize_chinese_chars", True)),
        "strip_accents": None if accents is None else bool(accents),
        "lowercase": bool(named.get("do_lower_case", True)),
    }
    decoder = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    return {
        "model": model,
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": decoder,
    }


def _byte_level(*, add_prefix_space: bool, use_regex: bool) -> Definition:
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": use_regex}


def _pairs(definition: Definition, **options: Any) -> Definition:
    whole = {"unk_token": None, "fuse_unk": False, "byte_fallback": False, **options}
    model = definition["model"]
    return {"type": "BPE", "dropout": None, **whole, "vocab": model["vocab"], "merges": model.get("merges") or []}


def _roberta(definition: Definition, named: Mapping[str, Any]) -> Definition:
    return {
        "model": _pairs(definition, continuing_subword_prefix="", end_of_word_suffix=""),
        "normalizer": None,
        "pre_tokenizer": _byte_level(add_prefix_space=bool(named.get("add_prefix_space", False)), use_regex=True),
        "decoder": _byte_level(add_prefix_space=True, use_regex=True),
    }


def _qwen(definition: Definition, named: Mapping[str, Any]) -> Definition:
    split = {"type": "Split", "pattern": {"Regex": _WORDS}, "behavior": "Isolated", "invert": False}
    bytes_ = _byte_level(add_prefix_space=bool(named.get("add_prefix_space", False)), use_regex=False)
    return {
        "model": _pairs(definition, continuing_subword_prefix="", end_of_word_suffix=""),
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_]},
        "decoder": _byte_level(add_prefix_space=True, use_regex=True),
    }


def _gemma(definition: Definition, named: Mapping[str, Any]) -> Definition:
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    joined = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    return {
        "model": _pairs(definition, unk_token=named["unk_token"], fuse_unk=True, byte_fallback=True),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": split,
        "decoder": {"type": "Sequence", "decoders": [joined, {"type": "ByteFallback"}, {"type": "Fuse"}]},
    }


def _xlm_roberta(definition: Definition, named: Mapping[str, Any]) -> Definition:
    normalizer = definition.get("normalizer") or {}
    steps = normalizer.get("normalizers") if normalizer.get("type") == "Sequence" else [normalizer]
    # Of the file's normalizers the class keeps only `Precompiled`, SentencePiece's table of characters.
    scheme = "always" if named.get("add_prefix_space", True) else "never"
    joined = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}
    vocabulary = definition["model"]["vocab"]
    return {
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocabulary, "byte_fallback": False},
        "normalizer": next((step for step in steps or [] if step.get("type") == "Precompiled"), None),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, joined]},
        "decoder": joined,
    }


def _camembert(definition: Definition, named: Mapping[str, Any]) -> Definition:
    built = _xlm_roberta(definition, named)
    unknown = _ids(definition["model"]["vocab"]).get(named["unk_token"], 0)  # in XLM-RoBERTa it is always 3
    return {**built, "model": {**built["model"], "unk_id": unknown}}


_BERT_TOKENS = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
_ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_CAMEMBERT_TOKENS = {
    **_ROBERTA_TOKENS,
    "additional_special_tokens": ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"],
}
_MPNET_TOKENS = {**_ROBERTA_TOKENS, "unk_token": "[UNK]"}
_QWEN_TOKENS: Mapping[str, str] = dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>")
_GEMMA_TOKENS = {**{name: f"<{name[:3]}>" for name in NAMED[:3]}, "pad_token": "<pad>", "mask_token": "<mask>"}

CLASSES: Mapping[str, _Class] = {
    "BertTokenizer": _Class("WordPiece", _BERT_TOKENS, _word_pieces, _bert_template),
    "DistilBertTokenizer": _Class("WordPiece", _BERT_TOKENS, _word_pieces, _bert_template),
    "MPNetTokenizer": _Class("WordPiece", _MPNET_TOKENS, _word_pieces, _roberta_template),
    "RobertaTokenizer": _Class("BPE", _ROBERTA_TOKENS, _roberta, _roberta_template),
    "XLMRobertaTokenizer": _Class("Unigram", _ROBERTA_TOKENS, _xlm_roberta, _xlm_template),
    "CamembertTokenizer": _Class("Unigram", _CAMEMBERT_TOKENS, _camembert, _xlm_template),
    "Qwen2Tokenizer": _Class("BPE", _QWEN_TOKENS, _qwen),
    "GemmaTokenizer": _Class("BPE", _GEMMA_TOKENS, _gemma),
}
"""Tokenizer class -> how it rebuilds its tokenizer."""
