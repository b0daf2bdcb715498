"""Gradient checkpointing: less memory, the same weights."""

import pytest
import tiny
from commands import SHORT, assert_same, complete, fail, save, save_corpus, weights
from transformers import PreTrainedModel

from tutorkd import capture


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpointing")
    for family in ("bert", "electra", "modernbert"):
        save(tiny.masked_lm(family), root / family)
    save_corpus(root / "corpus.txt")
    return root


def command(root, family, *flags):
    name, role = ("distill", "--teacher") if "adapt" not in flags else ("adapt", "--model")
    given = [role, str(root / family), "--corpus", str(root / "corpus.txt"), "--cache_dir", str(root / "cache")]
    return [name, *given, *SHORT, *(flag for flag in flags if flag != "adapt")]


@pytest.mark.parametrize(
    ("family", "flags"),
    [
        ("bert", ["--method", "tutor-kd"]),  # queries and keys of every layer
        ("modernbert", ["--method", "minilm-v2", "--relation_heads", "4"]),  # of the last layer, and values
        ("electra", ["--method", "kd"]),  # none
        ("bert", ["adapt"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_layers_are_run_again_and_the_weights_are_the_same(root, tmp_path, monkeypatch, family, flags):
    calls, attention = [], capture.sdpa_attention_forward
    monkeypatch.setattr(capture, "sdpa_attention_forward", lambda *a, **k: calls.append(1) or attention(*a, **k))
    counts = []
    for folder, switch in (("kept", "false"), ("again", "true")):
        before = len(calls)
        complete(
            *command(root, family, *flags, "--gradient_checkpointing", switch, "--output_dir", str(tmp_path / folder))
        )
        counts.append(len(calls) - before)
    assert_same(weights(tmp_path / "kept"), weights(tmp_path / "again"))
    assert counts[1] == counts[0] + 4 * 4  # four steps of four layers


def test_what_can_t_be_checkpointed_is_refused(root, tmp_path, capfd, monkeypatch):
    flags = ["--gradient_checkpointing", "--output_dir", str(tmp_path / "out")]
    reentrant = ["--gradient_checkpointing_kwargs", '{"use_reentrant": true}']
    assert "use_reentrant can't be true here" in fail(capfd, *command(root, "bert", *flags, *reentrant))
    monkeypatch.setattr(PreTrainedModel, "supports_gradient_checkpointing", False)
    monkeypatch.setattr("transformers.BertModel.supports_gradient_checkpointing", False)
    assert "transformers has none for a BertModel" in fail(capfd, *command(root, "bert", *flags))
    assert not (tmp_path / "out").exists()
