"""How a student is built: what its config resolves to, then its initial parameters.

`make_student` reads the model to start from, if there is one, and calls `resolve` for the architecture and
`init_params` for the parameters. `jdistill plan` calls the same two, the second under `jax.eval_shape`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jdistill.config import Config, UserError
from jdistill.student import weights
from jdistill.student.config import Architecture, Dtype, Inherited, StudentConfig
from jdistill.student.encoders import EncoderConfig, StaticConfig
from jdistill.student.head import Normalize, head_width
from jdistill.student.hf_folder import Pretrained, locate, read_folder
from jdistill.student.lora import make_lora
from jdistill.student.pooling import pooled_width
from jdistill.student.pooling_and_head import (
    chosen_head,
    chosen_pooling,
    head_params,
    pooling_params,
    projected,
    sees_prompt,
)
from jdistill.student.projection import make_projection
from jdistill.student.pruning.selection import kept_layers
from jdistill.student.student import Student, encoder_shapes, random_encoder
from jdistill.student.tokenizer import Tokenizer
from jdistill.student.tokenizer_folder import read_tokenizer

Params = dict[str, Any]

RUNTIME_FIELDS = ("dropout", "dtype", "attention", "remat", "scan_layers", "backbone", "lora")
"""Fields of `StudentConfig` that are copied to `Architecture`."""


def make_student(
    config: StudentConfig,
    *,
    teacher_widths: Mapping[str, int],
    key: Array,
    pretrained: Pretrained | None = None,
) -> tuple[Student, Params]:
    """Build a student and its initial parameters.

    Args:
      config: the `student:` section.
      teacher_widths: teacher -> width of its vectors, for every teacher that may need a projection.
      key: random key of all initial values.
      pretrained: the model to start from. Default: read from `config.init`, if that is set.

    Returns:
      The student, and its parameters as of `init_params`.

    Raises:
      UserError: if the config does not fit the model it starts from.
    """
    pretrained = pretrained or read_pretrained(config)
    tokenizer = student_tokenizer(config, pretrained)
    architecture = resolve(config, pretrained, tokenizer, teacher_widths)
    check_tokenizer_fits(architecture, tokenizer)
    return Student(architecture, tokenizer), init_params(config, architecture, pretrained, key)


def read_pretrained(config: StudentConfig) -> Pretrained | None:
    """The content of `config.init`, downloaded if necessary; None for a student with random weights."""
    return None if config.init is None else read_folder(locate(config.init, revision=config.revision), config.poolings)


def student_tokenizer(config: StudentConfig, pretrained: Pretrained | None) -> Tokenizer:
    """The tokenizer that the config names, else that of the model to start from."""
    encoder = chosen_encoder(config, pretrained)
    if config.tokenizer is not None:
        folder = locate(config.tokenizer, tokenizer_only=True)
        tokenizer = read_tokenizer(folder, special_tokens=encoder.special_tokens)
    elif pretrained is not None:
        tokenizer = pretrained.tokenizer.with_special_tokens(encoder.special_tokens)
    else:
        raise ValueError("a student without init needs encoder and tokenizer")
    return tokenizer if pretrained is None else tokenizer.within(encoder.vocab_size)


def resolve(
    config: StudentConfig,
    pretrained: Pretrained | None,
    tokenizer: Tokenizer | None,
    teacher_widths: Mapping[str, int],
) -> Architecture:
    """The architecture of a student: every default filled in from the model to start from and the tokenizer.

    Args:
      config: the `student:` section.
      pretrained: the model to start from; None for random weights.
      tokenizer: the student's tokenizer. None, as in a plan, leaves out what it determines: the size of the vocabulary
        and the maximum length of a random student, and the special tokens that poolings exclude.
      teacher_widths: as in `make_student`.

    Raises:
      UserError: if parts of the student do not fit each other or the model.
    """
    encoder = chosen_encoder(config, pretrained)
    # Only a random student's table can follow the tokenizer; a trained one has the rows that it has.
    if pretrained is None and tokenizer is not None and "vocab_size" not in encoder.model_fields_set:
        encoder = encoder.model_copy(update={"vocab_size": tokenizer.vocab_size})
    pooling = chosen_pooling(config, encoder, pretrained, () if tokenizer is None else tokenizer.special_ids)
    head = chosen_head(config, encoder, pooling, pretrained)
    width = head_width(head, pooled_width(pooling, encoder))
    inherited = Inherited()
    if pretrained is not None:
        inherited = Inherited(
            prompts=pretrained.prompts,
            default_prompt_name=pretrained.default_prompt_name,
            similarity_fn_name=pretrained.similarity_fn_name,
        )
    return Architecture(
        encoder=encoder,  # pyright: ignore[reportArgumentType]
        pooling=pooling,
        include_prompt=sees_prompt(config, encoder, pooling, pretrained),
        head=head,
        max_length=config.max_length or _default_length(encoder, pretrained, tokenizer),
        prompts=config.prompts.resolved(inherited.prompts),
        inherited=inherited,
        projections=projected(config, width, pooling, teacher_widths),
        **{name: getattr(config, name) for name in RUNTIME_FIELDS},
    )


def init_params(config: StudentConfig, architecture: Architecture, pretrained: Pretrained | None, key: Array) -> Params:
    """The initial parameters of a student: those of the model to start from, else random.

    Args:
      config: the `student:` section.
      architecture: as of `resolve`.
      pretrained: the model to start from; None for random weights.
      key: random key of all initial values.

    Returns:
      float32 `{"encoder": ..., "pooling": ..., "head": {index: ...}, "lora": ..., "projection": {teacher: {"kernel",
      "bias"}}}`; keys other than `encoder` are left out if empty.

    Raises:
      UserError: if the model lacks weights that the student needs.
    """
    # Every part has its own key, so that adding one, such as LoRA, does not change how the others start.
    encoder_key, projection_key = jax.random.split(key)
    pooled = pooled_width(architecture.pooling, architecture.encoder)
    width = head_width(architecture.head, pooled)
    if pretrained is None:
        encoder = random_encoder(architecture, encoder_key)
    else:
        encoder = pretrained_encoder(config, pretrained)
    parts = {
        "encoder": encoder,
        "pooling": pooling_params(architecture.pooling, architecture.encoder, pretrained, jax.random.fold_in(key, 2)),
        "head": head_params(config, architecture.head, pretrained, pooled, jax.random.fold_in(key, 4)),
    }
    params = jax.tree.map(jnp.asarray, {name: part for name, part in parts.items() if part})
    if config.lora is not None:
        params["lora"] = make_lora(config.lora, params["encoder"], jax.random.fold_in(key, 3))
    if architecture.projections:
        keys = jax.random.split(projection_key, len(architecture.projections))
        params["projection"] = {
            teacher: make_projection(k, width, teacher_width)
            for k, (teacher, teacher_width) in zip(keys, architecture.projections.items(), strict=True)
        }
    return params


def from_pretrained(pretrained: Pretrained, *, dtype: Dtype = "float32") -> tuple[Student, Params]:
    """The model in a folder as a student, unchanged."""
    normalizes = bool(pretrained.head) and isinstance(pretrained.head[-1], Normalize)
    # Stated, since by default the vectors of a plain transformers folder get unit length.
    config = StudentConfig(init=pretrained.where, normalize=normalizes, dtype=dtype)
    architecture = resolve(config, pretrained, pretrained.tokenizer, {})
    params = init_params(config, architecture, pretrained, jax.random.key(0))
    return Student(architecture, pretrained.tokenizer), params


def chosen_encoder(config: StudentConfig, pretrained: Pretrained | None) -> EncoderConfig:
    """The student's encoder: that of the config, or what it takes of the model to start from.

    Raises:
      UserError: if the model has no such layers, or the config states other sizes.
    """
    if pretrained is None:
        if config.encoder is None:
            raise ValueError("a student without init needs encoder and tokenizer")
        return config.encoder
    encoder = pretrained.encoder
    if config.keep_layers is not None:
        layers = kept_layers(config.keep_layers, encoder.depth)
        encoder.check_layers(layers)
        encoder = encoder.with_layers(layers)
    if _takes_words(config, pretrained):
        if config.keep_layers is not None:
            raise UserError("student.keep_layers: a static embedding has no layers. Leave it out.")
        encoder = StaticConfig(vocab_size=encoder.vocab_size, hidden_size=encoder.width)
    if config.encoder is not None:
        _check_sizes(config.encoder, encoder, where=f"student.encoder, with init {config.init}")
    return encoder


def pretrained_encoder(config: StudentConfig, pretrained: Pretrained) -> Params:
    """The weights that a student's encoder takes of the model to start from, nested, float32.

    Raises:
      UserError: if tensors are missing, superfluous, or have a wrong shape.
    """
    encoder = pretrained.encoder
    params = weights.from_hf(
        encoder.weights(),
        pretrained.tensors,
        encoder_shapes(encoder),
        where=pretrained.where,
        prefix=encoder.hf_prefix,
        ignored=encoder.hf_ignored,
    )
    if config.keep_layers is not None:
        _, params = encoder.keep_layers(params, kept_layers(config.keep_layers, encoder.depth))
    return {"words": params["embeddings"]["words"]} if _takes_words(config, pretrained) else params


def describe_student(config: StudentConfig, pretrained: Pretrained | None, student: Student, params: Params) -> str:
    """One line on what a student starts from and how many parameters it has."""
    if pretrained is None:
        return f"random {student.config.encoder.kind}: {describe_size(params)}"
    taken = describe_taken(config, pretrained)
    if not taken:
        return f"{config.init}: {describe_size(params)}"
    whole = describe_size({"encoder": encoder_shapes(pretrained.encoder)})
    return f"{config.init} of {whole} -> {', '.join(taken)}: {describe_size(params)}"


def describe_taken(config: StudentConfig, pretrained: Pretrained) -> list[str]:
    """Phrases that say which part of the model a student starts from; none if it is the whole model."""
    taken = []
    if config.keep_layers is not None:
        layers = kept_layers(config.keep_layers, pretrained.encoder.depth)
        taken.append(f"layers {' '.join(map(str, layers))} of {pretrained.encoder.depth}")
    if _takes_words(config, pretrained):
        taken.append("its table of words")
    return taken


def describe_size(params: Mapping[str, Any]) -> str:
    """`22.57M parameters, 11.72M of them words`.

    Projection and LoRA, which a finished student does not have, are not counted.
    """
    finished = {name: tree for name, tree in params.items() if name not in ("projection", "lora")}
    total = sum(x.size for x in jax.tree.leaves(finished))
    flat = weights.flatten(params["encoder"])
    words = sum(x.size for path, x in flat.items() if path in ("words", "embeddings.words"))
    return f"{total / 1e6:.2f}M parameters, {words / 1e6:.2f}M of them words"


def check_tokenizer_fits(architecture: Architecture, tokenizer: Tokenizer) -> None:
    """Check that every token has a row in the embedding table, and every position one if positions are stored.

    Raises:
      UserError: naming the setting.
    """
    encoder = architecture.encoder
    # Added tokens may lie beyond the table, see `Tokenizer.within`.
    if tokenizer.plain_size > encoder.vocab_size:
        raise UserError(
            f"student.tokenizer: has {tokenizer.plain_size} tokens, but the encoder's embedding table has "
            f"{encoder.vocab_size} rows. Use the tokenizer that belongs to the model."
        )
    limit = encoder.stored_positions
    if limit is not None and architecture.max_length is not None and architecture.max_length > limit:
        raise UserError(
            f"student.max_length: is {architecture.max_length}, but the encoder has positions for {limit} tokens. "
            f"Set it to {limit} or less."
        )


def _takes_words(config: StudentConfig, pretrained: Pretrained) -> bool:
    """Whether the student is a static embedding made of the word embeddings of a transformer."""
    return isinstance(config.encoder, StaticConfig) and pretrained.encoder.kind != "static"


def _default_length(encoder: EncoderConfig, pretrained: Pretrained | None, tokenizer: Tokenizer | None) -> int | None:
    """The maximum length where the config sets none."""
    if pretrained is not None:
        # A static embedding made of a transformer has no positions, and so no limit.
        return pretrained.max_length if encoder.kind == pretrained.encoder.kind else None
    if encoder.max_positions is None:
        return None
    limit = None if tokenizer is None else tokenizer.model_max_length
    return min(limit or encoder.max_positions, encoder.max_positions)


def _check_sizes(wanted: Config, found: Config, *, where: str) -> None:
    given = {name: getattr(wanted, name) for name in wanted.model_fields_set}
    wrong = [
        f"{name} is {value!r}, but init has {getattr(found, name, None)!r}"
        for name, value in given.items()
        if value != getattr(found, name, None)
    ]
    if wrong:
        raise UserError(f"{where}: {'; '.join(wrong)}. Leave these out, or remove init to start from random weights.")
