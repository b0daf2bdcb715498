"""The trainers from Python: the rows that they take and refuse."""

import re
from functools import partial

import pytest
import tiny
import torch
from datasets import Dataset
from transformers import TrainingArguments

from tutorkd import TutorKDConfig, TutorKDTrainer, prepare_corpus
from tutorkd.config import DistillationConfig
from tutorkd.errors import UserError
from tutorkd.methods import CAUSAL_METHODS, METHODS
from tutorkd.trainer import CausalLMTrainer, DistillationTrainer, MaskedLMTrainer

TEXT = Dataset.from_dict({"text": ["some text"]})


def trainer(folder, train_dataset, **kwargs) -> TutorKDTrainer:
    args = TutorKDConfig(output_dir=str(folder / "run"), max_steps=1, eval_rows=6, report_to="none")
    return TutorKDTrainer("half", tiny.masked_lm(), args, train_dataset, tiny.tokenizer(), **kwargs)


@pytest.mark.parametrize("column", ["text", "body"])
@pytest.mark.parametrize("streamed", [False, True], ids=["data set", "stream"])
def test_text_in_the_place_of_rows_is_refused_with_the_line_that_makes_rows_of_it(
    tmp_path, monkeypatch, column, streamed
):
    dataset = Dataset.from_dict({column: tiny.documents()})
    with pytest.raises(UserError, match=f"without a column input_ids among {column} can't") as caught:
        trainer(tmp_path, dataset.to_iterable_dataset() if streamed else dataset)
    line = re.search(r"corpus = prepare_corpus\(.*?\)", str(caught.value))[0]
    assert "\n" not in str(caught.value)
    (tmp_path / "my_text").mkdir()
    dataset.to_parquet(tmp_path / "my_text/part.parquet")
    monkeypatch.chdir(tmp_path)
    line = line.replace("=128", "=16").replace("...", column)  # the tiny models' rows; what a reader is to fill in
    there = {"dataset": dataset, "tokenizer": tiny.tokenizer(), "prepare_corpus": prepare_corpus}
    exec(line, there)
    run = trainer(tmp_path, there["corpus"].train, eval_dataset=there["corpus"].heldout)
    assert run.train().global_step == 1


def test_the_seed_decides_on_the_start_of_a_student_that_is_named_and_not_what_was_drawn_before(tmp_path):
    teacher, starts = tiny.masked_lm(), []
    for seed, drawn_before in ((1, 0), (1, 5), (2, 0)):
        torch.manual_seed(0)
        torch.rand(drawn_before)
        args = TutorKDConfig(output_dir=str(tmp_path / "run"), max_steps=1, seed=seed, report_to="none")
        run = TutorKDTrainer("half", teacher, args, tiny.rows(4), tiny.tokenizer())
        starts.append({name: value.clone() for name, value in run.model.state_dict().items()})
    assert all(torch.equal(value, starts[1][name]) for name, value in starts[0].items())
    name = "student.pooler.dense.weight"  # which the teacher, a masked language model, hasn't
    assert not torch.equal(starts[0][name], starts[2][name])


def test_a_row_behind_the_first_that_is_too_long_is_refused_when_it_is_read(tmp_path):
    run = trainer(tmp_path, [*tiny.rows(3), *tiny.rows(1, 65)])
    with pytest.raises(UserError, match="rows of 65 tokens are longer than the 64 positions of the student"):
        run.train()


@pytest.mark.parametrize("method", ["tutor-kd", "kd", "minilm-v2"])
def test_a_student_that_is_named_starts_as_that_of_the_command_does(tmp_path, method):
    teacher, own, bare = (tmp_path / name for name in ("teacher", "own", "bare"))
    tiny.masked_lm().save_pretrained(teacher)
    tiny.masked_lm(seed=1, num_hidden_layers=2).save_pretrained(own)
    tiny.config("bert", num_hidden_layers=2).save_pretrained(bare)
    saved, goal = tiny.masked_lm(seed=1, num_hidden_layers=2), tiny.masked_lm()
    starts = {}
    for name in ("half", str(bare), str(own)):
        args = DistillationConfig(output_dir=str(tmp_path / "run"), max_steps=1, report_to="none")
        settings = METHODS[method].settings(**({"relation_heads": 4} if method == "minilm-v2" else {}))
        run = DistillationTrainer(
            name, str(teacher), args, tiny.rows(4), tiny.tokenizer(), method=method, settings=settings
        )
        starts[name] = run.saved_model
    for name in ("half", str(bare)):
        layers = starts[name].base_model.encoder.layer
        for taken, layer in zip(layers, (1, 3), strict=True):
            assert _equal(taken, goal.bert.encoder.layer[layer])
        assert _equal(starts[name].base_model.embeddings, goal.bert.embeddings)
        if method == "kd":
            assert _equal(starts[name].cls, goal.cls)
    assert _equal(starts[str(own)].base_model.encoder, saved.bert.encoder)


def _equal(one, other) -> bool:
    others = other.state_dict()
    return all(torch.equal(value.cpu(), others[name]) for name, value in one.state_dict().items())


def test_rows_that_a_model_can_t_read_are_refused_before_the_first_step(tmp_path):
    with pytest.raises(UserError, match="rows of 65 tokens are longer than the 64 positions of the student"):
        trainer(tmp_path, tiny.rows(4, 65))
    with pytest.raises(UserError, match="the first row holds the token 100, and the student knows 100 tokens"):
        trainer(tmp_path, Dataset.from_list([{"input_ids": [2, 100, 3]}]))
    args = DistillationConfig(output_dir=str(tmp_path / "run"), max_steps=1, report_to="none")
    student, short = tiny.masked_lm(num_hidden_layers=2), tiny.masked_lm(max_position_embeddings=32)
    with pytest.raises(UserError, match="rows of 33 tokens are longer than the 32 positions of the teacher"):
        DistillationTrainer(student.bert, short, args, tiny.rows(4, 33), tiny.tokenizer())
    with pytest.raises(UserError, match="rows of 65 tokens are longer than the 64 positions of the model"):
        MaskedLMTrainer(
            student, args, train_dataset=tiny.rows(4, 65), eval_dataset=None, processing_class=tiny.tokenizer()
        )


@pytest.mark.parametrize("token", [100, -1])
def test_a_token_that_a_model_doesn_t_know_is_told_in_any_row(tmp_path, token):
    rows = [{"input_ids": [2, 7, 8, 3]}] * 7 + [{"input_ids": [2, 7, token, 3]}]
    with pytest.raises(UserError, match=f"a row holds the token {token}, and the model knows 100 tokens"):
        trainer(tmp_path, Dataset.from_list(rows)).train()


@pytest.mark.parametrize("method", [*CAUSAL_METHODS, "mlm"])
def test_a_model_without_the_head_that_is_trained_is_refused_before_the_first_step(tmp_path, method):
    args = DistillationConfig(output_dir=str(tmp_path / "run"), max_steps=1, report_to="none")
    causal = method in CAUSAL_METHODS
    whole = tiny.tiny_causal(num_hidden_layers=2) if causal else tiny.masked_lm(num_hidden_layers=2)
    teacher, tokenizer = (
        (tiny.tiny_causal(), tiny.causal_tokenizer()) if causal else (tiny.masked_lm(), tiny.tokenizer())
    )
    body, kind = whole.base_model, "AutoModelForCausalLM" if causal else "AutoModelForMaskedLM"
    with pytest.raises(UserError, match=f"head, and a {type(body).__name__} has none: load or build .* with {kind}"):
        DistillationTrainer(body, teacher, args, tiny.rows(4), tokenizer, method=method)
    trainers = CausalLMTrainer if causal else MaskedLMTrainer
    with pytest.raises(UserError, match=f"trains the model's .* with {kind}"):
        trainers(body, args, train_dataset=tiny.rows(4), eval_dataset=None, processing_class=tokenizer)


@pytest.mark.parametrize(
    ("token", "said"), [("mask_token", "no mask_token"), ("pad_token", "no pad_token"), ("eos_token", "no eos_token")]
)
def test_a_tokenizer_without_a_token_that_batches_need_is_refused(tmp_path, token, said):
    args = DistillationConfig(output_dir=str(tmp_path / "run"), max_steps=1, report_to="none")
    causal = token == "eos_token"
    model, tokenizer = (tiny.tiny_causal(), tiny.causal_tokenizer()) if causal else (tiny.masked_lm(), tiny.tokenizer())
    setattr(tokenizer, token, None)
    with pytest.raises(UserError, match=f"the tokenizer has .*{said}, which batches of rows need"):
        DistillationTrainer("half", model, args, tiny.rows(4), tokenizer, method="kd")


def test_settings_of_another_method_or_kind_of_model_are_refused(tmp_path):
    args = TutorKDConfig(output_dir=str(tmp_path / "run"), max_steps=1, report_to="none")
    with pytest.raises(UserError, match="KD of a masked language model takes KDSettings as its settings, not a Tutor"):
        DistillationTrainer("half", tiny.masked_lm(), args, tiny.rows(4), tiny.tokenizer(), method="kd", settings=args)
    with pytest.raises(UserError, match="Tutor-KD of a causal language model takes CausalTutorKDSettings"):
        TutorKDTrainer("half", tiny.tiny_causal(), args, tiny.rows(4), tiny.causal_tokenizer())


def test_text_that_is_no_data_set_is_refused_too(tmp_path):
    with pytest.raises(UserError, match=r"not as a str; make rows of the text, corpus = prepare_corpus\(dataset"):
        trainer(tmp_path, tiny.documents())


def test_the_line_for_causal_models_makes_rows_of_them(tmp_path):
    dataset = Dataset.from_dict({"text": tiny.documents()})
    args = DistillationConfig(output_dir=str(tmp_path / "run"), max_steps=1, report_to="none")
    with pytest.raises(UserError, match="those of a causal model with framed=False"):
        DistillationTrainer("half", tiny.tiny_causal(), args, dataset, tiny.causal_tokenizer(), method="kd")
    rows = prepare_corpus(dataset, tiny.causal_tokenizer(), max_length=16, framed=False).train
    run = DistillationTrainer("half", tiny.tiny_causal(), args, rows, tiny.causal_tokenizer(), method="kd")
    assert run.train().global_step == 1


def test_held_out_text_in_the_place_of_rows_is_refused(tmp_path):
    with pytest.raises(UserError, match="without a column input_ids among text"):
        trainer(tmp_path, tiny.rows(4), eval_dataset=TEXT)
    with pytest.raises(UserError, match="without a column input_ids among text"):
        trainer(tmp_path, tiny.rows(4)).evaluate(TEXT)


@pytest.mark.parametrize(
    ("model", "method", "metric", "known"),
    [
        ("masked", "tutor-kd", None, "probe_auc or probe_correlation"),
        ("masked", "kd", "eval_probe_auc", "loss"),
        ("causal", "tutor-kd", "cosine", "loss or perplexity or kl_to_teacher"),
    ],
)
def test_what_no_look_at_held_out_rows_gives_can_t_choose_the_best_checkpoint(tmp_path, model, method, metric, known):
    teacher, tokenizer = {
        "masked": (tiny.masked_lm(), tiny.tokenizer()),
        "causal": (tiny.tiny_causal(), tiny.causal_tokenizer()),
    }[model]
    looks = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
    rows = Dataset.from_list(tiny.rows(8))
    for chosen in (metric, known.split()[-1]):
        args = DistillationConfig(
            str(tmp_path / "run"), max_steps=2, report_to="none", metric_for_best_model=chosen, **looks
        )
        make = partial(DistillationTrainer, "half", teacher, args, rows, tokenizer, rows, method=method)
        if chosen == metric:
            with pytest.raises(
                UserError, match=f"give no {(metric or 'loss').removeprefix('eval_')} here; .* {known}$"
            ):
                make()
        else:
            run = make()
            run.train()
    entries = [entry for entry in run.state.log_history if f"eval_{chosen}" in entry]
    best = (max if chosen == "probe_correlation" else min)(entry[f"eval_{chosen}"] for entry in entries)
    assert len(entries) == 2
    assert run.state.best_metric == best


@pytest.mark.parametrize("method", ["kd", "distilbert", "mlm", "minilm-v2"])
def test_the_loss_on_held_out_rows_doesn_t_hang_on_how_many_are_read_at_once(tmp_path, method):
    """Rows of unequal length, so that batches have unequal numbers of masked and of real positions."""
    rows = Dataset.from_list([{"input_ids": row["input_ids"][: 6 + index]} for index, row in enumerate(tiny.rows(10))])
    losses = []
    for at_once in (10, 3, 1):  # of all rows at once it is the mean over all that there is
        args = DistillationConfig(
            str(tmp_path), per_device_eval_batch_size=at_once, mlm_probability=0.4, bf16=False, report_to="none"
        )
        trainer = DistillationTrainer("half", tiny.masked_lm(), args, rows, tiny.tokenizer(), rows, method)
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


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


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"args": TrainingArguments}, "args are needed as a TutorKDConfig, which .* not as a TrainingArguments"),
        ({"args": DistillationConfig}, "args are needed as a TutorKDConfig, which .* not as a DistillationConfig"),
        ({"processing_class": None}, "processing_class must be a tokenizer, .* not None"),
        ({"processing_class": "teacher"}, "processing_class must be a tokenizer, .* not a str"),
        ({"model": None}, 'the student must be a model of transformers or a name such as "thin", not None'),
        ({"teacher_model": None}, "the teacher must be a model of transformers, a Teacher or a name, not None"),
        ({"compute_metrics": len}, "compute_metrics can't be given: what is computed from held-out rows is fixed"),
        ({"compute_loss_func": len}, "compute_loss_func can't be given: losses and their means"),
        ({"data_collator": list}, "data_collator can't be given: rows, masks and batches are made by tutorkd"),
        ({"model_init": dict}, "model_init can't be given: a student is given, or named"),
    ],
)
def test_what_a_trainer_of_transformers_takes_and_this_one_doesn_t_is_refused(tmp_path, given, said):
    args = given.get("args", TutorKDConfig)(output_dir=str(tmp_path), max_steps=1, report_to="none")
    taken = {"model": "half", "teacher_model": tiny.masked_lm(), "processing_class": tiny.tokenizer(), **given}
    with pytest.raises(UserError, match=said):
        TutorKDTrainer(**taken | {"args": args, "train_dataset": tiny.rows(4)})


@pytest.mark.parametrize(
    "setting",
    [
        {"label_smoothing_factor": 0.1},
        {"neftune_noise_alpha": 5.0},
        {"bf16_full_eval": True},
        {"eval_do_concat_batches": False},
        {"include_for_metrics": ["loss"]},
        {"remove_unused_columns": True},
    ],
    ids=lambda setting: next(iter(setting)),
)
@pytest.mark.parametrize("kind", [MaskedLMTrainer, TutorKDTrainer])
def test_settings_that_the_commands_refuse_since_the_step_is_ours_are_refused_from_python(tmp_path, kind, setting):
    args = TutorKDConfig(output_dir=str(tmp_path), max_steps=1, report_to="none", **setting)
    given = {"train_dataset": tiny.rows(4), "eval_dataset": tiny.rows(4), "processing_class": tiny.tokenizer()}
    models = [tiny.masked_lm()] if kind is MaskedLMTrainer else ["half", tiny.masked_lm()]
    with pytest.raises(UserError, match=f"{next(iter(setting))} can't be set: "):
        kind(*models, args=args, **given)


def test_models_may_be_named_by_paths(tmp_path):
    tiny.masked_lm().save_pretrained(tmp_path / "teacher")
    args = TutorKDConfig(output_dir=str(tmp_path / "run"), max_steps=1, report_to="none")
    run = TutorKDTrainer(tmp_path / "teacher", tmp_path / "teacher", args, tiny.rows(4), tiny.tokenizer())
    assert run.train().global_step == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tokenizer": "teacher"}, "a tokenizer is needed, .* not a str"),
        ({"max_length": 16.5}, "max_length 16.5 is not a whole number of tokens"),
    ],
)
def test_rows_need_a_tokenizer_and_a_whole_number_of_tokens(given, said):
    with pytest.raises(UserError, match=said):
        prepare_corpus(TEXT, **({"tokenizer": tiny.tokenizer()} | given))
