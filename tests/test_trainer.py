"""The trainers from Python: the rows that they take and refuse."""

import pytest
import tiny
from datasets import Dataset

from tutorkd import TutorKDConfig, TutorKDTrainer
from tutorkd.errors import UserError

TEXT = Dataset.from_dict({"text": ["some text"]})


def trainer(folder, train_dataset, **kwargs) -> TutorKDTrainer:
    args = TutorKDConfig(output_dir=str(folder / "run"), max_steps=1, eval_rows=6, report_to="none")
    return TutorKDTrainer("half", tiny.masked_lm(), args, train_dataset, tiny.tokenizer(), **kwargs)


@pytest.mark.parametrize("rows", [TEXT, TEXT.to_iterable_dataset()], ids=["data set", "stream"])
def test_text_in_the_place_of_rows_is_refused(tmp_path, rows):
    with pytest.raises(UserError, match=r"without a column input_ids among text .*prepare_corpus\(\.\.\.\)\.train"):
        trainer(tmp_path, rows)


def test_held_out_text_in_the_place_of_rows_is_refused(tmp_path):
    with pytest.raises(UserError, match="without a column input_ids among text"):
        trainer(tmp_path, tiny.rows(4), eval_dataset=TEXT)
    with pytest.raises(UserError, match="without a column input_ids among text"):
        trainer(tmp_path, tiny.rows(4)).evaluate(TEXT)


def test_held_out_rows_may_be_given_to_an_evaluation_itself(tmp_path):
    held = tiny.rows(9, seed=1)
    given = trainer(tmp_path, tiny.rows(4)).evaluate(held)
    kept = trainer(tmp_path, tiny.rows(4), eval_dataset=Dataset.from_list(held)).evaluate()
    figures = [name for name in kept if "probe" in name]
    assert figures
    assert all(given[name] == kept[name] for name in figures)


def test_trainer_s_own_count_of_tokens_is_kept_where_it_is_asked_for(tmp_path):
    rows = [*tiny.rows(6, 12), *tiny.rows(2, 7, seed=1)]  # one batch, with padding
    for what, tokens in (("all", 8 * 12), ("non_padding", 6 * 12 + 2 * 7)):
        args = {"include_num_input_tokens_seen": what, "per_device_train_batch_size": 8, "save_strategy": "no"}
        config = TutorKDConfig(output_dir=str(tmp_path), max_steps=1, report_to="none", use_cpu=True, **args)
        run = TutorKDTrainer("half", tiny.masked_lm(), config, rows, tiny.tokenizer())
        run.train()
        assert run.state.num_input_tokens_seen == tokens


def test_prediction_is_refused_with_what_to_use_instead(tmp_path):
    with pytest.raises(UserError, match=r"doesn't predict: evaluate\(\) gives figures") as caught:
        trainer(tmp_path, tiny.rows(4)).predict(tiny.rows(4))
    assert "\n" not in str(caught.value)


def test_the_first_argument_of_the_config_is_the_folder_as_it_is_for_transformers(tmp_path):
    args = TutorKDConfig(str(tmp_path / "run"))
    assert (args.output_dir, args.policy_weight, args.modified_logit_weight) == (str(tmp_path / "run"), 1, 25)
