"""What we override of transformers' Trainer: a hook that is renamed there would do nothing here, and say nothing."""

import inspect

import pytest
from transformers import Trainer

from tutorkd.packed_rows import PackedRowsTrainer
from tutorkd.saving import SavingTrainer
from tutorkd.trainer import DistillationTrainer, MaskedLMTrainer, TutorKDTrainer

OURS = [SavingTrainer, PackedRowsTrainer, MaskedLMTrainer, DistillationTrainer, TutorKDTrainer]
SOURCE = inspect.getsource(Trainer)
# Name of each overridden hook, to the parameters that it has in Trainer; in the order in which a run comes by them.
HOOKS = {
    "init_hf_repo": None,  # what it is given is handed on
    "_inner_training_loop": ["batch_size", "args", "resume_from_checkpoint", "trial", "ignore_keys_for_eval"],
    "_load_from_checkpoint": ["resume_from_checkpoint", "model"],
    "_get_train_sampler": ["train_dataset"],
    "get_eval_dataloader": None,  # what it is given is handed on
    "_load_rng_state": ["checkpoint"],
    "get_batch_samples": ["epoch_iterator", "num_batches", "device"],
    "training_step": ["model", "inputs", "num_items_in_batch"],
    "_prepare_inputs": ["inputs"],
    "compute_loss": ["model", "inputs", "return_outputs", "num_items_in_batch"],
    "_track_num_input_tokens": ["inputs"],
    "_clip_grad_norm": ["model"],
    "_get_grad_norm": ["model", "grad_norm"],
    "log": ["logs", "start_time"],
    "evaluate": ["eval_dataset", "ignore_keys", "metric_key_prefix"],
    "prediction_step": ["model", "inputs", "prediction_loss_only", "ignore_keys"],
    "_save_checkpoint": ["model", "trial"],
    "_get_output_dir": ["trial"],
    "_save": ["output_dir", "state_dict"],
    "_push_from_checkpoint": ["checkpoint_folder"],
    "_load_best_model": [],
    "create_model_card": None,  # nothing is done there whatever it is given
    "push_to_hub": None,  # what it is given is handed on
    "predict": None,  # refused
}


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_there_and_takes_what_it_took(name):
    hook = getattr(Trainer, name, None)
    assert hook is not None, f"this transformers has no Trainer.{name}: find what took its place"
    if HOOKS[name] is not None:
        assert list(inspect.signature(hook).parameters)[1:] == HOOKS[name]


@pytest.mark.parametrize("name", [name for name in HOOKS if name.startswith("_") or "step" in name])
def test_trainer_itself_calls_the_hook(name):
    assert f"self.{name}(" in SOURCE or f"self.{name}," in SOURCE


@pytest.mark.parametrize("name", HOOKS)
def test_ours_takes_what_trainer_s_takes(name):
    for kind in (kind for kind in OURS if name in vars(kind)):
        parameters = inspect.signature(vars(kind)[name]).parameters.values()
        if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            assert [p.name for p in parameters][1:] == (HOOKS[name] or [])


def test_every_hook_that_is_overridden_is_listed():
    names = {name for kind in OURS for name, value in vars(kind).items() if inspect.isfunction(value)}
    overridden = {name for name in names if hasattr(Trainer, name)} - {"__init__"}
    assert overridden == set(HOOKS)


def test_none_of_our_own_names_becomes_a_hook_of_trainer_s_by_chance():
    """A method of ours that Trainer gets under the same name would be called in its place."""
    own = {name for kind in OURS for name in vars(kind) if not name.startswith("__")} - set(HOOKS)
    assert not {name for name in own if hasattr(Trainer, name)}
