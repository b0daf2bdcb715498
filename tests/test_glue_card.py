import pytest
from huggingface_hub import ModelCard

from tutorkd.errors import UserError
from tutorkd.glue.card import results, write_scores

TEXT = """
# A student of mine

Text --- with dashes, <b>HTML</b> and ünïcode.

---
"""
HEAD = """---
library_name: transformers
license: apache-2.0
custom_key: [1, 2]
model-index:
- name: its own name
  results:
  - task:
      type: text-classification
    dataset:
      name: IMDB
      type: imdb
    metrics:
    - type: accuracy
      value: 0.91
  - task:
      type: text-classification
    dataset:
      name: old
      type: nyu-mll/glue
      config: cola
      split: validation
    metrics:
    - type: matthews_correlation
      value: 0.1
---
"""


@pytest.fixture
def model():
    """CoLA from 3 seeds, MNLI from one on a part of the rows; RTE without any finished run."""
    whole = {
        "train_rows": 8551,
        "validation_rows": {"validation": 1043},
        "official_rows": {"train": 8551, "validation": 1043},
    }
    part = {
        "train_rows": 1000,
        "validation_rows": {"validation_matched": 9815, "validation_mismatched": 9832},
        "official_rows": {"train": 392702, "validation_matched": 9815, "validation_mismatched": 9832},
    }
    return {
        "tasks": {
            "cola": {"figures": {"matthews": {"median": 0.44556, "n": 3}}, **whole},
            "mnli": {
                "figures": {
                    "accuracy_matched": {"median": 0.8, "n": 1},
                    "accuracy_mismatched": {"median": 0.81, "n": 1},
                },
                **part,
            },
            "rte": {"figures": {}, **whole},
        }
    }


def test_each_figure_is_a_result_of_the_hub_s_data_set(model):
    cola, matched, mismatched = results(model)
    assert (cola.dataset_type, cola.dataset_config, cola.dataset_split) == ("nyu-mll/glue", "cola", "validation")
    assert (cola.metric_type, cola.metric_value) == ("matthews_correlation", 0.4456)
    assert cola.metric_name == "Matthews, median of 3 seeds"
    assert (matched.dataset_split, mismatched.dataset_split) == ("validation_matched", "validation_mismatched")
    assert mismatched.metric_name == "accuracy, mismatched, one seed, fine-tuned on 1,000 of 392,702 rows"


def test_text_other_keys_and_other_results_of_a_card_stay(model, tmp_path):
    card = tmp_path / "README.md"
    card.write_text(HEAD + TEXT, encoding="utf-8")
    assert write_scores(tmp_path, model) == card
    text = card.read_text(encoding="utf-8")
    assert text.endswith(f"---\n{TEXT}")
    loaded = ModelCard.load(card)
    assert loaded.data.license == "apache-2.0"
    assert loaded.data.custom_key == [1, 2]
    assert loaded.data.model_name == "its own name"
    found = {(each.dataset_type, each.dataset_config, each.dataset_split): each for each in loaded.data.eval_results}
    assert found["imdb", None, None].metric_value == 0.91
    assert found["nyu-mll/glue", "cola", "validation"].metric_value == 0.4456
    assert len(loaded.data.eval_results) == 4
    write_scores(tmp_path, model)
    assert card.read_text(encoding="utf-8") == text
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]


def test_a_card_without_a_head_gets_one_and_a_folder_without_a_card_too(model, tmp_path):
    write_scores(tmp_path, model)
    assert ModelCard.load(tmp_path / "README.md").data.model_name == tmp_path.name
    (tmp_path / "README.md").write_text(TEXT, encoding="utf-8")
    write_scores(tmp_path, model)
    assert (tmp_path / "README.md").read_text(encoding="utf-8").endswith(TEXT)
    assert len(ModelCard.load(tmp_path / "README.md").data.eval_results) == 3


@pytest.mark.parametrize("head", ["---\na: [\n---\n", "---\n- a\n- b\n---\n", "---\nmodel-index: 3\n---\n"])
def test_a_card_that_can_t_be_read_stays_as_it_is(head, model, tmp_path):
    card = tmp_path / "README.md"
    card.write_text(head + TEXT, encoding="utf-8")
    with pytest.raises(UserError, match=r"the head of the card .* can't be read"):
        write_scores(tmp_path, model)
    assert card.read_text(encoding="utf-8") == head + TEXT
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]


def test_a_folder_that_can_t_be_written_is_told(model, tmp_path):
    with pytest.raises(UserError, match="can't be written"):
        write_scores(tmp_path / "nowhere", model)
