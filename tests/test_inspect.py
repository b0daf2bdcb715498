"""What ``tutorkd inspect`` finds in a run's folder, and its figures, worked out from the files by other means."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import tiny
import torch
import torch.nn.functional as F
import yaml
from commands import SHORT, by_tutor_kd, complete, fail, save, save_corpus
from transformers import AutoModel, AutoModelForMaskedLM

from tutorkd.errors import UserError
from tutorkd.inspection.arguments import InspectArguments
from tutorkd.inspection.inspecting import inspect_run
from tutorkd.inspection.sentences import SentenceReader
from tutorkd.inspection.states import states_of

TEXT = "w3 w4 w5 w6 w7 w8 w9 w10 w11 w12"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of four steps with a checkpoint at the second and at the last."""
    folder = tmp_path_factory.mktemp("run")
    teacher, text = save(tiny.masked_lm(), folder / "teacher"), save_corpus(folder / "corpus.txt")
    out = folder / "out"
    flags = ["--bf16", "false", "--heldout", "0.2", "--learning_rate", "0.01"]
    complete(*by_tutor_kd(teacher, text, out, *SHORT, *flags))
    return out


@pytest.fixture
def copied(run, tmp_path) -> Path:
    """The same, to be spoilt."""
    return Path(shutil.copytree(run, tmp_path / "copied"))


def _data(html: str) -> dict:
    return json.loads(html.split('<script type="application/json" id="data">')[1].split("</script>")[0])


def _note(folder: Path, **changes) -> None:
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


@torch.no_grad()
def test_the_figures_of_a_position_are_those_of_the_models_in_the_files(run):
    look = inspect_run(InspectArguments(str(run), sentences=1, candidates=3)).look
    said = look(TEXT, [1, 6])
    assert said["places"] == [1, 6]
    assert said["read"] == ["[MASK]", "[MASK]"]
    tokenizer, teacher = tiny.tokenizer(), AutoModelForMaskedLM.from_pretrained(run.parent / "teacher").double().eval()
    hidden = torch.tensor([tokenizer(TEXT)["input_ids"]])
    original = hidden[0, [2, 7]].clone()
    hidden[0, [2, 7]] = tokenizer.mask_token_id
    for folder, positions in zip((run / "checkpoint-2", run), said["states"], strict=True):
        heads = {
            name: value.double()
            for name, value in safetensors.torch.load_file(folder / "training_heads.safetensors").items()
        }
        tutor = AutoModelForMaskedLM.from_pretrained(run.parent / "teacher").double().eval()
        own = {name.removeprefix("tutor.model."): v for name, v in heads.items() if name.startswith("tutor.model.")}
        assert len(own) >= 5
        read = teacher.base_model(hidden).last_hidden_state[0, [2, 7]]
        logits = torch.func.functional_call(tutor.cls, {name.removeprefix("cls."): v for name, v in own.items()}, read)
        logits[:, tiny.SPECIAL_IDS] = -torch.inf
        by_tutor, by_teacher = logits.softmax(-1), teacher.cls(read).softmax(-1)
        drawn = torch.tensor([tokenizer.convert_tokens_to_ids(each["replacement"]) for each in positions])
        written = hidden.index_put((torch.tensor([0, 0]), torch.tensor([2, 7])), drawn)
        answer = teacher(written).logits[0, [2, 7]].softmax(-1)
        student = AutoModel.from_pretrained(folder).double().eval()(written).last_hidden_state[0, [2, 7]]
        head = {name.removeprefix("modified_logit_head."): v for name, v in heads.items()}
        dense = F.gelu(F.linear(student, head["dense.weight"], head["dense.bias"]))
        normed = F.layer_norm(dense, dense.shape[-1:], head["LayerNorm.weight"], head["LayerNorm.bias"])
        answers = F.linear(normed, head["classifier.weight"], head["classifier.bias"]).squeeze(-1).sigmoid()
        for place, position in enumerate(positions):
            x, new = int(original[place]), int(drawn[place])
            ratio = min(1.0, float(by_teacher[place, new] / by_teacher[place, x]))
            entropy = -sum(float(p * p.log()) for p in by_tutor[place] if p > 0)
            reward_teacher = float(answer[place, x] - answer[place, new])
            reward_student = abs(ratio - float(answers[place]))
            assert position["original"] == ("w4", "w9")[place]
            assert position["figures"] == {
                "reward": pytest.approx(reward_teacher + reward_student, abs=1e-3),
                "reward_teacher": pytest.approx(reward_teacher, abs=1e-3),
                "reward_student": pytest.approx(reward_student, abs=1e-3),
                "ratio": pytest.approx(ratio, rel=1e-3),
                "answer": pytest.approx(float(answers[place]), rel=1e-3),
                "entropy": pytest.approx(entropy, rel=1e-3),
                "kept": float(x == new),
            }
            told = {token: rest for token, *rest in position["candidates"]}
            likeliest = tokenizer.convert_ids_to_tokens(by_tutor[place].topk(3).indices.tolist())
            first = tokenizer.convert_ids_to_tokens([int(teacher.cls(read)[place].argmax())])
            assert told.keys() == {*likeliest, *first, position["original"], position["replacement"]}
            for token, (tutor_p, teacher_p, is_original, is_drawn) in told.items():
                number = tokenizer.convert_tokens_to_ids(token)
                assert tutor_p == pytest.approx(float(by_tutor[place, number]), rel=2e-3)
                assert teacher_p == pytest.approx(float(by_teacher[place, number]), rel=2e-3)
                assert (is_original, is_drawn) == (number == x, number == new)
            shares = [each[1] for each in position["candidates"]]
            assert shares == sorted(shares, reverse=True)


def test_a_student_of_the_mlm_s_distribution_has_no_answer_to_the_ratio(run, tmp_path):
    out, page = tmp_path / "out", tmp_path / "page.html"
    flags = ["--heldout", "0.2", "--target", "mlm-logits"]
    complete(*by_tutor_kd(run.parent / "teacher", run.parent / "corpus.txt", out, *SHORT, *flags))
    complete("inspect", "--run", str(out), "--sentences", "3", "--output", str(page))
    sentences = _data(page.read_text(encoding="utf-8"))["sentences"]
    positions = [each for sentence in sentences for state in sentence["states"] for each in state]
    assert positions
    assert {position["figures"]["answer"] for position in positions} == {None}
    assert all(0 <= position["figures"]["reward_student"] <= 1 for position in positions)


def test_a_checkpoint_that_is_the_end_counts_once_and_one_that_isn_t_whole_not_at_all(run, copied):
    assert [state.name for state in states_of(run)] == ["step 2", "step 4 (the end)"]
    (copied / "checkpoint-2" / "model.safetensors").write_bytes(b"")
    assert [state.name for state in states_of(copied)] == ["step 4 (the end)"]
    (copied / "trainer_state.json").unlink()
    assert [state.name for state in states_of(copied)] == ["step 4"]


def test_the_page_holds_as_many_held_out_sentences_as_asked_for_each_masked_the_same_at_every_state(run, tmp_path):
    pages = [tmp_path / f"{name}.html" for name in "abc"]
    for page, seed in zip(pages, "003", strict=True):
        complete("inspect", "--run", str(run), "--sentences", "5", "--seed", seed, "--output", str(page))
    first, again, other = (_data(page.read_text(encoding="utf-8")) for page in pages)
    assert first == again != other
    assert first["states"] == ["step 2", "step 4 (the end)"]
    assert len(first["sentences"]) == 5
    documents = [document.split() for document in tiny.documents()]
    for sentence in first["sentences"]:
        words = "".join(sentence["pieces"]).split()
        assert any(words == document[start : start + len(words)] for document in documents for start in range(60))
        originals = [[position["original"] for position in positions] for positions in sentence["states"]]
        assert originals[0] == originals[1] == [words[place] for place in sentence["places"]]
        assert originals[0]


def test_sentences_of_a_text_are_shown_in_their_order_and_what_looks_like_a_token_is_text(run, tmp_path):
    text, page = tmp_path / "text.txt", tmp_path / "page.html"
    text.write_text(f"{TEXT}. w1 w2. {TEXT} [MASK] <script>alert(1)</script>! ", encoding="utf-8")
    complete("inspect", "--run", str(run), "--text", str(text), "--output", str(page))
    html = page.read_text(encoding="utf-8")
    found = ["".join(sentence["pieces"]) for sentence in _data(html)["sentences"]]
    assert found == [f"{TEXT}.", f"{TEXT} [MASK] <script>alert(1)</script>!"]  # w1 w2 is too short to be chosen
    assert "<script>alert" not in html


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (" \n", "there is no word in the text: write a sentence"),
        ("w1 " * 15, "the text has 15 tokens, and the run's rows hold 14: shorten it"),
        ("w" * 2001, "the text has 2,001 characters, and 2,000 are read: shorten it"),
    ],
)
def test_a_text_that_can_t_be_looked_at_is_refused(text, told):
    with pytest.raises(UserError) as refused:
        SentenceReader(tiny.tokenizer(), 16).read(text)
    assert str(refused.value) == told


def test_the_pieces_of_a_sentence_are_its_text_and_the_pieces_of_a_word_are_told():
    tokenizer = tiny.causal_tokenizer()  # of bytes, so that a character can be several tokens
    tokenizer.add_special_tokens({"cls_token": "<|endoftext|>", "sep_token": "<|endoftext|>"})
    text = "  red wör\n ab "
    sentence = SentenceReader(tokenizer, 64).read(text)
    assert "".join(sentence.pieces) == text
    words = {}
    for piece, word in zip(sentence.pieces, sentence.words, strict=True):
        words[word] = words.get(word, "") + piece
    assert {"red", "wör", "ab"} <= {word.strip() for word in words.values()}
    assert sorted(words) == list(range(len(words)))


def test_what_can_t_be_inspected_is_told_in_one_line(copied, tmp_path, capfd):
    def told(*flags: str) -> str:
        return fail(capfd, "inspect", "--run", str(copied), "--output", str(tmp_path / "page.html"), *flags)

    assert fail(capfd, "inspect").startswith("name the run to inspect: --run FOLDER")
    assert (
        fail(capfd, "inspect", "--run", "x", "--candidates", "0")
        == "candidates can't be 0: the least is 1, the most 50"
    )
    assert fail(capfd, "inspect", "--run", "x", "--output", "y", "--port", "80").startswith("--port is for the page")
    for named in (["--run", str(tmp_path)], [str(tmp_path)]):
        assert fail(capfd, "inspect", *named).startswith(f"{tmp_path} isn't the folder of a run")
    assert "no.txt: no such file or folder" in told("--text", str(tmp_path / "no.txt"))
    noted = yaml.safe_load((copied / "run.yaml").read_text(encoding="utf-8"))
    for changes, line in (
        ({"method": "kd"}, "is a run of --method kd, in which there is no tutor; inspect is for --method tutor-kd"),
        ({"objective": "causal"}, "is a run of a causal language model; inspect only shows the tutors of encoders"),
        ({"tutor": "uniform"}, "is a run with --tutor uniform, in which no tutor learns"),
        ({"teacher_sha256": "0"}, "has changed since the run"),
        ({"corpus_sha256": "0"}, "has changed since the run, so that what it held out isn't known"),
    ):
        _note(copied, **noted | changes)
        assert line in told()
    _note(copied, **noted)
    for file in copied.rglob("training_heads.safetensors"):
        file.rename(file.with_suffix(".away"))
    assert told().startswith(f"{copied} keeps no tutor: training_heads.safetensors is neither beside")


def test_a_teacher_that_has_moved_is_named(copied, tmp_path):
    moved = tmp_path / "moved"
    noted = yaml.safe_load((copied / "run.yaml").read_text(encoding="utf-8"))
    shutil.copytree(noted["teacher"], moved)
    _note(copied, teacher=str(tmp_path / "gone"))
    args = InspectArguments(str(copied), sentences=2, teacher=str(moved))
    assert "2 sentences of the text that the run held out" in inspect_run(args).told
