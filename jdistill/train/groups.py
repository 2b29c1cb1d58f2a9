"""Parameter groups by path: freezing, learning rate scale and weight decay.

Gradients and optimizer state exist for trained parameters only: the parameters (nested dicts) are split into trained
and frozen ones, only the former are differentiated and updated, and both are joined for the forward pass.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, PyTree
from pydantic import Field, model_validator

from jdistill.config import Config, UserError
from jdistill.student import Student

Params = dict[str, PyTree[Array]]

DECAY_RULES: tuple[tuple[str, bool], ...] = (
    (r"losses/.*", False),
    (r".*/(bias|scale|distance_bias)", False),
    (r".*/(kernel|residual|decoder|words|positions|types)", True),
    (r"student/lora/.*/(a|b)", True),
)
"""Pattern of a full parameter path -> whether it decays. The first match applies; every parameter must match one. Only
those of a pooling may have other names: then matrices decay and vectors do not."""

SHOWN = 5
"""Maximum number of paths listed in an error."""


class Group(Config):
    """A rule of how parameters learn. Of each parameter the first rule that matches counts."""

    match: re.Pattern[str]
    """Regular expression of the whole path of a parameter, such as `student/encoder/layers/[0-2]/.*`; others begin
    with `student/pooling/`, `student/head/`, `student/projection/`, `student/lora/` or, of a loss, `losses/`."""
    lr_scale: float = Field(default=1.0, ge=0, le=1)
    """Learning rate of these parameters as a share of the schedule's, which peaks at `peak_lr`. 0 freezes them: they
    get no gradient, no optimizer state and no update, and memory holds nothing that only their gradient would need."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Decay of all these parameters, biases and norms included; left out: as the optimizer's `weight_decay` says."""

    @model_validator(mode="after")
    def _frozen_is_frozen(self) -> "Group":
        if self.lr_scale == 0 and self.weight_decay:
            raise ValueError("lr_scale 0 freezes these parameters, so they cannot decay. Leave weight_decay out.")
        return self


class Settings(NamedTuple):
    """Optimizer settings of one parameter."""

    lr_scale: float
    """Multiplies the learning rate; 0 freezes the parameter."""
    weight_decay: float
    """Decoupled weight decay, multiplied by the parameter's learning rate."""


class Groups:
    """Looks up each parameter's settings by the first group that matches its path.

    Args:
      rules: the groups, in order.
      weight_decay: the default weight decay.
      frozen: regular expressions of full paths to freeze, whatever the groups say.
    """

    def __init__(self, rules: Sequence[Group] = (), weight_decay: float = 0.0, frozen: Sequence[str] = ()):
        self._rules = tuple(rules)
        self._weight_decay = weight_decay
        self._frozen = tuple(frozen)

    @property
    def kinds(self) -> dict[str, Settings]:
        """Name -> settings, all that a trained parameter may have."""
        # Without rules every parameter has the full rate and the default decay, or none by DECAY_RULES.
        rules = [(rule.lr_scale, rule.weight_decay) for rule in self._rules if rule.lr_scale] or [(1.0, None)]
        default = (self._weight_decay, 0.0)
        possible = [Settings(scale, x) for scale, decay in rules for x in (default if decay is None else (decay,))]
        return {f"group_{i}": settings for i, settings in enumerate(dict.fromkeys(possible))}

    def labels(self, params: Params) -> PyTree[str]:
        """Which of `kinds` each trained parameter has, in the form of `params`. Raises as `decays` does."""
        names = {settings: name for name, settings in self.kinds.items()}
        is_settings = lambda x: isinstance(x, Settings)  # noqa: E731
        return jax.tree.map(names.__getitem__, self.settings(params), is_leaf=is_settings)

    def settings(self, params: Params) -> PyTree[Settings]:
        """Settings of each parameter, with the tree structure of `params`. Raises as `decays` does."""

        def one(path: Any, _: Array, decay: bool) -> Settings:
            return self._settings(path_of(path), self._weight_decay if decay else 0.0)

        return jax.tree.map_with_path(one, params, decays(params))

    def split(self, params: Params) -> tuple[Params, Params]:
        """The trained and the frozen parameters, each without empty branches."""
        # The decay, here 0.0, does not matter for what is trained.
        return split(params, lambda path: self._settings(path, 0.0).lr_scale > 0)

    def check(self, params: Params) -> None:
        """Check that the groups match the parameters.

        Raises:
          UserError: if there are groups and a parameter matches none of them, if a group is not the first match of any
            parameter, or if all parameters are frozen.
          ValueError: if a parameter matches none of DECAY_RULES.
        """
        decays(params)
        paths = [path_of(path) for path, _ in jax.tree.leaves_with_path(params)]
        free = [path for path in paths if not self._is_frozen(path)]
        rules = self._rules
        chosen = {path: self._rule(path) for path in free}
        uncovered = [path for path in free if chosen[path] is None]
        if rules and uncovered:
            raise UserError(
                f"train.optimizer.groups: {len(uncovered)} parameters match no group: {_listed(uncovered)}. Every "
                "parameter must match one; add e.g. {match: '.*'} at the end for all others."
            )
        for i, rule in enumerate(rules):
            if i not in chosen.values():
                raise UserError(f"train.optimizer.groups.{i}.match: {self._without_effect(rule.match, paths)}")
        if not any(self._settings(path, 0.0).lr_scale > 0 for path in paths):
            raise UserError(
                f"train.optimizer.groups: nothing to train, all {len(paths)} parameters are frozen: "
                f"{_listed(paths)}. Set lr_scale above 0 for some of them, or set student.backbone to trained."
            )

    def _settings(self, path: str, weight_decay: float) -> Settings:
        if self._is_frozen(path):
            return Settings(0.0, 0.0)
        i = self._rule(path)
        if i is None:
            return Settings(1.0, weight_decay)
        rule = self._rules[i]
        return Settings(rule.lr_scale, weight_decay if rule.weight_decay is None else rule.weight_decay)

    def _is_frozen(self, path: str) -> bool:
        return any(re.fullmatch(pattern, path) for pattern in self._frozen)

    def _rule(self, path: str) -> int | None:
        """Index of the first group that matches."""
        return next((i for i, rule in enumerate(self._rules) if rule.match.fullmatch(path)), None)

    def _without_effect(self, pattern: re.Pattern[str], paths: Sequence[str]) -> str:
        taken = [path for path in paths if pattern.fullmatch(path)]
        shown = repr(pattern.pattern)
        if not taken:
            return (
                f"{shown} matches no parameter, so the group has no effect. A pattern must match a full path, such as "
                f"{_listed(paths)}. Correct it, or remove the group."
            )
        return (
            f"{shown} has no effect: an earlier group or the student's settings already apply to all parameters it "
            f"matches: {_listed(taken)}. Move the group up, or remove it."
        )


def split(tree: Mapping[str, Any], belongs: Callable[[str], bool]) -> tuple[Params, Params]:
    """Split nested dicts into the leaves whose "/"-joined path satisfies `belongs`, and the others.

    Branches that become empty are dropped; branches that are empty in `tree` go to the first result.
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
    """Inverse of `split`."""
    both = {**first, **second}
    shared = first.keys() & second.keys()
    return {key: join(first[key], second[key]) if key in shared else both[key] for key in sorted(both)}


def decays(params: PyTree[Array]) -> PyTree[bool]:
    """Whether each parameter decays, by DECAY_RULES.

    Raises:
      ValueError: naming every parameter that matches no rule.
    """
    uncovered: list[str] = []

    def rule(path: Any, parameter: Array) -> bool:
        name = path_of(path)
        for pattern, decay in DECAY_RULES:
            if re.fullmatch(pattern, name):
                return decay
        if name.startswith("student/pooling/"):
            return parameter.ndim > 1
        uncovered.append(name)
        return False

    result = jax.tree.map_with_path(rule, params)
    if uncovered:
        raise ValueError(
            f"optimizer: {len(uncovered)} parameters match no weight decay rule: {', '.join(uncovered)}. "
            "Add a rule to DECAY_RULES in train/groups.py."
        )
    return result


def frozen_paths(student: Student) -> list[str]:
    """Regular expressions of the paths frozen by `student.backbone` and `student.lora`."""
    return [f"student/{pattern}" for pattern in student.config.frozen]


def path_of(path: Any) -> str:
    """A parameter's path as groups match it, such as `student/encoder/layers/0/query/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more
