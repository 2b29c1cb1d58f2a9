"""Groups of parameters: which rule counts, what is refused, and that frozen parameters cost and change nothing."""

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast, get_args, get_origin

import jax
import numpy as np
import pytest

from jdistill.checkpoint import load_student_params
from jdistill.config import UserError, parse
from jdistill.losses import EmbedCosine, InfoNCE, LossConfig
from jdistill.parallel import make_mesh, row_sharding, state_sharding
from jdistill.student import Architecture, Prompts, Student, StudentConfig, make_student
from jdistill.student.encoders import BertConfig, Encoder, EncoderConfig
from jdistill.student.head import Dense, Head, Normalize
from jdistill.student.pooling import Pooling, PoolingModule
from jdistill.student.student import encoder_shapes
from jdistill.train import AdamW
from jdistill.train.groups import Groups, Settings, decays, join, path_of, split
from jdistill.train.state import TrainState, make_state
from jdistill.train.step import make_train_step
from tests.tiny import VOCABULARY, tiny_bert_folder, tiny_static_folder
from tests.train.test_loop import KilledError, assert_same, killed_at, state_of
from tests.train.test_memory import compiled
from tests.train.tiny_run import adamw, run, tiny_loader

PARAMS = {
    "student": {
        "encoder": {
            "embeddings": {"words": np.ones((5, 2)), "norm": {"scale": np.ones(2)}},
            "layers": {str(i): {"up": {"kernel": np.ones((2, 2)), "bias": np.ones(2)}} for i in range(3)},
        },
        "projection": {"big": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}},
    },
    "losses": {"contrast": {"temperature": np.ones(())}},
}
RULES: list[dict[str, Any]] = [
    {"match": "student/encoder/embeddings/.*", "lr_scale": 0},
    {"match": "student/encoder/layers/[01]/.*", "lr_scale": 0.1, "weight_decay": 0.5},
    {"match": ".*"},
]


def groups(rules: list[dict[str, Any]], frozen: tuple[str, ...] = ()) -> Groups:
    config = parse(AdamW, {"weight_decay": 0.25, "groups": rules}, where="x.yaml")
    return Groups(config.groups, config.weight_decay, frozen)


def test_the_first_rule_that_matches_counts() -> None:
    found = groups(RULES)
    found.check(PARAMS)
    settings = found.settings(PARAMS)
    encoder = settings["student"]["encoder"]
    assert encoder["embeddings"] == {"words": Settings(0, 0.25), "norm": {"scale": Settings(0, 0)}}
    # A rule's own decay is that of every parameter it matches; else matrices decay and biases do not.
    assert encoder["layers"]["1"]["up"] == {"kernel": Settings(0.1, 0.5), "bias": Settings(0.1, 0.5)}
    assert encoder["layers"]["2"]["up"] == {"kernel": Settings(1, 0.25), "bias": Settings(1, 0)}
    assert settings["losses"]["contrast"]["temperature"] == Settings(1, 0)


def test_trained_and_frozen_are_what_the_rules_say() -> None:
    trained, frozen = groups(RULES).split(PARAMS)
    assert frozen == {"student": {"encoder": {"embeddings": PARAMS["student"]["encoder"]["embeddings"]}}}
    assert "embeddings" not in trained["student"]["encoder"]
    assert jax.tree.structure(join(trained, frozen)) == jax.tree.structure(PARAMS)
    everything, nothing = groups([]).split(PARAMS)
    assert (jax.tree.structure(everything), nothing) == (jax.tree.structure(PARAMS), {})


@pytest.mark.parametrize("pattern", ["a/.*", "b/.*", ".*/x", "none"])
def test_joined_halves_are_the_whole(pattern: str) -> None:
    """Branches that are empty stay, since the whole must have the form that it had."""
    tree = {"b": {"y": 2, "x": 1}, "a": {"x": 3, "z": {}}, "c": {}}
    first, second = split(tree, lambda path: re.fullmatch(pattern, path) is not None)
    assert join(first, second) == tree
    assert {*jax.tree.leaves(first)}.isdisjoint(jax.tree.leaves(second))


def test_the_students_settings_come_before_the_rules() -> None:
    found = groups([{"match": "student/.*", "lr_scale": 0.5}, {"match": "losses/.*"}], ("student/encoder/.*",))
    found.check(PARAMS)
    trained, frozen = found.split(PARAMS)
    assert [*trained["student"]] == ["projection"]
    assert [*frozen["student"]] == ["encoder"]
    assert found.settings(trained)["student"]["projection"]["big"]["kernel"] == Settings(0.5, 0.25)


@pytest.mark.parametrize(
    ("rules", "frozen", "message"),
    [
        (
            [{"match": "student/projection/.*"}],
            (),
            r"groups: 9 parameters match no group: .*words.* and 4 more\. .*add e\.g\.",
        ),
        (
            [{"match": "encoder/.*"}, {"match": ".*"}],
            (),
            r"groups\.0\.match: 'encoder/\.\*' matches no .*kernel and 6 more",
        ),
        ([{"match": ".*"}, RULES[0]], (), r"groups\.1\.match: 'student/enc.*' has no effect: an earlier group .*words"),
        (RULES, ("student/encoder/.*",), r"groups\.0\.match: .* or the student's settings already apply .*words"),
        ([{"match": ".*", "lr_scale": 0}], (), r"nothing to train, all 11 parameters are frozen: .*and 6 more"),
        ([], (".*",), r"nothing to train.*student\.backbone"),
    ],
)
def test_rules_that_do_not_fit_are_refused(rules: Any, frozen: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        groups(rules, frozen).check(PARAMS)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"match": "layers/(0"}, r"x\.yaml: groups\.0\.match: is 'layers/\(0'; .*valid regular expression"),
        ({"match": ".*", "lr_scale": 2}, r"groups\.0\.lr_scale: is 2; .*less than or equal to 1"),
        ({"match": ".*", "lr_scale": 0, "weight_decay": 0.1}, r"groups\.0: lr_scale 0 freezes these parameters"),
        ({"match": ".*", "lr": 1}, r"groups\.0\.lr: unknown key\. Known keys: match, lr_scale"),
    ],
)
def test_malformed_rules_are_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        groups([rule])


NEITHER = ("distance_bias",)
"""Of more than one dimension, and a bias all the same."""


@pytest.mark.parametrize("kind", get_args(get_args(Encoder)[0]))
def test_of_every_encoder_matrices_decay_and_vectors_do_not(kind: type[EncoderConfig]) -> None:
    """Rules go by name: a parameter of a new name needs a rule, or this fails."""
    sizes: dict[str, Any] = {"num_hidden_layers": 2} if "num_hidden_layers" in kind.model_fields else {}
    architecture = Architecture(
        encoder=cast(Any, kind(**sizes)),
        pooling=["mean"],
        head=[],
        max_length=None,
        prompts=Prompts(),
        projections={},
        dropout=0.0,
        dtype="float32",
    )
    params = {"student": {"encoder": encoder_shapes(architecture.encoder)}}
    decay = by_path(decays(params))
    for path, form in by_path(params).items():
        assert decay[path] == (len(form.shape) > 1 and not path.endswith(NEITHER)), path


BEHIND = [
    *(
        (module, {})
        for part in get_args(Pooling)
        if get_origin(part) is Annotated
        for module in get_args(get_args(part)[0])[:-1]  # the last stands for those of other packages
    ),
    *((module, {"out_features": 7, "residual": True} if module is Dense else {}) for module in get_args(Head)),
]
"""Every pooling and module of the head that may have parameters, and its options."""


@pytest.mark.parametrize(("module", "options"), BEHIND)
def test_of_pooling_and_heads_too(module: Any, options: dict[str, Any]) -> None:
    """A linear layer with one output has a vector for a matrix."""
    of = BertConfig(num_hidden_layers=1) if issubclass(module, PoolingModule) else 6
    params = jax.eval_shape(lambda: {"student": {"pooling": {"0": module(**options).init(of, jax.random.key(0))}}})
    decay = by_path(decays(params))
    for path, form in by_path(params).items():
        assert decay[path] == (len(form.shape) > 1 or path.endswith("/kernel")), path


def test_a_pooling_names_its_parameters_as_it_likes() -> None:
    tables = {"queries": np.zeros((2, 3)), "offset": np.zeros(3)}
    assert decays({"student": {"pooling": {"0": tables}}}) == {
        "student": {"pooling": {"0": {"queries": True, "offset": False}}}
    }
    with pytest.raises(ValueError, match="2 parameters match no weight decay rule: student/head/0/offset"):
        decays({"student": {"head": {"0": tables}}})


# What a frozen parameter costs a training step, and what becomes of it.

TERMS: dict[str, dict[str, LossConfig]] = {
    "by row": {"align": EmbedCosine(teacher="big")},
    "coupled": {"align": EmbedCosine(teacher="big"), "contrast": InfoNCE(temperature={"start": 0.1})},
}
WORDS = (*VOCABULARY, *(f"word{i}" for i in range(4160 - len(VOCABULARY))))
"""So many that the table is large enough to be split."""


class Stepped(NamedTuple):
    """All on the host."""

    before: dict[str, Any]
    first: TrainState
    """After one step, when the first moment is the gradient, but for a factor."""
    last: TrainState


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two steps with dropout: `(terms, frozen, devices, fsdp, microbatches) -> what came of them`."""
    folder = tiny_bert_folder(Path(tmp_path_factory.mktemp("student")), hidden=16, layers=1, vocab=WORDS)
    student, params = make_student(
        StudentConfig(init=str(folder), dropout=0.2), teacher_widths={"big": 6}, key=jax.random.key(0)
    )
    head = [Dense(in_features=16, out_features=16, bias=False), Normalize()]
    student = Student(student.config.model_copy(update={"head": head}), student.tokenizer)
    params["head"] = {"0": {"kernel": jax.random.normal(jax.random.key(1), (16, 16)) / 4}}

    @cache
    def step(terms: str, frozen: tuple[str, ...], devices: int, fsdp: int, microbatches: int) -> Stepped:
        mesh = make_mesh(jax.devices()[:devices], fsdp=fsdp)
        optimizer, rules = adamw(10, warmup=0, clip_norm=None, frozen=frozen)
        program: Any = make_train_step(
            student, TERMS[terms], optimizer, rules, mesh, seed=0, total_steps=10, microbatches=microbatches
        )
        state = make_state(params, TERMS[terms], optimizer, rules)
        before = jax.tree.map(np.array, state.params)
        state = jax.device_put(state, state_sharding(state, mesh))
        batch = jax.device_put(tiny_loader(batch=8, columns=2).batch(1), row_sharding(mesh))
        program = program.lower(state, batch).compile()
        state, _ = program(state, batch)
        first = jax.tree.map(np.array, jax.device_get(state))  # a copy, for the next step takes the memory
        state, _ = program(state, batch)
        return Stepped(before, first, jax.device_get(state))

    return step


def by_path(tree: Any) -> dict[str, Any]:
    return {path_of(path): x for path, x in jax.tree.leaves_with_path(tree)}


ENCODER = ("student/encoder/.*",)
SOME = (".*/words", ".*/up/bias", "losses/.*")
WAYS = {
    "plain": ("coupled", ENCODER, 1, 1, 1),
    "GradCache": ("coupled", ENCODER, 4, 2, 2),
    "accumulation": ("by row", ENCODER, 4, 2, 2),
    "some of GradCache": ("coupled", SOME, 4, 2, 2),
}
"""Terms, what is frozen, devices, over how many of them parameters are split, pieces."""


@pytest.mark.parametrize("way", WAYS)
def test_frozen_parameters_stay_and_the_others_learn_as_before(stepped: Any, way: str) -> None:
    """Compared with the plain step on one device in which everything is trained."""
    terms, frozen, *split_over = WAYS[way]
    found, everything = stepped(terms, frozen, *split_over), stepped(terms, (), 1, 1, 1)
    before, after = by_path(found.before), by_path(found.last.params)
    is_frozen = {path: any(re.fullmatch(pattern, path) for pattern in frozen) for path in before}
    gradient, whole = (by_path(x.first.opt_state.mean) for x in (found, everything))
    assert {True, False} == {*is_frozen.values()}
    assert (
        gradient.keys()
        == {path for path in before if not is_frozen[path]}
        == by_path(found.last.opt_state.square).keys()
    )
    largest = max(float(np.abs(x).max()) for x in whole.values())
    for path, values in before.items():
        if is_frozen[path]:
            np.testing.assert_array_equal(after[path], values, strict=True)
        else:
            assert np.abs(after[path] - values).max() > 1e-6
            np.testing.assert_allclose(gradient[path], whole[path], rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("microbatches", [1, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_activations_that_lead_to_frozen_parameters_only_are_not_kept(microbatches: int) -> None:
    """Of three layers all but the last norm is frozen. What is left is what the compiler's schedule of a mere forward
    pass takes: with every layer 0.25 GB more, against 1.27 GB when all is trained."""

    def temporary(*frozen: str) -> int:
        return compiled(3, 256, microbatches=microbatches, frozen=frozen)[0].temp_size_in_bytes

    assert temporary(r"student/encoder/(?!layers/2/output_norm/).*") < 0.4 * temporary()


def test_killed_and_resumed_with_a_frozen_encoder(tmp_path: Path) -> None:
    source = tiny_static_folder(tmp_path / "student", width=8, normalize=True)
    config = StudentConfig(init=str(source), backbone="frozen", dropout=0.1)
    student = make_student(config, teacher_widths={"big": 6}, key=jax.random.key(0))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(whole, student, devices=1, evaluate=None)
    with pytest.raises(KilledError):
        run(killed, student, loader=killed_at(7), devices=1, evaluate=None)
    run(killed, student, devices=1, evaluate=None)
    assert_same(state_of(killed, 12), state_of(whole, 12))
    found = load_student_params(whole)
    assert_same(found["encoder"], student[1]["encoder"])
    assert not np.array_equal(found["projection"]["big"]["kernel"], student[1]["projection"]["big"]["kernel"])
    assert [*state_of(whole, 12)["rest"]["opt_state"]["mean"]["student"]] == ["projection"]


def test_a_run_says_how_much_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tiny_static_folder(tmp_path / "student", width=1000, normalize=True)
    student = make_student(
        StudentConfig(init=str(source), backbone="frozen"), teacher_widths={"big": 6}, key=jax.random.key(0)
    )
    run(tmp_path / "run", student, steps=1, evaluate=None, devices=1)
    assert f"{len(VOCABULARY) / 1e3 + 0.006:.2f}M parameters, 0.01M trained | " in capsys.readouterr().err
