"""Networks that are trained together end where each ends alone."""

import copy

import pytest
import torch
from small_runs import images, largest_difference, network, texts, trainer_for
from transformers import TrainerCallback

from hf_ncollapse.data import TensorDataset
from hf_ncollapse.training import stacked_networks
from hf_ncollapse.training.batches import ProcessBatchSampler
from hf_ncollapse.training.ensemble import Ensemble

SEEDS = (3, 4, 8)
STEPS = 11
EVERYTHING = {"max_steps": STEPS, "logging_steps": 3, "eval_strategy": "steps", "eval_steps": 8}
OF_THE_CLOCK = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}


class StopAt(TrainerCallback):
    """Asks for the end after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_training_stop = True


def trainers_in(folder, data, architecture="L-RN1", modality="image", callbacks=(), fields=None, **arguments):
    """Three trainers of different networks and seeds, in float64."""
    made = []
    for seed in SEEDS:
        model = network(architecture, modality=modality, **(fields or {})).double()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        made.append(
            trainer_for(
                folder / f"seed-{seed}",
                model,
                data,
                eval_dataset=data,
                seed=seed,
                callbacks=list(callbacks),
                **arguments,
            )
        )
    return made


def train_alone(folder, data, *given, **arguments):
    made = trainers_in(folder, data, *given, **arguments)
    for trainer in made:
        trainer.train()
    return made


def train_together(folder, data, *given, **arguments):
    made = trainers_in(folder, data, *given, **arguments)
    assert Ensemble(made, [None] * len(made)).train() == [None] * len(made)
    return made


def logs(trainer):
    """What was logged of the steps, by name and step."""
    return {
        (entry["step"], name): value
        for entry in trainer.state.log_history
        for name, value in entry.items()
        if not OF_THE_CLOCK & set(entry)
    }


CASES = {
    "post-LN": ("L-RN1", "image", {"norm_placement": "post"}, {}),
    "pre-LN, MSE, bias": ("L-RN2", "image", {"norm_placement": "pre", "loss": "mse", "classifier_bias": True}, {}),
    "micro-batches": ("L-RN1", "image", {}, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}),
    "all samples": ("L-RN1", "image", {}, {"full_batch": True}),
    "all samples in three": ("L-RN1", "image", {}, {"full_batch": True, "per_device_train_batch_size": 4}),
    "SGD": ("L-RN1", "image", {}, {"optim": "sgd", "optim_args": "momentum=0.9", "lr_scheduler_type": "cosine"}),
    "AdamW": ("L-RN1", "image", {}, {"optim": "adamw_torch", "changed_objective": ["optim"]}),
    "images": ("L-T12", "image", {"norm_placement": "post"}, {}),
    "texts": ("L-T11", "text", {"norm_placement": "pre", "pooling": "mean"}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_network_takes_the_steps_and_logs_the_numbers_that_it_does_alone(tmp_path, monkeypatch, case):
    monkeypatch.setattr(stacked_networks, "_WORTH_TRACING", 3)
    architecture, modality, fields, arguments = CASES[case]
    # Batches of 5, 5 and 2.
    data = {"image": images, "text": texts}[modality](12)
    arguments = {**EVERYTHING, **arguments}
    alone = train_alone(tmp_path, data, architecture, modality, fields=fields, **arguments)
    together = train_together(tmp_path, data, architecture, modality, fields=fields, **arguments)
    for one, other in zip(alone, together, strict=True):
        assert largest_difference(one.model, other.model) < 1e-10
        assert logs(one) == pytest.approx(logs(other), rel=1e-5, abs=1e-7)  # losses are summed in float32
        assert {(3, "loss"), (3, "learning_rate"), (8, "gap"), (STEPS, "objective")} <= set(logs(one))
    assert largest_difference(together[0].model, together[1].model) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["post", "pre"])
@pytest.mark.parametrize("architecture", ["L-RN1", "L-T11"])
def test_after_200_steps_the_difference_is_below_1e_10(tmp_path, architecture, placement):
    arguments = {
        "max_steps": 200,
        "warmup_steps": 20,
        "lr_scheduler_type": "cosine",
        "fields": {"norm_placement": placement},
    }
    alone = train_alone(tmp_path, images(40), architecture, **arguments)
    together = train_together(tmp_path, images(40), architecture, **arguments)
    for one, other in zip(alone, together, strict=True):
        assert largest_difference(one.model, other.model) < 1e-10


def steps_before(bad, seed, count, size):
    """How many batches of a seed's first epoch come before the one that holds a sample."""
    return next(step for step, rows in enumerate(ProcessBatchSampler(count, size, seed=seed)) if bad in rows)


def test_a_network_whose_loss_is_not_finite_leaves_and_the_others_go_on(tmp_path):
    data = images(14)
    pixels = data.tensors["pixel_values"].clone()
    pixels[2] = torch.nan
    spoilt = TensorDataset(pixel_values=pixels, labels=data.labels)
    before = [steps_before(2, seed, 14, 2) for seed in SEEDS]
    steps = max(before)
    assert sorted(before)[1] < steps, "one network must not meet the sample"
    made = trainers_in(tmp_path, spoilt, per_device_train_batch_size=2, max_steps=steps)

    failures = Ensemble(made, [None] * 3).train()

    alone = trainers_in(tmp_path, spoilt, per_device_train_batch_size=2, max_steps=steps)
    for trainer, failure, one, finite in zip(made, failures, alone, before, strict=True):
        assert (failure.step if failure else None) == (finite if finite < steps else None)
        if failure:
            assert str(failure) == f"the loss is not finite at step {finite + 1}"
            one.args.max_steps = finite
        if one.args.max_steps:
            one.train()
        assert trainer.state.global_step == min(finite, steps)
        assert largest_difference(trainer.model, one.model) < 1e-12


def test_checkpoints_of_different_steps_are_taken_up_by_an_ensemble_and_its_own_by_a_trainer(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 9, "lr_scheduler_type": "cosine"}
    alone = train_alone(tmp_path / "alone", images(), **saving)
    checkpoints = [None, str(tmp_path / "alone/seed-4/checkpoint-6"), str(tmp_path / "alone/seed-8/checkpoint-4")]

    together = trainers_in(tmp_path / "together", images(), **saving)
    Ensemble(together, checkpoints).train()

    for one, other in zip(alone, together, strict=True):
        assert largest_difference(one.model, other.model) < 1e-12
    resumed = trainers_in(tmp_path / "resumed", images(), **saving)
    for one, other, seed in zip(alone, resumed, SEEDS, strict=True):
        other.train(resume_from_checkpoint=str(tmp_path / f"together/seed-{seed}/checkpoint-8"))
        assert other.state.global_step == 9
        assert largest_difference(one.model, other.model) < 1e-12


def test_steps_by_l_bfgs_are_left_to_each_trainer_which_goes_on_as_if_it_had_been_alone(tmp_path):
    polished = {"full_batch": True, "max_steps": 12, "polish_steps": 5, "lr_scheduler_type": "cosine"}
    alone = train_alone(tmp_path / "alone", images(), **polished)
    together = train_together(tmp_path / "together", images(), **polished)
    for one, other, seed in zip(alone, together, SEEDS, strict=True):
        assert other.state.global_step == 7
        finishing = trainers_in(tmp_path / "finishing", images(), **polished)[SEEDS.index(seed)]
        finishing.train(resume_from_checkpoint=str(tmp_path / f"together/seed-{seed}/checkpoint-7"))
        assert largest_difference(one.model, finishing.model) < 1e-9


def test_a_callback_that_stops_one_stops_all_with_a_checkpoint(tmp_path):
    made = trainers_in(tmp_path, images())
    made[1].add_callback(StopAt(3))
    assert Ensemble(made, [None] * 3).train() == [None] * 3
    for trainer, seed in zip(made, SEEDS, strict=True):
        assert trainer.state.global_step == 3
        assert (tmp_path / f"seed-{seed}/checkpoint-3/optimizer.pt").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optim": "lbfgs", "full_batch": True}, "optim is 'lbfgs'; an ensemble takes 'adam' or 'sgd' or"),
        ({"bf16": True}, "bf16 is True; an ensemble takes False"),
        ({"max_grad_norm": 1.0, "changed_objective": ["max_grad_norm"]}, "max_grad_norm is 1.0; an ensemble takes 0"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "metric_for_best_model": "gap"},
         "lr_scheduler_type is .*; the networks of an ensemble have one learning rate"),
        ({"logging_strategy": "epoch"}, "logging_strategy is .*; an ensemble takes 'steps' or 'no'"),
    ],
)  # fmt: skip
def test_what_an_ensemble_cannot_do_is_refused_by_name(tmp_path, arguments, message):
    made = trainers_in(tmp_path, images(), **arguments)
    before = copy.deepcopy(made[0].model)
    with pytest.raises(ValueError, match=message):
        Ensemble(made, [None] * 3)
    assert largest_difference(before, made[0].model) == 0


def test_texts_are_refused_where_every_position_sees_all(tmp_path):
    made = trainers_in(tmp_path, texts(), "L-T11", "text", fields={"is_causal": False})
    with pytest.raises(ValueError, match="is_causal is False"):
        Ensemble(made, [None] * 3)


def test_trainers_that_differ_in_more_than_their_seeds_are_refused(tmp_path):
    data = images()
    one, other = (trainers_in(tmp_path, data, max_steps=steps)[0] for steps in (5, 6))
    with pytest.raises(ValueError, match="trainers differ in max_steps"):
        Ensemble([one, other], [None, None])
    deeper = trainers_in(tmp_path, images(), fields={"num_hidden_layers": 3})[0]
    with pytest.raises(ValueError, match="trainers differ in train_dataset, num_hidden_layers"):
        Ensemble([one, trainers_in(tmp_path, data)[0], deeper], [None] * 3)
