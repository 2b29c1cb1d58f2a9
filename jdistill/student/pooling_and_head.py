"""Resolves pooling, head and projection from the config and the model that the student starts from."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
from jaxtyping import Array

from jdistill.config import UserError
from jdistill.student.config import StudentConfig
from jdistill.student.encoders import EncoderConfig
from jdistill.student.head import Dense, Head, Normalize, init_head, with_widths
from jdistill.student.hf_folder import Pretrained
from jdistill.student.pooling import Pooling, PoolingModule, is_sparse, names_of, pooled_width


def chosen_pooling(
    config: StudentConfig, encoder: EncoderConfig, found: Pretrained | None, special_ids: Sequence[int]
) -> list[Pooling]:
    """The poolings, with all defaults filled in.

    Args:
      config: the `student:` section.
      encoder: the student's encoder.
      found: the model that it starts from, if any.
      special_ids: special tokens of the student's tokenizer.

    Raises:
      UserError: if the poolings are incompatible with each other or with the encoder.
    """
    given = config.pooling
    inherited = found.pooling if found is not None and encoder.kind == found.encoder.kind else None
    listed: list[Pooling] = (inherited or ["mean"]) if given is None else given if isinstance(given, list) else [given]
    if not listed:
        raise UserError("student.pooling: is an empty list. Leave it out, or list at least one, such as 'mean'.")
    names = names_of(listed)
    if encoder.kind == "static" and names != ["mean"]:
        raise UserError(f"student.pooling: is {names}, but a static embedding is averaged. Leave it out.")
    if is_sparse(listed) and len(listed) > 1:
        raise UserError(
            f"student.pooling: is {names}, but a pooling that gives a weight for each token of the vocabulary cannot "
            "be combined with others. List it alone."
        )
    modules = [isinstance(pooling, PoolingModule) for pooling in listed]
    # False sorts before True: modes come first.
    if modules != sorted(modules):
        raise UserError(
            f"student.pooling: is {names}, but those without parameters ({', '.join(p for p in names if p in listed)}) "
            "must come first, since sentence-transformers has one module for all of them. Change the order."
        )
    filled = [p.with_special_tokens(special_ids) if isinstance(p, PoolingModule) else p for p in listed]
    return cast(list[Pooling], filled)


def sees_prompt(
    config: StudentConfig, encoder: EncoderConfig, pooling: Sequence[Pooling], found: Pretrained | None
) -> bool:
    """Whether modes pool the tokens of the prompt.

    Raises:
      UserError: if `include_prompt` is false, but no pooling is a mode.
    """
    by_mode = encoder.kind != "static" and not all(isinstance(each, PoolingModule) for each in pooling)
    if config.include_prompt is False and not by_mode:
        what = "a static embedding" if encoder.kind == "static" else f"the pooling {names_of(pooling)}"
        raise UserError(
            f"student.include_prompt: is false, but {what} pools all tokens; only modes such as mean can skip the "
            "prompt. Leave it out."
        )
    inherited = found is None or found.include_prompt or not by_mode
    return inherited if config.include_prompt is None else config.include_prompt


def chosen_head(
    config: StudentConfig, encoder: EncoderConfig, pooling: Sequence[Pooling], found: Pretrained | None
) -> list[Head]:
    """The modules after the pooling, with all widths filled in.

    Raises:
      UserError: if a dense layer does not fit, or `normalize` contradicts `head`.
    """
    width = pooled_width(pooling, encoder)
    if config.head is not None:
        head = with_widths(config.head, width, where="student.head")
        if config.normalize is False and head and isinstance(head[-1], Normalize):
            raise UserError("student.normalize: is false, but student.head ends with 'normalize'. Remove one of them.")
        wants = config.normalize or False
    else:
        head = _inherited(found, width)
        wants = _normalizes(config, pooling, found)
        while not wants and head and isinstance(head[-1], Normalize):
            head.pop()
    if wants and not (head and isinstance(head[-1], Normalize)):
        head.append(Normalize())
    return head


def _inherited(found: Pretrained | None, width: int) -> list[Head]:
    """The head of the model that the student starts from."""
    dense = [module for module in found.head if isinstance(module, Dense)] if found is not None else []
    if found is not None and dense and dense[0].in_features != width:
        raise UserError(
            f"student.pooling: gives vectors of width {width}, but the Dense module of {found.where} expects "
            f"{dense[0].in_features}. Leave pooling and encoder out to keep the model's own, or set student.head."
        )
    return list(found.head) if found is not None else []


def _normalizes(config: StudentConfig, pooling: Sequence[Pooling], found: Pretrained | None) -> bool:
    if config.normalize is not None:
        return config.normalize
    if is_sparse(pooling) and (found is None or not is_sparse(found.pooling)):
        return False  # sparse vectors are usually compared by dot product
    # A plain transformers folder does not say; then vectors get unit length.
    if found is None or not found.is_sentence_transformer:
        return not is_sparse(pooling)
    return bool(found.head) and isinstance(found.head[-1], Normalize)


def pooling_params(
    pooling: Sequence[Pooling], encoder: EncoderConfig, found: Pretrained | None, key: Array
) -> dict[str, Any]:
    """Initial parameters of the poolings that have any, by index.

    A pooling that the model has with the same options at the same index keeps the model's parameters.

    Raises:
      UserError: if the model lacks tensors that a pooling requires.
    """
    params: dict[str, Any] = {}
    for i, module in enumerate(pooling):
        if not isinstance(module, PoolingModule):
            continue
        taken = None
        if found is not None and i < len(found.pooling) and found.pooling[i] == module:
            taken = found.pooling_params.get(str(i))
        if taken is None and found is not None:
            taken = module.from_pretrained(found.encoder, found.tensors, where=found.where)
        params[str(i)] = module.init(encoder, jax.random.fold_in(key, i)) if taken is None else taken
    return params


def head_params(config: StudentConfig, head: Sequence[Head], found: Pretrained | None, width: int, key: Array) -> Any:
    """Initial parameters of the head: random if the config lists the modules, else those of the model."""
    if config.head is not None or found is None:
        return init_head(head, width, key)
    return {i: weights for i, weights in found.head_params.items() if int(i) < len(head)}


def projected(
    config: StudentConfig, width: int, pooling: Sequence[Pooling], teacher_widths: Mapping[str, int]
) -> dict[str, int]:
    """Teacher -> its width, for the teachers to whose space the student's vectors are projected.

    Args:
      config: the `student:` section.
      width: width of the student's vectors.
      pooling: the student's poolings.
      teacher_widths: teacher -> width of its vectors, for every teacher that may need a projection.

    Raises:
      UserError: if sparse vectors would need a projection.
    """
    chosen = {
        teacher: wide
        for teacher, wide in sorted(teacher_widths.items())
        if config.projection == "linear" or (config.projection == "auto" and wide != width)
    }
    # With `projection: none`, losses that compare vectors need equal widths.
    unlike = chosen or {teacher: wide for teacher, wide in teacher_widths.items() if wide != width}
    if unlike and is_sparse(pooling):
        teacher, wide = next(iter(unlike.items()))
        raise UserError(
            f"student.pooling: gives sparse vectors of width {width:,}, which cannot be projected to the {wide:,} "
            f"dimensions of teacher '{teacher}'. For this teacher use only losses that compare scores instead of "
            "vectors, such as info_nce, score_kl or score_margin_mse."
        )
    return chosen
