"""Perplexity and divergence of causal language models, against plain loops in float64."""

import math

import numpy as np
import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from tutorkd.data.documents import PLAIN_TEXT, Layout
from tutorkd.errors import UserError
from tutorkd.evaluation.generation import continue_prompts, generation_bytes, generation_speed
from tutorkd.evaluation.heldout import NOT_SCORED, HeldoutText, Row, prompts_of, read_text, rows_of, start_token
from tutorkd.evaluation.likelihood import score

TEXT = HeldoutText(tuple(tiny.documents(6)))


def rows(max_length=16, text=TEXT):
    return rows_of(text, tiny.causal_tokenizer(), 0, max_length)


def by_hand(model, row, other=None):
    """Tokens, nats and divergence of one row, alone, token by token in float64."""
    ids = torch.tensor([row.input_ids])
    with torch.no_grad():
        logits = [each.double()(ids).logits[0] for each in (model, other) if each is not None]
    tokens, nats, divergence = 0, 0.0, 0.0
    for place, target in enumerate(row.targets):
        if target == NOT_SCORED:
            continue
        q, *others = (each[place].exp() / each[place].exp().sum() for each in logits)
        tokens += 1
        nats -= math.log(q[target])
        for p in others:
            divergence += sum(float(a) * math.log(a / b) for a, b in zip(p, q, strict=True))
    return tokens, nats, divergence


@pytest.mark.parametrize("family", tiny.CAUSAL_FAMILIES)
def test_sums_are_those_of_a_plain_loop_in_float64(family):
    student, teacher = tiny.tiny_causal(family), tiny.tiny_causal("llama", seed=1)
    some = rows()[:5]
    scores = score(student, some, teacher)
    expected = np.array([by_hand(student, row, teacher) for row in some]).T
    np.testing.assert_allclose([scores.tokens, scores.nats, scores.divergence], expected, rtol=1e-5)
    assert scores.perplexity == pytest.approx(math.exp(expected[1].sum() / expected[0].sum()), rel=1e-5)
    assert scores.divergence_per_token == pytest.approx(expected[2].sum() / expected[0].sum(), rel=1e-5)


def test_figures_of_a_piece_are_read_from_the_device_at_once(monkeypatch):
    read, copied = torch.Tensor.cpu, []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copied.append(tensor.shape) or read(tensor))
    score(tiny.tiny_causal(), rows()[:4], tiny.tiny_causal(seed=1))
    assert copied == [(3, 4 * 16)]  # of all rows and positions


@pytest.mark.parametrize("family", tiny.CAUSAL_FAMILIES)
@pytest.mark.parametrize("positions", [5, 40, 100])
def test_pieces_change_nothing(family, positions):
    student, teacher = tiny.tiny_causal(family), tiny.tiny_causal(family, seed=1)
    all_at_once, in_pieces = (score(student, rows(24)[:8], teacher, at_once) for at_once in (10**6, positions))
    for name in ("tokens", "nats", "divergence"):
        np.testing.assert_allclose(getattr(in_pieces, name), getattr(all_at_once, name), rtol=1e-4)


def test_padding_changes_nothing_and_rows_keep_their_order():
    student, teacher = tiny.tiny_causal(), tiny.tiny_causal(seed=1)
    some = [Row(list(range(1, 1 + length)), list(range(2, 2 + length))) for length in (3, 30, 1, 12)]
    together = score(student, some, teacher)
    for number, row in enumerate(some):
        alone = score(student, [row], teacher)
        assert together.tokens[number] == alone.tokens[0] == len(row.targets)
        assert together.nats[number] == pytest.approx(alone.nats[0], rel=1e-5)
        assert together.divergence[number] == pytest.approx(alone.divergence[0], rel=1e-5)


def test_a_model_is_no_distance_from_itself_and_scores_alone_as_beside_another():
    model = tiny.tiny_causal("qwen3")
    scores = score(model, rows(), model)
    assert abs(scores.divergence).max() < 1e-5
    np.testing.assert_allclose(score(model, rows()).nats, scores.nats, rtol=1e-6)


def test_unused_logits_of_a_larger_model_don_t_count_in_the_divergence():
    small, large = tiny.tiny_causal(), tiny.tiny_causal(seed=1)
    large.resize_token_embeddings(384)
    some = rows()[:3]
    with torch.no_grad():
        wide = large.double()(torch.tensor([some[0].input_ids])).logits[0, :, :320].log_softmax(-1)
        narrow = small.double()(torch.tensor([some[0].input_ids])).logits[0].log_softmax(-1)
    expected = float((wide.exp() * (wide - narrow)).sum())
    back = float((narrow.exp() * (narrow - wide)).sum())
    assert score(small.float(), some, large.float()).divergence[0] == pytest.approx(expected, rel=1e-4)
    assert score(large, some, small).divergence[0] == pytest.approx(back, rel=1e-4)


class _Largest(TorchDispatchMode):
    """How many tensors of so many bytes were there at once."""

    def __init__(self, size):
        super().__init__()
        self.size, self.alive, self.most = size, {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() >= self.size:
                self.alive[tensor.untyped_storage().data_ptr()] = torch.multiprocessing.reductions.StorageWeakRef(
                    tensor.untyped_storage()
                )
        self.alive = {place: alive for place, alive in self.alive.items() if not alive.expired()}
        self.most = max(self.most, len(self.alive))
        return result


def test_no_more_than_two_tensors_as_large_as_the_logits_are_held_at_once():
    student, teacher = tiny.tiny_causal(vocab_size=4000), tiny.tiny_causal(vocab_size=4000, seed=1)
    long = Row(list(range(64)), list(range(1, 65)))
    with _Largest(4 * 4000 * 60) as counted:
        score(student, [long, long], teacher, 64)
        assert counted.most == 2
    with _Largest(4 * 4000 * 128) as counted:
        score(student, [long, long], teacher, 64)
        assert counted.most == 0


def test_the_standard_error_is_that_of_a_ratio_of_sums():
    generator = np.random.default_rng(0)
    scores = score(tiny.tiny_causal(), rows()[:9], tiny.tiny_causal(seed=1))
    ratios = []
    for _ in range(4000):  # the bootstrap
        drawn = generator.integers(0, 9, 9)
        ratios.append(scores.divergence[drawn].sum() / scores.tokens[drawn].sum())
    assert scores.divergence_standard_error == pytest.approx(np.std(ratios) * math.sqrt(9 / 8), rel=0.1)
    assert math.isnan(score(tiny.tiny_causal(), rows()[:1]).divergence_standard_error)


@pytest.mark.parametrize("max_length", [2, 5, 16, 64])
def test_each_token_is_scored_once_and_none_without_context(max_length):
    ids = [tiny.causal_tokenizer()(document)["input_ids"] for document in TEXT.documents]
    scored = []
    for row in rows(max_length):
        assert len(row.input_ids) == len(row.targets) <= max_length
        assert row.input_ids[0] == 0  # the start, which makes context of one token at least
        assert row.targets[:-1] == row.input_ids[1:] or row.targets[0] == NOT_SCORED
        assert row.targets[1:-1] == row.input_ids[2:]
        scored += [target for target in row.targets if target != NOT_SCORED]
    assert scored == [token for document in ids for token in document]


def test_no_document_is_context_of_another():
    together = rows_of(HeldoutText(("w1 w2", "w3")), tiny.causal_tokenizer(), 0, 64)
    alone = [rows_of(HeldoutText((document,)), tiny.causal_tokenizer(), 0, 64)[0] for document in ("w1 w2", "w3")]
    assert together == alone


def test_text_counts_its_bytes_and_knows_itself_by_content(tmp_path):
    (tmp_path / "a.txt").write_text("ä b\n\n\n c \n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"t": "ä b"}\n{"t": " "}\n{"t": "c"}\n', encoding="utf-8")
    lines, columns = (
        read_text([str(tmp_path / name)], Layout(column)) for name, column in (("a.txt", "text"), ("b.jsonl", "t"))
    )
    assert lines.documents == columns.documents == ("ä b", "c")
    assert (lines.bytes, lines.sha256) == (5, columns.sha256)
    assert lines.sha256 != HeldoutText(("ä", "b c")).sha256


def test_files_of_a_folder_that_aren_t_read_are_told(tmp_path, capfd):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.pdf").write_text("b")
    assert read_text([str(tmp_path)], PLAIN_TEXT).documents == ("a",)
    assert "left out 1 file of kinds that aren't read: 1 .pdf" in capfd.readouterr().err


def test_text_that_holds_none_is_refused(tmp_path):
    (tmp_path / "blank.txt").write_text("\n \n")
    with pytest.raises(UserError, match=r"blank\.txt' holds no text: every document is empty"):
        read_text([str(tmp_path / "blank.txt")], PLAIN_TEXT)


def test_a_text_starts_behind_the_beginning_or_else_the_end_of_one():
    tokenizer = tiny.causal_tokenizer()
    assert start_token(tokenizer, "m") == tokenizer.eos_token_id
    tokenizer.bos_token = "w"
    assert start_token(tokenizer, "m") == tokenizer.convert_tokens_to_ids("w")
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(UserError, match=r"^the tokenizer of the model m has neither a bos_token nor an eos_token"):
        start_token(tokenizer, "m")


def test_prompts_are_beginnings_of_rows_spread_over_the_text():
    long = [Row([0, number, 7, 8], [number, 7, 8, 9]) for number in range(10)]
    assert prompts_of([*long, Row([0], [1])], 4, 3) == [[0, number, 7] for number in (0, 3, 6, 9)]
    assert len(prompts_of(long, 99, 3)) == 10
    with pytest.raises(UserError, match=r"no row of the text is longer than a prompt of 4 tokens, the longest has 4: "):
        prompts_of(long, 4, 4)


def test_continuations_depend_on_the_seed_alone():
    model, tokenizer = tiny.tiny_causal(), tiny.causal_tokenizer()
    prompts = prompts_of(rows(), 20, 4)
    torch.manual_seed(9)
    state = torch.get_rng_state()
    first = continue_prompts(model, tokenizer, prompts, 8, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert continue_prompts(model, tokenizer, prompts, 8, seed=1) == first
    assert continue_prompts(model, tokenizer, prompts, 8, seed=2) != first


def test_a_continuation_is_scored_and_its_prompt_isn_t():
    model, tokenizer = tiny.tiny_causal(), tiny.causal_tokenizer()
    prompts = prompts_of(rows(), 4, 6)
    for prompt, row in zip(prompts, continue_prompts(model, tokenizer, prompts, 8, seed=1), strict=True):
        assert row.input_ids[:6] == prompt
        assert row.targets[:5] == [NOT_SCORED] * 5
        assert row.targets[5:-1] == row.input_ids[6:]
        assert 1 <= len(row.targets) - 5 <= 8


def test_tokens_are_drawn_from_the_model_s_whole_distribution():
    """Whatever the checkpoint's own settings for generation are."""
    model, tokenizer = tiny.tiny_causal(), tiny.causal_tokenizer()
    model.generation_config.update(do_sample=True, top_k=1, temperature=0.1, repetition_penalty=5.0)
    own = model.generation_config
    drawn = [row.targets[-1] for row in continue_prompts(model, tokenizer, [[0, 5, 6]] * 4000, 1, seed=0)]
    with torch.no_grad():
        likely = model(torch.tensor([[0, 5, 6]])).logits[0, -1].softmax(-1)
    counts = np.bincount(drawn, minlength=320)
    expected = 4000 * likely.numpy()
    often = expected > 20
    assert (abs(counts - expected)[often] < 5 * np.sqrt(expected[often])).all()
    assert (counts[~often].sum() - expected[~often].sum()) ** 2 < 25 * expected[~often].sum()
    assert model.generation_config is own


def test_a_continuation_ends_behind_the_end_of_text():
    model, tokenizer = tiny.tiny_causal(), tiny.causal_tokenizer()
    with torch.no_grad():
        model.model.norm.weight.zero_()  # every token is as likely: an end is drawn once in 320
    written = [row.targets[2:] for row in continue_prompts(model, tokenizer, [[0, 5, 6]] * 64, 32, seed=0)]
    ended = [tokens for tokens in written if tokens[-1] == 0]
    assert ended
    assert all(0 not in tokens[:-1] for tokens in written)
    assert all(len(tokens) == 32 for tokens in written if tokens[-1] != 0)


def test_speed_and_memory_are_of_generation():
    model = tiny.tiny_causal()
    speed = generation_speed(model, [[0, 5, 6]] * 3, 8)
    assert 0 < speed.first_quartile <= speed.median <= speed.third_quartile
    weights = sum(weight.nbytes for weight in model.parameters())
    assert weights <= generation_bytes(model, [0, 5, 6], 8) < weights + 2**28


def test_weights_that_are_only_mapped_so_far_count_once(tmp_path):
    sizes = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 2}
    tiny.tiny_causal(**sizes).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    weights = sum(weight.nbytes for weight in model.parameters())
    assert weights > 5e7
    assert generation_bytes(model, [0, 5, 6], 8) < weights + 2e7
