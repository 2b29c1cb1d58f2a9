"""Prunes a trained model: first its vocabulary, then heads, neurons and width of its encoder."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from jdistill.config import UserError
from jdistill.student import weights
from jdistill.student.build import chosen_encoder, describe_taken, pretrained_encoder, student_tokenizer
from jdistill.student.config import Architecture, StudentConfig
from jdistill.student.encoders import EncoderConfig
from jdistill.student.head import Dense, LayerNorm
from jdistill.student.hf_folder import Pretrained
from jdistill.student.pooling import Pooling, PoolingModule, SparseVocabulary
from jdistill.student.pruning.activations import LONGEST, SAMPLE_TOKENS, Sample
from jdistill.student.pruning.config import PruneConfig, Vocabulary
from jdistill.student.pruning.narrow import narrow
from jdistill.student.pruning.sizes import cut_encoder, sizes_of
from jdistill.student.pruning.subwords import subword_model
from jdistill.student.pruning.texts import PruningTexts
from jdistill.student.pruning.vocabulary import count_tokens, kept_tokens, rebuilt_tokenizer, special_tokens
from jdistill.student.pruning.width import table_directions
from jdistill.student.tokenizer import Tokenizer

_TEXTS = SAMPLE_TOKENS // 4
"""Number of texts to draw: at 4 or more tokens per text they cover the sample."""


class Pruned(NamedTuple):
    """A pruned model, and what was kept of the full one."""

    model: Pretrained
    """As if read from a folder."""
    kept: list[str]
    """Phrases that say what was kept, for the report."""


def prune(config: PruneConfig, student: StudentConfig, pretrained: Pretrained, texts: PruningTexts) -> Pruned:
    """Prune a model so that its vectors of the training texts change as little as possible.

    Deterministic for the same texts, seed and machine.

    Args:
      config: what to prune.
      student: the student that is to start from the model; says which layers, tokenizer, head and maximum length.
      pretrained: the model; not modified.
      texts: the training texts, with their prompts.

    Raises:
      UserError: if the cuts are incompatible with the model or with each other.
    """
    encoder, tokenizer = chosen_encoder(student, pretrained), student_tokenizer(student, pretrained)
    # Sizes and head are checked before the texts are read, which takes far longer.
    after = cut_encoder(encoder, config)
    _check_head(config, student, pretrained)
    inherited = pretrained.max_length if encoder.kind == pretrained.encoder.kind else None
    max_length = student.max_length or inherited
    params, kept, tokens = pretrained_encoder(student, pretrained), describe_taken(student, pretrained), None
    if config.vocabulary is not None:
        tokenizer, tokens, phrase = _fewer_tokens(
            config.vocabulary, encoder, tokenizer, texts, max_length=max_length, where=pretrained.where
        )
        # A static embedding has its words at the top.
        table = params if encoder.depth == 0 else params["embeddings"]
        table = {**table, "words": table["words"][tokens]}
        params = table if encoder.depth == 0 else {**params, "embeddings": table}
        encoder = encoder.model_copy(update={"vocab_size": len(tokens)})
        after = after.model_copy(update={"vocab_size": len(tokens)})
        kept.append(phrase)
    if config.resizes and encoder.depth == 0:
        params = {"words": _narrow_table(params["words"], after.width)}
        kept.append(f"width {after.width} of {encoder.width} by pca")
    elif config.resizes:
        # The vocabulary is cut by now, and the sample tokenized with it, as the pruned model will tokenize.
        length = LONGEST if max_length is None else min(max_length, LONGEST)
        sample = Sample(encoder, params, tokenizer.encode(texts.sample(_TEXTS), length), pad_id=tokenizer.pad_id)
        by = "importance" if config.width is None else config.width.by or "importance"
        params = narrow(encoder, after, params, sample, by=by)
        kept += _kept_sizes(encoder, after, by)
    return Pruned(_with_encoder(pretrained, after, params, tokenizer, tokens), kept)


def check_poolings(architecture: Architecture, params: Mapping[str, Any], *, where: str) -> None:
    """Check that poolings whose parameters come from the full model fit the pruned one.

    Args:
      architecture: of the pruned student.
      params: its parameters.
      where: folder of the full model, for the message.

    Raises:
      UserError: if one was trained with wider vectors.
    """
    for i, module in enumerate(architecture.pooling):
        if not isinstance(module, PoolingModule):
            continue
        shapes = jax.eval_shape(lambda module=module: module.init(architecture.encoder, jax.random.key(0)))
        expected, given = weights.flatten(shapes), weights.flatten(params["pooling"][str(i)])
        if any(np.shape(given[path]) != expected[path].shape for path in expected if path in given):
            raise UserError(
                f"prune.width: the pooling '{module.kind}' takes its parameters from {where}, where vectors are "
                "wider. Leave width out, or choose another student.pooling."
            )


def _check_head(config: PruneConfig, student: StudentConfig, pretrained: Pretrained) -> None:
    """Refuse a smaller width if the head of the model expects the full one and is not replaced."""
    if config.width is None or student.head is not None:
        return
    fixed = [module.kind for module in pretrained.head if isinstance(module, Dense | LayerNorm)]
    if fixed:
        raise UserError(
            f"prune.width: {pretrained.where} has a {fixed[0]} module in its head, which expects vectors of the "
            "original width. Set student.head to replace the head, or to [] for none; or leave width out."
        )


def _fewer_tokens(
    wanted: Vocabulary,
    encoder: EncoderConfig,
    tokenizer: Tokenizer,
    texts: PruningTexts,
    *,
    max_length: int | None,
    where: str,
) -> tuple[Tokenizer, Int[np.ndarray, " v"], str]:
    """The smaller tokenizer, the old id of each of its tokens, and a phrase for the report."""
    ids, subwords = tokenizer.ids, subword_model(tokenizer.definition, where=where)
    counts = count_tokens(tokenizer, texts.chunks(), max_length=max_length, size=tokenizer.vocab_size)
    special = {token for token in special_tokens(tokenizer) if ids[token] < encoder.vocab_size}
    kept = kept_tokens(wanted, subwords, ids, special, counts)
    smaller = rebuilt_tokenizer(tokenizer, subwords, kept)
    # RoBERTa's positions start at `pad_token_id + 1`; other encoders have no such field.
    padding = getattr(encoder, "pad_token_id", smaller.pad_id)
    if padding != smaller.pad_id:
        raise UserError(
            f"prune.vocabulary: the padding token of {where} would lose its id {padding}, from which this "
            f"{encoder.kind} counts positions. Leave prune.vocabulary out."
        )
    tokens = np.asarray([ids[token] for token in kept])
    share = counts[tokens].sum() / max(1, counts.sum())
    return smaller, tokens, f"{len(kept):,} of {len(ids):,} tokens, covering {share:.2%} of the training texts' tokens"


def _narrow_table(words: np.ndarray, width: int) -> np.ndarray:
    return (np.asarray(words, np.float64) @ table_directions(words, width)).astype(np.float32)


def _kept_sizes(before: EncoderConfig, after: EncoderConfig, by: str) -> list[str]:
    old, new = sizes_of(before), sizes_of(after)
    phrases = [f"width {new.width} of {old.width} by {by}"] if new.width < old.width else []
    for name, less, more in (("heads", new.heads, old.heads), ("neurons", new.intermediate, old.intermediate)):
        if less < more:
            phrases.append(f"{less:,} of {more:,} {name} in each layer")
    return phrases


def _with_encoder(
    pretrained: Pretrained,
    encoder: EncoderConfig,
    params: Mapping[str, Any],
    tokenizer: Tokenizer,
    tokens: Int[np.ndarray, " v"] | None,
) -> Pretrained:
    """The model with another encoder and tokenizer.

    Tensors that belong to no encoder, such as the head of a masked language model, stay, with the rows of the kept
    tokens where they have one row per token.
    """
    tensors = weights.to_hf(encoder.weights(), params)
    if encoder.kind != pretrained.encoder.kind:  # a table of words: only the modules behind the pooling still apply
        return replace(
            pretrained,
            encoder=encoder,
            tensors=tensors,
            tokenizer=tokenizer,
            pooling=["mean"],
            pooling_params={},
            include_prompt=True,
            max_length=None,
        )
    known = {row.key for row in pretrained.encoder.weights()}
    for name, tensor in pretrained.tensors.items():
        if name.removeprefix(pretrained.encoder.hf_prefix) not in known:
            # Nothing names these tensors, so they are told by their first axis.
            by_token = tokens is not None and np.shape(tensor)[:1] == (pretrained.encoder.vocab_size,)
            tensors[name] = tensor[tokens] if by_token else tensor
    pooling = pretrained.pooling if tokens is None else [_renumbered(each, tokens) for each in pretrained.pooling]
    return replace(pretrained, encoder=encoder, tensors=tensors, tokenizer=tokenizer, pooling=pooling)


def _renumbered(pooling: Pooling, tokens: Int[np.ndarray, " v"]) -> Pooling:
    """A pooling that names token ids, with the new ids of those that were kept."""
    if not isinstance(pooling, SparseVocabulary) or pooling.excluded is None:
        return pooling
    return pooling.model_copy(update={"excluded": np.flatnonzero(np.isin(tokens, pooling.excluded)).tolist()})
