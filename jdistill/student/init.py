"""Builds a student from a trained model's folder or at random. Invalid configs are rejected before any work."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from jdistill.config import Config, UserError
from jdistill.student import weights
from jdistill.student.config import Architecture, Dtype, GivenPrompts, Inherited, Prompts, StudentConfig
from jdistill.student.encoders import Encoder, EncoderConfig, StaticConfig
from jdistill.student.head import Head
from jdistill.student.hf_folder import Pretrained, locate, read_folder
from jdistill.student.lora import make_lora
from jdistill.student.pooling import Pooling, pooled_width
from jdistill.student.pooling_and_head import (
    chosen_head,
    chosen_pooling,
    head_params,
    pooling_params,
    projected,
    sees_prompt,
)
from jdistill.student.projection import make_projection
from jdistill.student.pruning.behind import check_behind, check_head, tokens_behind
from jdistill.student.pruning.corpus import Corpus
from jdistill.student.pruning.layers import kept_layers
from jdistill.student.pruning.prune import Pruned, prune
from jdistill.student.pruning.report import parameters_of
from jdistill.student.student import Student, encoder_shapes, random_encoder
from jdistill.student.tokenizer import Tokenizer
from jdistill.student.tokenizer_folder import read_tokenizer

Params = dict[str, Any]

RUNTIME_FIELDS = ("dropout", "dtype", "attention", "remat", "scan_layers", "backbone", "lora")
"""Fields of `StudentConfig` that are copied to `Architecture`."""


class _Begun(NamedTuple):
    """A student with encoder parameters, but not yet those of pooling and head."""

    student: Student
    encoder: Params
    said: str
    """Description for the report."""
    pruned: Pruned | None = None
    """Result of pruning, if any."""


def make_student(
    config: StudentConfig,
    *,
    teacher_widths: Mapping[str, int],
    key: Array,
    corpus: Callable[[Prompts], Corpus] | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Student, Params]:
    """Build a student and its initial parameters.

    Args:
      config: the `student:` section.
      teacher_widths: teacher -> width of its vectors, for every teacher that may need a projection.
      key: random key of all initial values.
      corpus: function of the student's prompts that returns the training texts with them; required for pruning of
        width, heads, neurons and vocabulary.
      say: called with one line that describes the student and its number of parameters.

    Returns:
      The student, and its float32 parameters `{"encoder": ..., "lora": ..., "pooling": ..., "head": {index: ...},
      "projection": {teacher: {"kernel", "bias"}}}`; keys other than `encoder` are omitted if empty.

    Raises:
      UserError: if the config does not fit the model it starts from.
      ValueError: if pruning needs a corpus and there is none.
    """
    encoder_key, projection_key = jax.random.split(key)
    found = None if config.init is None else read_folder(locate(config.init, revision=config.revision), config.poolings)
    begun = _random(config, encoder_key) if found is None else _initialised(config, found, corpus)
    student, architecture = begun.student, begun.student.config
    chosen = projected(config, student.width, architecture.pooling, teacher_widths)
    pooling = pooling_params(architecture.pooling, architecture.encoder, found, jax.random.fold_in(key, 2))
    pooled = pooled_width(architecture.pooling, architecture.encoder)
    head = head_params(config, architecture.head, found, pooled, jax.random.fold_in(key, 4))
    if begun.pruned is not None:
        pooling = tokens_behind(pooling, begun.pruned.tokens)
        check_behind(architecture.pooling, pooling, architecture.encoder, where=config.init or "")
    params = _params(begun.encoder, pooling, head)
    if say is not None:
        say(f"{begun.said}: {parameters_of(params)}")
    if config.lora is not None:
        params["lora"] = make_lora(config.lora, params["encoder"], jax.random.fold_in(key, 3))
    if chosen:
        student = Student(architecture.model_copy(update={"projections": chosen}), student.tokenizer)
        keys = jax.random.split(projection_key, len(chosen))
        params["projection"] = {
            teacher: make_projection(k, student.width, width)
            for k, (teacher, width) in zip(keys, chosen.items(), strict=True)
        }
    return student, params


def from_pretrained(found: Pretrained, *, dtype: Dtype = "float32") -> tuple[Student, Params]:
    """The model in a folder as a student, unchanged."""
    student = Student(
        _architecture(
            found,
            found.encoder,
            found.pooling,
            found.head,
            GivenPrompts(),
            include_prompt=found.include_prompt,
            how={"dropout": 0.0, "dtype": dtype},
        ),
        found.tokenizer,
    )
    pooling = pooling_params(found.pooling, found.encoder, found, jax.random.key(0))
    return student, _params(_encoder_params(found, student.config), pooling, found.head_params)


def _initialised(config: StudentConfig, found: Pretrained, corpus: Callable[[Prompts], Corpus] | None) -> _Begun:
    loaded = _encoder_params(
        found,
        _architecture(found, found.encoder, found.pooling, [], config.prompts, include_prompt=True, how=_how(config)),
    )
    whole = parameters_of({"encoder": loaded})
    encoder, loaded, kept = _chosen(config, found, loaded)
    tokenizer = _own_tokenizer(config, encoder) or found.tokenizer.with_special_tokens(encoder.special_tokens)
    tokenizer = tokenizer.within(encoder.vocab_size)
    pruned = None
    if config.cuts.any:
        check_head(config, found)
        length = config.max_length or (found.max_length if encoder.kind == found.encoder.kind else None)
        texts = None if corpus is None else corpus(config.prompts.resolved(found.prompts))
        pruned = prune(
            config.cuts, encoder, loaded, tokenizer, max_length=length, corpus=texts, where=config.init or ""
        )
        encoder, loaded, tokenizer, kept = pruned.encoder, pruned.params, pruned.tokenizer, [*kept, *pruned.kept]
    pooling = chosen_pooling(config, encoder, found, tokenizer.special_ids)
    architecture = _architecture(
        found,
        encoder,
        pooling,
        chosen_head(config, encoder, pooling, found),
        config.prompts,
        max_length=config.max_length,
        include_prompt=sees_prompt(config, encoder, pooling, found),
        how=_how(config),
    )
    _check(architecture, tokenizer)
    said = f"{config.init} of {whole} -> {', '.join(kept)}" if kept else f"{config.init}"
    return _Begun(Student(architecture, tokenizer), loaded, said, pruned)


def _random(config: StudentConfig, key: Array) -> _Begun:
    if config.encoder is None or config.tokenizer is None:
        raise ValueError("a student without init needs encoder and tokenizer")
    tokenizer = _own_tokenizer(config, config.encoder)
    assert tokenizer is not None
    architecture = random_architecture(config, config.encoder, tokenizer)
    _check(architecture, tokenizer)
    said = f"random {architecture.encoder.kind}"
    return _Begun(Student(architecture, tokenizer), random_encoder(architecture, key), said)


def random_architecture(config: StudentConfig, encoder: Encoder, tokenizer: Tokenizer) -> Architecture:
    """The architecture of a student with random weights.

    Args:
      config: the `student:` section.
      encoder: that of `config`.
      tokenizer: that of `config`; the default of the encoder's vocabulary size and of `max_length`.
    """
    if "vocab_size" not in encoder.model_fields_set:
        encoder = encoder.model_copy(update={"vocab_size": tokenizer.vocab_size})
    lengths = [length for length in (config.max_length or tokenizer.model_max_length, encoder.max_positions) if length]
    pooling = chosen_pooling(config, encoder, None, tokenizer.special_ids)
    return Architecture(
        encoder=encoder,
        pooling=pooling,
        include_prompt=sees_prompt(config, encoder, pooling, None),
        head=chosen_head(config, encoder, pooling, None),
        max_length=config.max_length or (min(lengths) if encoder.max_positions else None),
        prompts=config.prompts.resolved({}),
        projections={},
        **_how(config),
    )


def _chosen(config: StudentConfig, found: Pretrained, loaded: Params) -> tuple[EncoderConfig, Params, list[str]]:
    """The encoder taken from `init`, its parameters, and a description of what was taken."""
    encoder, said = found.encoder, []
    if config.keep_layers is not None:
        layers = kept_layers(config.keep_layers, encoder.depth)
        encoder, loaded = encoder.keep_layers(loaded, layers)
        said.append(f"layers {' '.join(map(str, layers))} of {found.encoder.depth}")
    if config.encoder is None:
        return encoder, loaded, said
    if isinstance(config.encoder, StaticConfig) and encoder.kind != "static":
        if config.keep_layers is not None:
            raise UserError("student.keep_layers: a static embedding has no layers. Leave it out.")
        words = loaded["embeddings"]["words"]
        encoder, loaded = StaticConfig(vocab_size=words.shape[0], hidden_size=words.shape[1]), {"words": words}
        said.append("its table of words")
    _agree(config.encoder, encoder, where=f"student.encoder, with init {config.init}")
    return encoder, loaded, said


def _agree(wanted: Config, found: Config, *, where: str) -> None:
    given = {name: getattr(wanted, name) for name in wanted.model_fields_set}
    wrong = [
        f"{name} is {value!r}, but init has {getattr(found, name, None)!r}"
        for name, value in given.items()
        if value != getattr(found, name, None)
    ]
    if wrong:
        raise UserError(f"{where}: {'; '.join(wrong)}. Leave these out, or remove init to start from random weights.")


def _architecture(
    found: Pretrained,
    encoder: EncoderConfig,
    pooling: list[Pooling],
    head: list[Head],
    prompts: GivenPrompts,
    *,
    max_length: int | None = None,
    include_prompt: bool,
    how: Mapping[str, Any],
) -> Architecture:
    inherited = found.max_length if encoder.kind == found.encoder.kind else None
    return Architecture(
        encoder=encoder,  # pyright: ignore[reportArgumentType]
        pooling=pooling,
        include_prompt=include_prompt,
        head=head,
        max_length=max_length or inherited,
        prompts=prompts.resolved(found.prompts),
        inherited=Inherited(
            prompts=found.prompts,
            default_prompt_name=found.default_prompt_name,
            similarity_fn_name=found.similarity_fn_name,
        ),
        projections={},
        **how,
    )


def _how(config: StudentConfig) -> dict[str, Any]:
    """Settings of computation and training, which a model's folder does not have."""
    return {name: getattr(config, name) for name in RUNTIME_FIELDS}


def _encoder_params(found: Pretrained, architecture: Architecture) -> Params:
    return weights.from_hf(
        found.encoder.weights(),
        found.tensors,
        encoder_shapes(architecture),
        where=found.where,
        prefix=found.encoder.hf_prefix,
        ignored=found.encoder.hf_ignored,
    )


def _params(encoder: Params, pooling: Params, head: Params) -> Params:
    tree = {"encoder": encoder, **({"pooling": pooling} if pooling else {}), **({"head": head} if head else {})}
    return jax.tree.map(jax.numpy.asarray, tree)


def _own_tokenizer(config: StudentConfig, encoder: EncoderConfig) -> Tokenizer | None:
    if config.tokenizer is None:
        return None
    return read_tokenizer(locate(config.tokenizer, tokenizer_only=True), special_tokens=encoder.special_tokens)


def _check(architecture: Architecture, tokenizer: Tokenizer) -> None:
    encoder = architecture.encoder
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
