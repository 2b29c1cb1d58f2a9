"""How each parameter learns, by its path: frozen or trained, at which learning rate, with how much weight decay.

Gradients and optimizer state exist for trained parameters only. So the parameters, nested dicts, are split in two, one
half is differentiated and updated, and both are joined where all of them are needed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, PyTree

from jdistill.config import UserError
from jdistill.student import Student
from jdistill.train.config import AdamWConfig

Params = dict[str, PyTree[Array]]

DECAY_RULES: tuple[tuple[str, bool], ...] = (
    (r"losses/.*", False),
    (r".*/(bias|scale|distance_bias)", False),
    (r".*/(kernel|residual|decoder|words|positions|types|latents)", True),
    (r"student/lora/.*/(a|b)", True),
)
"""Pattern of a parameter's whole path -> whether it decays. The first that matches counts; each parameter needs one."""

SHOWN = 5
"""Paths that an error names; it counts the others."""


class Settings(NamedTuple):
    """How one parameter learns."""

    lr_scale: float
    """Its share of the learning rate; 0: it is frozen."""
    weight_decay: float
    """Multiplied by its learning rate."""


class Groups:
    """Finds each parameter's settings: by the first of the patterns that matches its path.

    Args:
      config: the rules, and the weight decay where no rule states one.
      frozen: regular expressions of whole paths that do not learn, whatever the rules say.
    """

    def __init__(self, config: AdamWConfig, frozen: Sequence[str] = ()):
        self._config = config
        self._frozen = tuple(frozen)

    def settings(self, params: Params) -> PyTree[Settings]:
        """Of each parameter, in the form of `params`. Raises as `decays` does."""

        def one(path: Any, _: Array, decay: bool) -> Settings:
            return self._settings(path_of(path), self._config.weight_decay if decay else 0.0)

        return jax.tree.map_with_path(one, params, decays(params))

    def split(self, params: Params) -> tuple[Params, Params]:
        """The trained parameters and the frozen ones, each without the branches that are empty for it."""
        return split(params, lambda path: self._settings(path, 0.0).lr_scale > 0)

    def check(self, params: Params) -> None:
        """Refuse rules that do not fit the parameters.

        Raises:
          UserError: if a parameter has no rule where there are any, if a rule is not the first match of any parameter,
            or if nothing is left to train.
          ValueError: if it is not known whether a parameter decays.
        """
        decays(params)
        paths = [path_of(path) for path, _ in jax.tree.leaves_with_path(params)]
        free = [path for path in paths if not self._is_frozen(path)]
        rules = self._config.groups
        chosen = {path: self._rule(path) for path in free}
        uncovered = [path for path in free if chosen[path] is None]
        if rules and uncovered:
            raise UserError(
                f"train.optimizer.groups: {len(uncovered)} parameters match no rule: {_listed(uncovered)}. Every "
                "parameter must match one; add rules, such as {match: '.*'} at the end for all others."
            )
        for i, rule in enumerate(rules):
            if i not in chosen.values():
                raise UserError(f"train.optimizer.groups.{i}.match: {self._without_effect(rule.match, paths)}")
        if not any(self._settings(path, 0.0).lr_scale > 0 for path in paths):
            raise UserError(
                f"train.optimizer.groups: nothing is left to train, all {len(paths)} parameters are frozen: "
                f"{_listed(paths)}. Give some of them a lr_scale above 0, or set student.backbone to trained."
            )

    def _settings(self, path: str, weight_decay: float) -> Settings:
        if self._is_frozen(path):
            return Settings(0.0, 0.0)
        i = self._rule(path)
        if i is None:
            return Settings(1.0, weight_decay)
        rule = self._config.groups[i]
        return Settings(rule.lr_scale, weight_decay if rule.weight_decay is None else rule.weight_decay)

    def _is_frozen(self, path: str) -> bool:
        return any(re.fullmatch(pattern, path) for pattern in self._frozen)

    def _rule(self, path: str) -> int | None:
        """Which rule is the first that matches."""
        return next((i for i, rule in enumerate(self._config.groups) if rule.match.fullmatch(path)), None)

    def _without_effect(self, pattern: re.Pattern[str], paths: Sequence[str]) -> str:
        taken = [path for path in paths if pattern.fullmatch(path)]
        shown = repr(pattern.pattern)
        if not taken:
            return (
                f"{shown} matches no parameter, so the rule has no effect. A pattern must match a whole path, of which "
                f"there are: {_listed(paths)}. Correct it, or drop the rule."
            )
        return (
            f"{shown} has no effect, because all parameters that it matches are matched by an earlier rule or frozen "
            f"by the student's settings: {_listed(taken)}. Move the rule up, or drop it."
        )


def split(tree: Mapping[str, Any], belongs: Callable[[str], bool]) -> tuple[Params, Params]:
    """Nested dicts in two: the leaves whose path, levels joined by "/", belongs, and the others.

    A branch without leaves of one half is left out there; one that is empty in `tree` is in the first.
    """

    def halves(tree: Mapping[str, Any], above: str) -> tuple[Params, Params]:
        first: Params = {}
        second: Params = {}
        for key, value in tree.items():
            path = f"{above}{key}"
            if isinstance(value, Mapping) and value:
                parts = halves(value, f"{path}/")
                first |= {key: parts[0]} if parts[0] else {}
                second |= {key: parts[1]} if parts[1] else {}
            else:
                (first if isinstance(value, Mapping) or belongs(path) else second)[key] = value
        return first, second

    return halves(tree, "")


def join(first: Mapping[str, Any], second: Mapping[str, Any]) -> Params:
    """What `split` took apart."""
    both = {**first, **second}
    shared = first.keys() & second.keys()
    return {key: join(first[key], second[key]) if key in shared else both[key] for key in sorted(both)}


def decays(params: PyTree[Array]) -> PyTree[bool]:
    """Whether each parameter decays, by DECAY_RULES.

    Raises:
      ValueError: naming every parameter that no rule covers.
    """
    uncovered: list[str] = []

    def rule(path: Any, _: Array) -> bool:
        name = path_of(path)
        for pattern, decay in DECAY_RULES:
            if re.fullmatch(pattern, name):
                return decay
        uncovered.append(name)
        return False

    result = jax.tree.map_with_path(rule, params)
    if uncovered:
        raise ValueError(
            f"optimizer: {len(uncovered)} parameters match no rule of weight decay: {', '.join(uncovered)}. "
            "Add a rule to DECAY_RULES in train/groups.py."
        )
    return result


def frozen_paths(student: Student) -> list[str]:
    """Regular expressions of the paths that the student's own settings freeze: `student.backbone`, `student.lora`."""
    return [f"student/{pattern}" for pattern in student.config.frozen]


def path_of(path: Any) -> str:
    """A parameter's path as rules match it, such as `student/encoder/layers/0/query/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more
