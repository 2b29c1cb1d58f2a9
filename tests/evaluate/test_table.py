import json

from jdistill.evaluate import format_json, format_table

RESULTS = {
    "teacher": {"sts/spearman_cosine": 0.86721, "speed/rows_per_second": 1234.5},
    "student": {"sts/spearman_cosine": 0.84, "fidelity/negative_mse": -0.5},
}


def test_table_shows_every_model_and_metric():
    assert format_table(RESULTS) == (
        "model    sts/spearman_cosine  speed/rows_per_second  fidelity/negative_mse\n"
        "-------------------------------------------------------------------------\n"
        "teacher               0.8672                  1,234                      -\n"
        "student               0.8400                      -                -0.5000\n"
    ).replace("-" * 73, "-" * 74)


def test_table_of_chosen_metrics():
    assert format_table(RESULTS, ["sts/spearman_cosine"]).splitlines()[0] == "model    sts/spearman_cosine"


def test_wide_tables_continue_below():
    blocks = format_table(RESULTS, width=55).split("\n\n")
    assert len(blocks) == 2
    assert all(block.startswith("model ") for block in blocks)
    assert max(len(line) for block in blocks for line in block.splitlines()) <= 55


def test_json_holds_the_full_numbers_and_no_nan():
    loaded = json.loads(format_json({**RESULTS, "broken": {"sts/spearman_cosine": float("nan")}}))
    assert loaded["teacher"] == RESULTS["teacher"]
    assert loaded["broken"] == {"sts/spearman_cosine": None}
