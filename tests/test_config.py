"""Configuration: files, overrides, and errors a user can act on."""

import os
import threading
import time
from typing import Annotated, Literal

import pytest
from pydantic import Field

from jdistill.config import Config, PathText, UserError, dump_yaml, load_config, load_yaml, parse


class Cosine(Config):
    kind: Literal["cosine"] = "cosine"
    weight: float = 1.0


class Contrast(Config):
    kind: Literal["contrast"] = "contrast"
    temperature: float = Field(0.05, gt=0)


class Optimizer(Config):
    peak_lr: float = 1e-4
    clip_norm: float | None = 1.0


class Run(Config):
    name: str
    """What the run is called."""
    global_batch_size: int = 64
    optimizer: Optimizer = Optimizer()
    losses: dict[str, Annotated[Cosine | Contrast, Field(discriminator="kind")]] = Field(default_factory=dict)


def written(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_file_and_overrides_are_merged_before_validation(tmp_path):
    path = written(tmp_path, "name: a\noptimizer: {peak_lr: 1e-4}\n")
    run = load_config(Run, path, ["optimizer.clip_norm=null", "global_batch_size=8", "losses.a.kind=contrast"])
    assert run == Run(
        name="a",
        global_batch_size=8,
        optimizer=Optimizer(peak_lr=1e-4, clip_norm=None),
        losses={"a": Contrast()},
    )


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "+1e-4", ".1e-3", "0.0001"])
def test_scientific_notation_is_a_number(tmp_path, text):
    run = load_config(Run, written(tmp_path, f"name: a\noptimizer: {{peak_lr: {text}}}\n"))
    assert run.optimizer.peak_lr == 1e-4


@pytest.mark.parametrize("name", ["1e", "e-4", "1e-4x", "a1e-4"])
def test_words_that_look_like_numbers_stay_words(tmp_path, name):
    assert load_config(Run, written(tmp_path, f"name: {name}\n")).name == name


def test_dump_reads_back_to_an_equal_value(tmp_path):
    run = Run(name="ü: #1", losses={"a": Cosine(weight=0.5), "b": Contrast()})
    assert load_config(Run, written(tmp_path, dump_yaml(run))) == run


def error(tmp_path, text, *overrides):
    path = written(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_config(Run, path, list(overrides))
    return str(caught.value).replace(str(path), "run.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "name: a\nglobal_batch_sise: 3\n",
            "run.yaml: global_batch_sise: unknown key. Did you mean 'global_batch_size'?",
        ),
        ("name: a\noptimizer: {peak_rl: 3}\n", "run.yaml: optimizer.peak_rl: unknown key. Did you mean 'peak_lr'?"),
        (
            "name: a\nlosses: {x: {kind: contrast, temprature: 1}}\n",
            "run.yaml: losses.x.temprature: unknown key. Did you mean 'temperature'?",
        ),
        (
            "name: a\nlosses: {x: {kind: contrats}}\n",
            "run.yaml: losses.x: unknown kind 'contrats'. Did you mean 'contrast'?",
        ),
        (
            "name: a\nlosses: {x: {weight: 1}}\n",
            "run.yaml: losses.x: has no 'kind'. Expected one of: contrast, cosine.",
        ),
        (
            "name: a\nlosses: {x: {kind: contrast, temperature: -1}}\n",
            "run.yaml: losses.x.temperature: is -1; input should be greater than 0.",
        ),
        ("global_batch_size: 3\n", "run.yaml: name: missing. What the run is called."),
    ],
)
def test_errors_name_place_value_and_way_out(tmp_path, text, expected):
    assert error(tmp_path, text) == expected


def test_all_mistakes_are_reported_at_once(tmp_path):
    message = error(tmp_path, "global_batch_size: many\noptimizer: {clip_norm: x}\n")
    assert [line.split(":")[1].strip() for line in message.splitlines()] == [
        "name",
        "global_batch_size",
        "optimizer.clip_norm",
    ]
    assert "is 'many'; input should be a valid integer" in message


def test_missing_file_offers_the_near_one(tmp_path):
    written(tmp_path, "name: a\n")
    with pytest.raises(UserError, match=r"rum\.yaml: no such file\. Did you mean '.*run\.yaml'\?"):
        load_config(Run, tmp_path / "rum.yaml")


def test_files_that_are_not_a_mapping_or_not_yaml_are_refused(tmp_path):
    assert "expected a mapping" in error(tmp_path, "- a\n- b\n")
    assert "not valid YAML" in error(tmp_path, "name: [a\n")
    assert "duplicate key 'name'" in error(tmp_path, "name: a\nname: b\n")


def test_an_override_needs_a_value(tmp_path):
    assert error(tmp_path, "name: a\n", "train.steps") == (
        "override 'train.steps': expected key=value, for example train.steps=500."
    )


def test_values_cannot_change():
    run = parse(Run, {"name": "a"}, where="here")
    with pytest.raises(ValueError, match="frozen"):
        run.name = "b"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("name=Instruct: find: it", "override 'name=Instruct: find: it': the value is not valid YAML"),
        ("optimizer.peak_lr=[", "the value is not valid YAML"),
        ("name='x", "name='\"...\"'"),
        ("name=!!python/name:os", "the value is not valid YAML"),
        ("name=\x01", "the value is not valid YAML"),
        ("global_batch_size=!!int abc", "line 1: abc is not a valid 'int'."),
        (".=1", "'.' is not a key"),
        ("optimizer..peak_lr=1", "'optimizer..peak_lr' is not a key"),
        ("a." * 1000 + "b=1", "is not a key"),
        ("optimizer.peak_lr=.inf", "optimizer.peak_lr: is inf; input should be a finite number"),
        ("optimizer.peak_lr=1e999", "input should be a finite number"),
    ],
)
def test_overrides_that_are_none(tmp_path, override, expected):
    assert expected in error(tmp_path, "name: a\n", override)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "run.yaml: is empty, expected a mapping of sections"),
        (b"- a\n", "run.yaml: contains a list, expected a mapping"),
        ("name: caf\xe9\n".encode("latin-1"), "byte 0xe9 in line 1 is not UTF-8 text. Save the file as UTF-8."),
        ("name: a\n".encode("utf-16"), "is UTF-16 text, expected UTF-8."),
    ],
)
def test_files_that_are_no_configuration(tmp_path, content, expected):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_config(Run, path)
    assert expected in str(caught.value)


def test_a_folder_instead_of_a_file(tmp_path):
    with pytest.raises(UserError, match="is a folder, expected a YAML file"):
        load_config(Run, tmp_path)


def test_gigabytes_are_not_read(tmp_path):
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match=r"model\.safetensors: is larger than 1,048,576 bytes; expected a recipe"):
        load_yaml(tmp_path / "model.safetensors")


def test_a_recipe_may_come_through_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("name: x\n",))
    writer.start()
    assert load_yaml(tmp_path / "pipe") == {"name": "x"}
    writer.join()


def test_many_mistakes_are_counted_and_found_fast(tmp_path):
    start = time.monotonic()
    message = error(tmp_path, "name: a\n" + "".join(f"k{i}: 1\n" for i in range(4000)))
    assert len(message.splitlines()) == 21
    assert message.endswith("run.yaml: and 3,980 more errors.")
    assert time.monotonic() - start < 10


def test_dumped_text_reads_back(tmp_path):
    for name in ("2e-5", "12e4567", "1E3", "0x10", "1_000", "on", "null", "~", "2024-01-01", "=", "<<", "\x85", " a "):
        assert load_config(Run, written(tmp_path, dump_yaml(Run(name=name)))).name == name


class Place(Config):
    folder: PathText


def test_home_is_expanded_and_an_id_of_the_hub_stays(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    found = [Place(folder=folder).folder for folder in ("~/a", "~", "owner/name", "a/~")]
    assert found == ["/home/me/a", "/home/me", "owner/name", "a/~"]
    with pytest.raises(UserError, match=r"folder: '~nobody-called-so' is not a user of this machine"):
        parse(Place, {"folder": "~nobody-called-so/a"}, where="a.yaml")


def test_a_number_where_text_is_expected_should_be_quoted(tmp_path):
    assert "name: is 120000.0; input should be a valid string. Put it in quotes" in error(tmp_path, "name: 12e4\n")
