import dataclasses

import pytest
import yaml
from huggingface_hub import ModelCard

from jdistill.evaluate import STS, Fidelity, Retrieval, Throughput
from jdistill.export.card import CardInfo, TeacherInfo, make_card, write_card

INFO = CardInfo(
    name="tiny-student",
    teachers=[
        TeacherInfo("big", "org/big-model", "abc123", "0" * 64, "embedded"),
        TeacherInfo("other", "org/other", vectors="embedded"),
    ],
    width=32,
    max_length=128,
    architecture={"encoder": "BERT", "layers": 3, "pooling": "mean"},
    losses={
        "vectors": {"kind": "embed_mse", "weight": 1.0, "teacher": "big"},
        "contrast": {"kind": "info_nce", "weight": 0.5, "temperature": 0.05, "directions": ["q|d"], "note": None},
        "prefixes": {"kind": "matryoshka", "weight": 1.0, "loss": {"kind": "score_kl"}},
    },
    training={"steps": 1000, "rows per step": 256},
    results={
        "big": {"stsb/spearman_cosine": 0.8672},
        "tiny-student": {
            "stsb/spearman_cosine": 0.84123456789,
            "xquad/ndcg@10": 0.5,
            "speed/rows_per_second": 900.0,
            "fidelity/cosine": float("nan"),
        },
        "before training": {"stsb/spearman_cosine": 0.7},
    },
    papers=("arXiv:1807.03748", "arXiv:2205.13147", "arXiv:1503.02531"),
    tasks={"stsb": STS.task, "xquad": Retrieval.task, "speed": Throughput.task, "fidelity": Fidelity.task},
    prompts={"query": "query: ", "document": ""},
    initialised_from="org/base",
    base_model="org/base",
    max_difference=2.4e-7,
    versions={"jdistill": "0.1.0", "jax": "0.10.2"},
    recipe="name: tiny-student\nseed: 42\n",
    language=["en", "de"],
    license="apache-2.0",
)


def test_the_hub_parses_it_and_finds_the_measured_numbers():
    data = ModelCard(make_card(INFO), ignore_metadata_errors=False).data
    assert data.library_name == "sentence-transformers"
    assert data.pipeline_tag == "sentence-similarity"
    assert data.base_model == "org/base"
    assert data.language == ["en", "de"]
    assert data.license == "apache-2.0"
    assert data.model_name == "tiny-student"
    found = {(r.task_type, r.dataset_name, r.metric_type): r.metric_value for r in data.eval_results}
    assert found == {  # of the student alone; neither speed nor what is not a number
        ("semantic-similarity", "stsb", "spearman_cosine"): 0.841235,
        ("information-retrieval", "xquad", "ndcg@10"): 0.5,
    }


def test_every_given_fact_is_on_the_card():
    card = make_card(INFO)
    for message in (
        "`org/big-model` and `org/other`",
        "| big | org/big-model | abc123 | " + "0" * 64 + " | computed by this model |",
        "starting from `org/base`",
        "| layers | 3 |",
        "| longest input | 128 tokens |",
        "| prompt of a query | `query: ` |",
        "| contrast | info_nce | 0.5 | temperature=0.05, directions=['q\\|d'] |",
        "| steps | 1000 |",
        "before training",
        "2.4e-07",
        "| jax | 0.10.2 |",
        'prompt_name="query"',
        'jdistill.load("tiny-student")',
        "````yaml\nname: tiny-student",
        "seed: 42",
        "arxiv.org/abs/1807.03748",
        "arxiv.org/abs/1503.02531",
    ):
        assert message in card, message
    assert card.count("arxiv.org/abs/1908.10084") == 1


def test_a_teacher_is_called_one_only_as_far_as_that_was_verified():
    """The first sentence is what people read, and the table what they look up."""
    embedded = make_card(dataclasses.replace(INFO, teachers=[TeacherInfo("t", "org/t", "r", "f" * 64, "embedded")]))
    assert "It was distilled from `org/t`, starting from" in embedded
    assert f"| t | org/t | r | {'f' * 64} | computed by this model |" in embedded
    imported = make_card(dataclasses.replace(INFO, teachers=[TeacherInfo("t", "org/t", vectors="imported")]))
    assert "It was distilled from imported vectors attributed to `org/t`, starting from" in imported
    assert "| t | org/t | - | - | imported; not verified" in imported
    unseen = make_card(dataclasses.replace(INFO, teachers=[TeacherInfo("t", "org/t", "r")]))
    assert "It was distilled from `org/t` (as named in the recipe; not verified), starting from" in unseen
    assert "| t | org/t | r | - | as named in the recipe; not verified, since the store was not available |" in unseen


def test_what_is_not_known_is_left_out():
    bare = CardInfo(
        name="s",
        teachers=[TeacherInfo("t", "org/t")],
        width=8,
        max_length=None,
        architecture={},
        losses={"vectors": {"kind": "embed_cosine", "weight": 1.0}},
    )
    card = make_card(bare)
    assert "Evaluation" not in card
    assert "## Recipe" not in card
    assert "prompt" not in card
    assert "None" not in card
    front = yaml.safe_load(card.split("---")[1])
    assert "model-index" not in front
    assert "base_model" not in front


@pytest.mark.parametrize("model", ["./folder", "/tmp/some/model", "~/model"])
def test_paths_of_one_machine_stay_out_of_the_card(model):
    teachers = [TeacherInfo("t", "/home/someone/teacher")]
    card = make_card(dataclasses.replace(INFO, initialised_from=model, base_model=None, teachers=teachers))
    assert "base_model" not in yaml.safe_load(card.split("---")[1])
    assert "/home" not in card
    assert f"`{model.rpartition('/')[2]}`" in card


@pytest.mark.parametrize("odd", ["\x85", "\u2028", "\u2029", "\r", "\n", "\x0c", "\x1e", ": ", " #", "\ufeff"])
def test_the_front_matter_gives_back_every_name(odd, tmp_path):
    """YAML takes U+0085 for the end of a line, and huggingface_hub writes it as it is."""
    name = f"a{odd}b"
    write_card(tmp_path, dataclasses.replace(INFO, name=name, base_model=name, results={name: INFO.results["big"]}))
    data = ModelCard.load(tmp_path / "README.md", ignore_metadata_errors=False).data
    assert (data.model_name, data.base_model) == (name, name)
    assert data.eval_results[0].metric_value == 0.8672


@pytest.mark.parametrize("end", ["\x85", "\u2028", "\r", "\n"])
def test_names_and_prompts_stay_on_their_line(end):
    teachers = [TeacherInfo("t", f"org/a{end}b", vectors="embedded")]
    card = make_card(dataclasses.replace(INFO, teachers=teachers, prompts={"query": f"find{end}this: "}))
    assert "It was distilled from `org/a b`, starting" in card
    assert "| t | org/a b | - | - |" in card
    assert "| prompt of a query | `find this: ` |" in card


def test_backticks_end_no_code():
    recipe = "name: a\nstudent:\n  prompts: {query: '`````yaml'}\n"
    card = make_card(dataclasses.replace(INFO, recipe=recipe, prompts={"query": "`x``"}))
    assert f"\n``````yaml\n{recipe}``````\n" in card
    assert "| prompt of a query | ``` `x`` ``` |" in card
    assert f"\n````yaml\n{INFO.recipe}````\n" in make_card(INFO)


def test_writes_the_readme(tmp_path):
    assert write_card(tmp_path, INFO).read_text(encoding="utf-8") == make_card(INFO)
    assert ModelCard.load(tmp_path / "README.md").data.model_name == "tiny-student"


def test_tells_how_to_load_what_is_sparse_or_brings_a_module():
    plain = make_card(INFO)
    assert 'SentenceTransformer("tiny-student")' in plain
    assert "trust_remote_code" not in plain
    sparse = make_card(dataclasses.replace(INFO, sparse=True, width=30522))
    assert 'SparseEncoder("tiny-student")' in sparse
    assert "a weight for each of 30522 tokens" in sparse
    assert "sparse-encoder" in ModelCard(sparse).data.tags
    own = make_card(dataclasses.replace(INFO, own_modules=["jdistill_pooling.py"]))
    assert 'SentenceTransformer("tiny-student", trust_remote_code=True)' in own
    assert "jdistill_pooling.py" in own


def test_without_teachers_with_a_ramp_and_with_angle_brackets():
    ramp = {"start": 0.0, "stop": 0.5, "begin": 0.25, "end": 0.75, "shape": "linear"}
    losses = {"contrast": {"kind": "info_nce", "weight": ramp}, "b": {"kind": "no_such_kind"}}
    prompts = {"query": "<b>find</b>: "}
    card = make_card(dataclasses.replace(INFO, teachers=[], losses=losses, prompts=prompts))
    assert "It was trained, starting from" in card
    assert "## Teachers" not in card
    assert "| contrast | info_nce | 0 to 0.5 between 25% and 75% of the training |" in card
    assert "<" not in card.replace("bibtex", "")
