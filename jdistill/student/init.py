"""Making a student: from a trained model's folder, or at random. Everything that can be refused is refused first."""

from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array

from jdistill.config import Config, UserError
from jdistill.student import weights
from jdistill.student.config import Architecture, Dtype, Prompts, StudentConfig
from jdistill.student.encoders import EncoderConfig, StaticConfig
from jdistill.student.head import Dense, Normalize
from jdistill.student.hf_folder import Pretrained, locate, read_folder
from jdistill.student.lora import make_lora
from jdistill.student.pooling import Pooling, init_poolings, pooled_width
from jdistill.student.projection import make_projection
from jdistill.student.student import Student, encoder_shapes, random_encoder
from jdistill.student.tokenizer import Tokenizer

Params = dict[str, Any]

HOW = ("dropout", "dtype", "attention", "remat", "scan_layers", "backbone", "lora")
"""Fields of a configuration that are its architecture's, unchanged."""


def make_student(config: StudentConfig, *, teacher_widths: Mapping[str, int], key: Array) -> tuple[Student, Params]:
    """The student that a configuration describes, and its initial parameters.

    Args:
      config: the `student:` section.
      teacher_widths: teacher -> width of its vectors, for every teacher that may need a projection.
      key: decides every random initial value.
    Returns:
      The student, and `{"encoder": ..., "lora": ..., "pooling": ..., "head": {index: ...}, "projection": {teacher:
      {"kernel", "bias"}}}` in float32, where all but `encoder` are there only if there is something in them.
    Raises:
      UserError: if the configuration does not fit the model it starts from.
    """
    encoder_key, projection_key = jax.random.split(key)
    student, params = _random(config, encoder_key) if config.init is None else _initialised(config)
    if poolings := init_poolings(student.config.pooling, student.config.encoder, jax.random.fold_in(key, 2)):
        params["pooling"] = poolings
    if config.lora is not None:
        params["lora"] = make_lora(config.lora, params["encoder"], jax.random.fold_in(key, 3))
    chosen = {
        teacher: width
        for teacher, width in sorted(teacher_widths.items())
        if config.projection == "linear" or (config.projection == "auto" and width != student.width)
    }
    if chosen:
        student = Student(student.config.model_copy(update={"projections": chosen}), student.tokenizer)
        keys = jax.random.split(projection_key, len(chosen))
        params["projection"] = {
            teacher: make_projection(k, student.width, width)
            for k, (teacher, width) in zip(keys, chosen.items(), strict=True)
        }
    return student, params


def from_pretrained(found: Pretrained, *, dtype: Dtype = "float32") -> tuple[Student, Params]:
    """The model in a folder as a student, nothing changed."""
    prompts = Prompts(query=found.prompts.get("query", ""), document=found.prompts.get("document", ""))
    student = Student(
        _architecture(found, found.encoder, found.pooling, found.head, prompts, how={"dropout": 0.0, "dtype": dtype}),
        found.tokenizer,
    )
    return student, _params(found, _encoder_params(found, student.config), found.head)


def _initialised(config: StudentConfig) -> tuple[Student, Params]:
    found = read_folder(locate(config.init or "", revision=config.revision))
    loaded = _encoder_params(
        found, _architecture(found, found.encoder, found.pooling, [], config.prompts, how=_how(config))
    )
    encoder, loaded = _chosen(config, found, loaded)
    tokenizer = _own_tokenizer(config, encoder) or found.tokenizer.with_special_tokens(encoder.special_tokens)
    pooling = _listed(config.pooling) or (["mean"] if encoder.kind != found.encoder.kind else found.pooling)
    head = _head(config, found, pooled_width(pooling, encoder))
    architecture = _architecture(
        found,
        encoder,
        pooling,
        head,
        config.prompts,
        max_length=config.max_length,
        how=_how(config),
    )
    _check(architecture, tokenizer)
    return Student(architecture, tokenizer), _params(found, loaded, head)


def _random(config: StudentConfig, key: Array) -> tuple[Student, Params]:
    if config.encoder is None or config.tokenizer is None:
        raise ValueError("StudentConfig lets no student through without init, encoder and tokenizer")
    tokenizer = _own_tokenizer(config, config.encoder)
    assert tokenizer is not None
    encoder = config.encoder
    if "vocab_size" not in encoder.model_fields_set:
        encoder = encoder.model_copy(update={"vocab_size": tokenizer.vocab_size})
    lengths = [length for length in (config.max_length or tokenizer.model_max_length, encoder.max_positions) if length]
    architecture = Architecture(
        encoder=encoder,
        pooling=_listed(config.pooling) or ["mean"],
        head=[] if config.normalize is False else [Normalize()],
        max_length=config.max_length or (min(lengths) if encoder.max_positions else None),
        prompts=config.prompts,
        projections={},
        **_how(config),
    )
    _check(architecture, tokenizer)
    return Student(architecture, tokenizer), {"encoder": random_encoder(architecture, key)}


def _chosen(config: StudentConfig, found: Pretrained, loaded: Params) -> tuple[EncoderConfig, Params]:
    """The encoder that the student takes from the one it starts from, with its parameters."""
    encoder = found.encoder
    if config.keep_layers is not None:
        encoder, loaded = encoder.keep_layers(loaded, config.keep_layers)
    if config.encoder is None:
        return encoder, loaded
    if isinstance(config.encoder, StaticConfig) and encoder.kind != "static":
        if config.keep_layers is not None:
            raise UserError("student.keep_layers: a static embedding has no layers. Leave it out.")
        words = loaded["embeddings"]["words"]
        encoder, loaded = StaticConfig(vocab_size=words.shape[0], hidden_size=words.shape[1]), {"words": words}
    _agree(config.encoder, encoder, where=f"student.encoder, with init {config.init}")
    return encoder, loaded


def _agree(wanted: Config, found: Config, *, where: str) -> None:
    given = {name: getattr(wanted, name) for name in wanted.model_fields_set}
    wrong = [
        f"{name} is {value!r}, but there it is {getattr(found, name, None)!r}"
        for name, value in given.items()
        if value != getattr(found, name, None)
    ]
    if wrong:
        raise UserError(
            f"{where}: {'; '.join(wrong)}. Leave these out, or leave out init to start from random weights."
        )


def _head(config: StudentConfig, found: Pretrained, pooled: int) -> list[Normalize | Dense]:
    dense = [module for module in found.head if isinstance(module, Dense)]
    if dense and dense[0].in_features != pooled:
        raise UserError(
            f"student.pooling: gives vectors of width {pooled}, but the Dense module of {found.where} expects "
            f"{dense[0].in_features}. Leave pooling and encoder out to keep the model's own."
        )
    head = list(found.head)
    wants = config.normalize
    if wants is None:
        wants = True if not found.is_sentence_transformer else bool(head) and isinstance(head[-1], Normalize)
    while not wants and head and isinstance(head[-1], Normalize):
        head.pop()
    if wants and not (head and isinstance(head[-1], Normalize)):
        head.append(Normalize())
    return head


def _architecture(
    found: Pretrained,
    encoder: EncoderConfig,
    pooling: list[Pooling],
    head: list[Normalize | Dense],
    prompts: Prompts,
    *,
    max_length: int | None = None,
    how: Mapping[str, Any],
) -> Architecture:
    inherited = found.max_length if encoder.kind == found.encoder.kind else None
    return Architecture(
        encoder=encoder,  # pyright: ignore[reportArgumentType]
        pooling=pooling,
        head=head,
        max_length=max_length or inherited,
        prompts=prompts,
        projections={},
        **how,
    )


def _how(config: StudentConfig) -> dict[str, Any]:
    """What is said of computing and training, which no folder says."""
    return {name: getattr(config, name) for name in HOW}


def _encoder_params(found: Pretrained, architecture: Architecture) -> Params:
    return weights.from_hf(
        found.encoder.weights(),
        found.tensors,
        encoder_shapes(architecture),
        where=found.where,
        prefix=found.encoder.hf_prefix,
        ignored=found.encoder.hf_ignored,
    )


def _params(found: Pretrained, encoder: Params, head: list[Normalize | Dense]) -> Params:
    kept = {i: weights for i, weights in found.head_params.items() if int(i) < len(head)}
    tree = {"encoder": encoder, **({"head": kept} if kept else {})}
    return jax.tree.map(jax.numpy.asarray, tree)


def _own_tokenizer(config: StudentConfig, encoder: EncoderConfig) -> Tokenizer | None:
    if config.tokenizer is None:
        return None
    return Tokenizer.from_folder(locate(config.tokenizer, tokenizer_only=True), special_tokens=encoder.special_tokens)


def _check(architecture: Architecture, tokenizer: Tokenizer) -> None:
    encoder = architecture.encoder
    if tokenizer.vocab_size > encoder.vocab_size:
        raise UserError(
            f"student.tokenizer: has {tokenizer.vocab_size} tokens, but the encoder's table has {encoder.vocab_size} "
            "rows. Give the tokenizer that belongs to the model."
        )
    limit = encoder.max_positions
    if limit is not None and architecture.max_length is not None and architecture.max_length > limit:
        raise UserError(
            f"student.max_length: is {architecture.max_length}, but the encoder has positions for {limit} tokens. "
            f"Set it to {limit} or less."
        )
    if encoder.kind == "static" and architecture.pooling != ["mean"]:
        raise UserError(
            f"student.pooling: is {architecture.pooling}, but a static embedding is averaged. Leave it out."
        )


def _listed(pooling: list[Pooling] | Pooling | None) -> list[Pooling] | None:
    return pooling if pooling is None or isinstance(pooling, list) else [pooling]
