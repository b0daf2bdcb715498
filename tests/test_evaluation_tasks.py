"""Tasks of lm-eval on tiny models: of a folder, with data made here."""

import json
import math
import sys

import pytest
import tiny
import torch
from commands import complete, fail, save_causal

from tutorkd.errors import UserError
from tutorkd.evaluation import tasks
from tutorkd.evaluation.tasks import Tasks

QUESTIONS = [("w1 w2 w3", ["w4", "w50"], 0), ("w11 w12 w13", ["w4", "w14"], 1), ("w21 w22", ["w4", "w23"], 1)]
TASK = """\
task: next_word
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {data}
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture
def folder(tmp_path):
    """One task of three questions."""
    data = tmp_path / "questions.jsonl"
    lines = [json.dumps(dict(zip(("question", "choices", "answer"), each, strict=True))) for each in QUESTIONS]
    data.write_text("\n".join(lines))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "next_word.yaml").write_text(TASK.format(data=data))
    return str(tmp_path / "tasks")


@pytest.fixture
def lm_eval():
    return pytest.importorskip("lm_eval")


def accuracy(model):
    """The share of questions whose answer is the likeliest behind the question, by a plain loop in float64."""
    tokenizer, right = tiny.causal_tokenizer(), 0
    model.double()
    for question, choices, answer in QUESTIONS:
        likelihoods = []
        for choice in choices:
            start, ids = tokenizer(question)["input_ids"], tokenizer(f"{question} {choice}")["input_ids"]
            with torch.no_grad():
                logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            likelihoods.append(sum(float(logs[place - 1, ids[place]]) for place in range(len(start), len(ids))))
        right += likelihoods.index(max(likelihoods)) == answer
    model.float()
    return right / len(QUESTIONS)


@pytest.mark.parametrize("seed", range(4))
def test_a_task_of_a_folder_is_scored_as_by_a_plain_loop(lm_eval, folder, seed):
    model = tiny.tiny_causal(seed=seed)
    found = Tasks(["next_*"], folder).run(model, tiny.causal_tokenizer(), seed=0)
    share = accuracy(model)
    error = math.sqrt(share * (1 - share) / 2)  # with Bessel's correction, of three
    assert found == {"next_word": {"acc": pytest.approx(share), "acc_stderr": pytest.approx(error)}}


def test_results_of_tasks_stand_in_the_table(lm_eval, folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    save_causal(tiny.tiny_causal(), tmp_path / "model")
    complete("evaluate", "--models", "model", "--tasks", "next_word", "--task_path", folder, "--output_dir", "out")
    (result,) = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    share = accuracy(tiny.tiny_causal())
    assert result["tasks"]["next_word"]["acc"] == pytest.approx(share)
    assert result["perplexity"] is None  # no text was given
    assert any(
        line.split()[:3] == ["next_word:", "acc", f"{share:.4f}"] for line in capfd.readouterr().out.splitlines()
    )
    assert f"| next_word: acc | {share:.4f} ± " in (tmp_path / "out" / "results.md").read_text().replace("\\", "")


def test_a_task_whose_data_aren_t_there_is_told_in_one_line(lm_eval, folder, tmp_path):
    (tmp_path / "questions.jsonl").unlink()
    with pytest.raises(UserError, match=r"^lm-eval can't run next_word: .*questions\.jsonl"):
        Tasks(["next_word"], folder).run(tiny.tiny_causal(), tiny.causal_tokenizer(), seed=0)


def test_a_folder_of_tasks_that_isn_t_there_is_told_in_one_line(lm_eval, tmp_path):
    with pytest.raises(UserError, match=r"^task_path .*none: there is no such folder$"):
        Tasks(["next_word"], str(tmp_path / "none"))


def test_a_task_that_isn_t_there_is_told_with_the_nearest(folder, monkeypatch):
    """With a stand-in for lm-eval's list of thousands, which takes long to read."""

    class Manager:
        all_tasks = ("arc_easy", "hellaswag")

        def __init__(self, include_path, include_defaults):
            self.tasks = self.all_tasks if include_defaults else ("next_word",)

        def match_tasks(self, names):
            return [name for name in names if name in self.tasks]

    monkeypatch.setitem(sys.modules, "lm_eval", type(sys)("lm_eval"))
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", type(sys)("lm_eval.tasks"))
    sys.modules["lm_eval.tasks"].TaskManager = Manager
    monkeypatch.setattr(tasks, "find_spec", lambda name: object())
    assert Tasks(["hellaswag"], folder).names == ["hellaswag"]
    assert Tasks(["next_word"], folder).names == ["next_word"]
    with pytest.raises(UserError, match=r"^lm-eval has no task helaswag; did you mean hellaswag\?$"):
        Tasks(["helaswag"], None)


def test_without_lm_eval_the_command_says_how_to_install_it(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tasks, "find_spec", lambda name: None)
    save_causal(tiny.tiny_causal(), tmp_path / "model")
    line = fail(capfd, "evaluate", "--models", str(tmp_path / "model"), "--tasks", "hellaswag")
    assert line == "--tasks are those of lm-eval, which isn't installed: pip install 'tutorkd[lm-eval]'"
