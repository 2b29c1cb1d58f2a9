"""Folders with pickles and bare vocabularies, converted for students."""

import json

import numpy as np
import pytest

import jdistill
from jdistill import cli
from jdistill.config import UserError
from jdistill.student.tokenizer_folder import read_tokenizer
from jdistill.student.tokenizer_texts import AWKWARD
from jdistill.teacher.convert import convert
from tests.folders.test_code import add_module, change
from tests.tiny import SENTENCES, WORDS, tiny_bert_folder


def pickled(folder, parts=1):
    """The same folder, its weights as pickles with tied tensors."""
    import torch
    from safetensors.torch import load_file

    for path in list(folder.rglob("model.safetensors")):
        tensors = load_file(path)
        path.unlink()
        if path.parent != folder:
            torch.save(tensors, path.with_name("pytorch_model.bin"))
            continue
        tensors["cls.predictions.decoder.weight"] = tensors["embeddings.word_embeddings.weight"]
        tensors["embeddings.position_ids"] = torch.arange(64)
        names = sorted(tensors)
        if parts == 1:
            torch.save(tensors, folder / "pytorch_model.bin")
            continue
        where = {name: f"pytorch_model-{i % parts}.bin" for i, name in enumerate(names)}
        for file in set(where.values()):
            torch.save({name: tensors[name] for name in names if where[name] == file}, folder / file)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


@pytest.fixture
def folder(tmp_path):
    import torch
    from safetensors.torch import save_file

    folder = tiny_bert_folder(tmp_path / "m", layers=1, prompts={"query": "dog: "})
    add_module(folder, "sentence_transformers.models.Dense", "3_Dense")
    activation = "torch.nn.modules.linear.Identity"
    change(folder / "3_Dense/config.json", in_features=32, out_features=8, bias=False, activation_function=activation)
    save_file({"linear.weight": torch.randn(8, 32)}, folder / "3_Dense/model.safetensors")
    return folder


@pytest.mark.parametrize("parts", [1, 3])
def test_a_converted_folder_is_the_same_model_without_pickles(folder, tmp_path, parts, capsys):
    expected = jdistill.load(folder).encode(list(SENTENCES), prompt_name="query")
    pickled(folder, parts)
    assert cli.main(["convert", str(folder), str(tmp_path / "new")]) == 0
    assert "Wrote" in capsys.readouterr().out
    assert not [path.name for path in (tmp_path / "new").rglob("*.bin*")]
    new = jdistill.load(tmp_path / "new")
    np.testing.assert_array_equal(new.encode(list(SENTENCES), prompt_name="query"), expected)
    assert (tmp_path / "new/1_Pooling/config.json").read_bytes() == (folder / "1_Pooling/config.json").read_bytes()


def test_a_vocabulary_becomes_a_tokenizer_file(folder, tmp_path):
    expected = jdistill.load(folder).encode(list(SENTENCES))
    (folder / "tokenizer.json").unlink()
    convert(str(pickled(folder)), tmp_path / "new")
    np.testing.assert_array_equal(jdistill.load(tmp_path / "new").encode(list(SENTENCES)), expected)


def test_what_is_there_is_not_written_over(folder, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="already exists"):
        convert(str(folder), tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="already exists"):
        convert(str(folder), tmp_path / "link")


def test_what_no_student_reads_leaves_nothing_behind(folder, tmp_path):
    change(folder / "config.json", model_type="t5")
    with pytest.raises(UserError, match=rf"{folder}/config\.json: model_type is 't5'"):
        convert(str(folder), tmp_path / "new")
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError):
        convert(str(folder), tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_folder_without_any_tokenizer_is_reported(folder, tmp_path):
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(UserError, match=r"has no tokenizer\.json and no other vocabulary"):
        convert(str(folder), tmp_path / "new")


@pytest.fixture(params=["xlm-roberta", "camembert"])
def sentencepiece_folder(request, tmp_path):
    """A model whose tokenizer is sentencepiece.bpe.model alone."""
    import sentencepiece
    from transformers import CamembertConfig, CamembertModel, XLMRobertaConfig, XLMRobertaModel

    folder = tmp_path / "m"
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"vocab_size": 200, "max_position_embeddings": 66, "pad_token_id": 1, "type_vocab_size": 1}
    kinds = {"xlm-roberta": (XLMRobertaConfig, XLMRobertaModel), "camembert": (CamembertConfig, CamembertModel)}
    config, model = kinds[request.param]
    model(config(**sizes)).save_pretrained(folder)
    with (folder / "sentencepiece.bpe.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*SENTENCES[:3], *WORDS, "naïve café", "\uff21\uff22 ½", "Köln"] * 3),
            model_writer=file,
            vocab_size=150,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    return folder


@pytest.mark.parity
def test_a_sentencepiece_model_becomes_a_tokenizer_file(sentencepiece_folder, tmp_path):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(sentencepiece_folder)
    convert(str(sentencepiece_folder), tmp_path / "new")
    ours = read_tokenizer(tmp_path / "new")
    for length in (None, 7):
        cut = {"truncation": True, "max_length": length} if length else {}
        expected = {text: theirs(text, **cut)["input_ids"] for text in AWKWARD}
        assert dict(zip(AWKWARD, ours.encode(list(AWKWARD), length), strict=True)) == expected
    jdistill.load(tmp_path / "new").encode(list(SENTENCES))


@pytest.mark.parity
def test_its_pieces_are_those_of_sentencepiece_itself(sentencepiece_folder, tmp_path):
    import sentencepiece

    known = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_folder / "sentencepiece.bpe.model"))
    convert(str(sentencepiece_folder), tmp_path / "new")
    tokenizer = read_tokenizer(tmp_path / "new")
    pieces = {number: piece for piece, number in tokenizer.ids.items()}
    for text in ("the cat sits", "The CAT  reads,", "naïve café \uff21\uff22 ½", " Köln\t", "unknown: 猫 Ω"):
        ids = tokenizer.encode([text], None)[0]
        expected = [known.id_to_piece(number) for number in known.encode(text)]
        assert [pieces[number] for number in ids] == ["<s>", *expected, "</s>"]


def test_without_the_package_sentencepiece_it_is_named(folder, tmp_path, monkeypatch):
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()
    (folder / "spiece.model").write_bytes(b"some")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"sentencepiece \(spiece\.model\), which is not installed.*jdistill\[teacher\]"
    ):
        convert(str(folder), tmp_path / "new")
