"""`tutorkd evaluate` on causal language models: from options to tables."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from commands import complete, fail, save, save_causal, save_corpus
from transformers import AutoModelForCausalLM

from tutorkd.errors import UserError
from tutorkd.evaluation import language_models
from tutorkd.evaluation.arguments import EvaluateArguments, LanguageArguments
from tutorkd.evaluation.language_models import evaluate_language_models, language_plan

LENGTHS = {"prompt_length": 6, "new_tokens": 8}
FLAGS = ["--max_length", "48", "--prompt_length", "6", "--new_tokens", "8", "--prompts", "5"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Teacher, student and text, in the folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    save_causal(tiny.tiny_causal("llama"), tmp_path / "teacher")
    save_causal(tiny.tiny_causal("gpt2", seed=1), tmp_path / "student")
    (tmp_path / "text.txt").write_text("\n\n".join(tiny.documents(8)), encoding="utf-8")
    return tmp_path


@pytest.fixture
def arguments(here):
    return EvaluateArguments(output_dir="out", max_length=48)


@pytest.fixture
def language(here):
    return LanguageArguments(teacher="teacher", text=["text.txt"], prompts=5, **LENGTHS)


@pytest.fixture
def no_loading(monkeypatch):
    def load(*args, **options):
        raise AssertionError("loaded")

    monkeypatch.setattr(language_models, "load_model", load)


def test_figures_are_those_of_plain_loops(arguments, language):
    """Documents of fewer tokens than a row, behind an end of text each."""
    teacher, student = evaluate_language_models(["student"], replace(arguments, max_length=64), language)
    tokenizer = tiny.causal_tokenizer()
    p_model, q_model = (AutoModelForCausalLM.from_pretrained(name).double() for name in ("teacher", "student"))
    nats, other_nats, divergence, tokens = 0.0, 0.0, 0.0, 0
    documents = tiny.documents(8)
    for document in documents:
        ids = tokenizer(document)["input_ids"]
        # The rows are 64 tokens long: a longer document goes on in another one behind its last token.
        for begin in range(0, len(ids), 63):
            with torch.no_grad():
                row = torch.tensor([[0, *ids[begin : begin + 63]]])
                p, q = (model(row).logits[0].log_softmax(-1) for model in (p_model, q_model))
            for place, target in enumerate(ids[begin : begin + 64]):
                if begin and not place:
                    continue
                other_nats, nats, tokens = (
                    other_nats - float(p[place, target]),
                    nats - float(q[place, target]),
                    tokens + 1,
                )
                divergence += float((p[place].exp() * (p[place] - q[place])).sum())
    size = sum(len(document.encode()) for document in documents)
    assert (student.text_tokens, student.text_bytes, student.documents) == (tokens, size, 8)
    assert tokens == sum(len(tokenizer(document)["input_ids"]) for document in documents)
    assert student.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert student.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert student.divergence == pytest.approx(divergence / tokens, rel=1e-4)
    assert teacher.perplexity == pytest.approx(math.exp(other_nats / tokens), rel=1e-5)
    assert (teacher.divergence, teacher.own_divergence, teacher.is_teacher) == (None, None, True)
    assert student.parameters == sum(weight.numel() for weight in q_model.parameters())
    assert student.bytes == Path("student/model.safetensors").stat().st_size
    assert student.number_format == "float32"


def test_the_teacher_s_twin_is_no_distance_away_on_any_text(arguments, language):
    save_causal(tiny.tiny_causal("llama"), Path("twin"))
    teacher, twin = evaluate_language_models(["twin"], arguments, language)
    assert twin.perplexity == teacher.perplexity
    assert abs(twin.divergence) < 1e-6
    assert abs(twin.own_divergence) < 1e-6
    assert 5 <= twin.own_tokens <= 40
    # It wrote what it finds likely, and the text is nothing to it.
    assert twin.own_perplexity < twin.perplexity


def test_models_are_held_against_a_teacher_that_isn_t_measured(arguments, language):
    _, student = evaluate_language_models(["student"], arguments, language)
    alone = replace(arguments, output_dir="alone")
    (same,) = evaluate_language_models(["student"], alone, language, with_teacher=False)
    assert (same.divergence, same.own_divergence) == (student.divergence, student.own_divergence)
    assert same.divergence > 0
    (teacher,) = evaluate_language_models(["./teacher"], replace(alone, restart=True), language, with_teacher=False)
    assert (teacher.name, teacher.is_teacher, teacher.divergence) == ("./teacher", True, None)


def test_the_seed_decides_what_a_model_writes(arguments, language):
    first, again, other = (
        evaluate_language_models(["student"], replace(arguments, seed=seed, output_dir=folder), language)[1]
        for seed, folder in ((1, "a"), (1, "b"), (2, "c"))
    )
    assert (first.own_divergence, first.own_perplexity) == (again.own_divergence, again.own_perplexity)
    assert first.own_perplexity != other.own_perplexity
    assert first.divergence == other.divergence


def test_without_a_teacher_models_stand_alone(arguments, language):
    results = evaluate_language_models(["student", "teacher"], arguments, replace(language, teacher=None))
    assert [result.name for result in results] == ["student", "teacher"]
    assert not any(result.is_teacher or result.divergence or result.own_perplexity for result in results)
    assert all(result.perplexity > 1 and result.tokens_per_second > 0 for result in results)


def test_other_tokens_leave_perplexity_and_say_why_there_is_no_divergence(here, arguments, language, capfd):
    tokenizer = tiny.causal_tokenizer()
    tokenizer.add_tokens(["w1 w2"])
    other = tiny.tiny_causal("qwen3")
    other.resize_token_embeddings(321)
    other.save_pretrained("other")
    tokenizer.save_pretrained("other")
    _, result = evaluate_language_models(["other"], arguments, language)
    assert result.perplexity > 1
    assert result.divergence is result.own_divergence is result.own_perplexity is None
    assert result.not_compared == "its tokens aren't the teacher's; compare bits per byte"
    assert "other: no KL divergence: its tokens aren't the teacher's" in capfd.readouterr().err
    assert (
        "No KL for other: its tokens aren't the teacher's; compare bits per byte." in Path("out/results.md").read_text()
    )


def test_a_command_prints_a_table_and_writes_it_with_all_figures(here, capfd):
    complete(
        "evaluate", "--models", "student", "--teacher", "teacher", "--text", "text.txt", *FLAGS, "--output_dir", "out"
    )
    printed = capfd.readouterr()
    written = json.loads(Path("out/results.json").read_text())
    teacher, student = written["results"]
    assert [teacher["name"], student["name"]] == ["teacher", "student"]
    for text in (printed.out, Path("out/results.md").read_text().replace("\\", "")):
        lines = {" ".join(line.replace("|", " ").split()) for line in text.splitlines()}
        perplexities = f"{teacher['perplexity']:,.2f} {student['perplexity']:,.2f}"
        assert f"perplexity per token {perplexities}" in lines
        assert f"KL(teacher model) - {student['divergence']:.4f}" in lines
    assert "written to out: results.md, results.json" in printed.out
    assert written["settings"]["max_length"] == 48
    assert not list(Path("out").rglob("*.partial"))


def test_a_finished_model_is_not_measured_again_under_any_spelling(arguments, language, monkeypatch):
    finished = evaluate_language_models(["student"], arguments, language)
    monkeypatch.setattr(language_models, "load_model", None)
    assert evaluate_language_models(["student"], arguments, language) == finished
    again = evaluate_language_models(["./student"], arguments, replace(language, teacher="./teacher"))
    assert again == [replace(finished[0], name="./teacher"), replace(finished[1], name="./student")]


def test_results_of_other_settings_text_or_teachers_are_refused_unless_thrown_away(here, arguments, language):
    evaluate_language_models(["student"], arguments, language)
    Path("other.txt").write_text("w1 w2 w3 w4 w5 w6 w7 w8 w9")
    for changed_arguments, changed_language, what in (
        (replace(arguments, max_length=47), language, "max_length: 48 there, 47 now"),
        (arguments, replace(language, new_tokens=7), "new_tokens: 8 there, 7 now"),
        (arguments, replace(language, text=["other.txt"]), "text_sha256: "),
        (arguments, replace(language, teacher=None), "teacher: "),
    ):
        with pytest.raises(UserError, match=rf"^out holds another run \({what}"):
            evaluate_language_models(["student"], changed_arguments, changed_language)
        with pytest.raises(UserError, match="holds another run"):
            language_plan(["student"], changed_arguments, changed_language)
    shorter = replace(language, new_tokens=7)
    evaluate_language_models(["student"], replace(arguments, restart=True), shorter)
    assert evaluate_language_models(["student"], arguments, shorter)


def test_a_plan_tells_sizes_and_text_and_loads_nothing(arguments, language, no_loading):
    plan = language_plan(["student"], arguments, language)
    size = Path("student/model.safetensors").stat().st_size
    assert plan["model student"].startswith(f"{size / 1e6:.1f} MB, ")
    assert plan["text"] == f"8 documents, {sum(len(document) for document in tiny.documents(8)):,} bytes"
    assert not Path("out").exists()


def test_bfloat16_is_computed_in_where_it_is_asked_for_or_the_checkpoint_is_in_it(here, arguments, language):
    save_causal(tiny.tiny_causal("llama").to(torch.bfloat16), Path("half"))
    alone = replace(language, teacher=None)
    (own,) = evaluate_language_models(["half"], replace(arguments, output_dir="a"), alone)
    (wide,) = evaluate_language_models(["half"], replace(arguments, output_dir="b", bf16=False), alone)
    (narrow,) = evaluate_language_models(["teacher"], replace(arguments, output_dir="c", bf16=True), alone)
    assert [each.number_format for each in (own, wide, narrow)] == ["bfloat16", "float32", "bfloat16"]
    assert own.perplexity == pytest.approx(wide.perplexity, rel=0.05)


def test_mistakes_are_told_in_one_line_before_a_model_is_loaded(here, no_loading, capfd):
    save(tiny.masked_lm(), here / "encoder")
    student = ["evaluate", "--models", "student"]
    text = ["--text", "text.txt", *FLAGS]
    Path("blank.txt").write_text("\n")
    Path("short.txt").write_text("w1")
    for argv, message in (
        (student, "nothing to evaluate on: give held-out text with --text, or tasks of lm-eval with --tasks"),
        ([*student, "encoder", *text], "student is a causal language model and encoder isn't: they are measured by "),
        ([*student, "--teacher", "encoder", *text], "student is a causal language model and encoder isn't: "),
        ([*student, "--seeds", "1", "2", *text], "--seeds is for encoders, and student is a causal language model: "),
        ([*student, "--distill_from", "a", *text], "--distill_from is for encoders, and student is a causal language"),
        ([*student, "--train", "a.csv", *text], "--train is for encoders, and student is a causal language model: "),
        (["evaluate", "--models", "encoder", *text], "--text is for causal language models, and encoder isn't one: "),
        ([*student, "--text", "none.txt"], "none.txt: no such file or folder"),
        ([*student, "--text", "blank.txt"], "corpus 'blank.txt' holds no text: every document is empty"),
        (
            [*student, "--text", "short.txt", "--max_length", "64", "--new_tokens", "8"],
            "no row of the text is longer than a prompt of 32 tokens, the longest has ",
        ),
        ([*student, *text, "--max_length", "65"], "max_length 65 is longer than the 64 positions of the model student"),
        (
            [*student, *text, "--new_tokens", "59"],
            "prompt_length + new_tokens 65 is longer than the 64 positions of the ",
        ),
        ([*student, *text, "--max_length", "1"], "max_length 1 is too short: a row"),
        ([*student, *text, "--prompts", "0"], "prompts must be above 0, not 0"),
        ([*student, *text, "--task_path", "."], "task_path says where tasks are, not which to run: "),
        (["evaluate", "--models", "nothing/", *text], "the model nothing/: there is no such folder"),
    ):
        assert fail(capfd, *argv).startswith(message)
    assert not Path("tutorkd-evaluation").exists()


def test_a_model_without_a_trained_head_is_refused(here, arguments, language):
    model = tiny.tiny_causal("llama", tie_word_embeddings=False)
    save_causal(model.model, here / "bare")
    with pytest.raises(
        UserError, match=r"^the model bare has no trained LM head \(1 weights are missing, such as lm_head"
    ):
        evaluate_language_models(["bare"], arguments, language)


def test_a_model_in_gguf_is_evaluated_as_the_one_that_it_was_made_of(here, arguments, language):
    pytest.importorskip("gguf")
    from test_gguf import write

    path = write(tiny.tiny_causal("llama"), here / "model.gguf")
    teacher, packed = evaluate_language_models([path], arguments, language)
    assert packed.perplexity == pytest.approx(teacher.perplexity, rel=1e-4)
    assert packed.divergence == pytest.approx(0, abs=1e-5)
    assert packed.bytes == Path(path).stat().st_size


def test_a_corpus_s_files_are_read_as_elsewhere(here, arguments, language):
    save_corpus(here / "corpus.txt")
    (result,) = evaluate_language_models(["student"], arguments, replace(language, teacher=None, text=["corpus.txt"]))
    assert result.documents == 60
