"""Folders that would have a release of sentence-transformers import or call code of their own."""

import json

import pytest

from jdistill.config import UserError
from jdistill.folders.code import refuse_foreign_code
from tests.tiny import tiny_bert_folder, tiny_static_folder


def change(path, **keys):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **keys}))


def add_module(folder, kind, path):
    listed = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*listed, {"idx": 9, "name": "9", "path": path, "type": kind}]))


@pytest.fixture
def folder(tmp_path):
    return tiny_bert_folder(tmp_path / "m", layers=1)


def test_folders_of_the_libraries_own_modules_pass(folder, tmp_path):
    add_module(folder, "sentence_transformers.models.Dense", "3_Dense")
    change(folder / "3_Dense/config.json", activation_function="torch.nn.modules.activation.Tanh")
    change(folder / "config.json", auto_map={"AutoModel": "modeling.X"}, attn_implementation="sdpa")
    refuse_foreign_code(folder, where="here")
    refuse_foreign_code(tiny_static_folder(tmp_path / "s"), where="here")
    tiny_bert_folder(tmp_path / "plain", layers=1, sentence_transformers=False)
    refuse_foreign_code(tmp_path / "plain", where="here")


@pytest.mark.parametrize("kind", ["evil.Evil", "custom_st.Transformer", "os.system", "sentence_transformers.util.Evil"])
def test_modules_of_other_code_are_refused(folder, kind):
    add_module(folder, kind, "")
    with pytest.raises(UserError, match=rf"here: .*module '9' is a {kind}\. Set trust_remote_code: true"):
        refuse_foreign_code(folder, where="here")


def test_modules_inside_a_router_are_looked_at(folder):
    add_module(folder, "sentence_transformers.models.Router", "3_Router")
    change(folder / "3_Router/router_config.json", types={"query_0_Evil": "evil.Evil"})
    with pytest.raises(UserError, match=r"is a evil\.Evil"):
        refuse_foreign_code(folder, where="here")


@pytest.mark.parametrize("activation", ["os.abort", "evil.Act", "torch.hub.load"])
def test_activations_that_are_no_modules_of_torch_are_refused(folder, activation):
    add_module(folder, "sentence_transformers.models.Dense", "3_Dense")
    change(folder / "3_Dense/config.json", activation_function=activation)
    with pytest.raises(UserError, match=f"has the activation {activation}"):
        refuse_foreign_code(folder, where="here")


def test_tokenizers_of_word_embeddings_are_looked_at(folder):
    add_module(folder, "sentence_transformers.models.WordEmbeddings", "3_Words")
    change(folder / "3_Words/wordembedding_config.json", tokenizer_class="evil.Tokenizer")
    with pytest.raises(UserError, match=r"has the tokenizer evil\.Tokenizer"):
        refuse_foreign_code(folder, where="here")


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("config.json", {"attn_implementation": "someone/kernel"}),
        ("config.json", {"_attn_implementation": {"": "someone/kernel"}}),
        ("sentence_bert_config.json", {"model_args": {"attn_implementation": "someone/kernel@main"}}),
    ],
)
def test_kernels_of_the_hub_are_refused(folder, file, keys):
    change(folder / file, **keys)
    with pytest.raises(UserError, match=rf"{file} has _?attn_implementation .*someone/kernel"):
        refuse_foreign_code(folder, where="here")
