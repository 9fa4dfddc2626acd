"""`CollapseTrainer` minimises exactly J, and stops or resumes without losing a step."""

import copy
import math
import sys
from types import SimpleNamespace

import datasets
import pytest
import torch
from small_runs import (
    L2,
    images,
    largest_difference,
    minimise_by_hand,
    network,
    texts,
    trainer_for,
    whole,
)
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import HPSearchBackend

from hf_ncollapse.training.arguments import CollapseTrainingArguments
from hf_ncollapse.training.batches import ProcessBatchSampler
from hf_ncollapse.training.losses import NonFiniteLossError, UnseenLosses
from hf_ncollapse.training.trainer import CollapseTrainer

OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}

# The exact objective


@pytest.mark.parametrize("optim", OPTIMIZERS)
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize(
    ("architecture", "modality", "loss", "bias"),
    [
        ("L-RN1", "image", "cross_entropy", False),
        ("L-RN2", "image", "mse", True),
        ("L-T11", "image", "cross_entropy", True),
        ("L-T22", "text", "mse", False),
    ],
)
def test_five_steps_equal_a_loop_on_the_objective_written_by_hand(
    tmp_path, optim, accumulation, architecture, modality, loss, bias
):
    # The last batch of an epoch of 11 samples holds 1; with accumulation the last micro-batch of 17 holds 2, and its
    # step has fewer micro-batches.
    keywords = {"modality": modality, "loss": loss, "classifier_bias": bias, "classifier_l2_coefficient": 0.02}
    model = network(architecture, **keywords).double()
    start, expected = copy.deepcopy(model), copy.deepcopy(model)
    size = 5 if accumulation == 1 else 3
    make_data = {"image": images, "text": texts}[modality]
    data = make_data(11 if accumulation == 1 else 17)

    trainer_for(
        tmp_path, model, data, optim=optim, per_device_train_batch_size=size, gradient_accumulation_steps=accumulation
    ).train()

    by_hand = OPTIMIZERS[optim](expected.parameters(), lr=0.02)
    minimise_by_hand(expected, data, by_hand, 5, size * accumulation, body=L2, classifier=0.02)
    assert largest_difference(model, expected) < 1e-12
    assert largest_difference(model, start) > 0.003


@pytest.mark.parametrize(
    ("fields", "body", "classifier"),
    [
        ({}, L2, L2),
        ({"classifier_l2_coefficient": 0}, L2, 0),
        ({"l2_coefficient": 0, "classifier_l2_coefficient": 0.02}, 0, 0.02),
        ({"l2_depth_scaling": "inverse"}, L2 / 2, L2),
        ({"l2_depth_scaling": "inverse", "classifier_l2_coefficient": 0.02}, L2 / 2, 0.02),
        ({"l2_depth_scaling": "inverse_all"}, L2 / 2, L2 / 2),
        ({"l2_depth_scaling": "inverse_all", "classifier_l2_coefficient": 0.02}, L2 / 2, 0.01),
    ],
)
def test_each_part_of_the_network_has_its_own_lambda_at_this_depth(tmp_path, fields, body, classifier):
    model, expected = network(**fields).double(), network(**fields).double()
    trainer_for(tmp_path, model, optim="sgd").train()
    by_hand = torch.optim.SGD(expected.parameters(), lr=0.02)
    minimise_by_hand(expected, images(), by_hand, 5, 5, body=body, classifier=classifier)
    assert largest_difference(model, expected) < 1e-12


@pytest.mark.parametrize("optim", OPTIMIZERS)
@pytest.mark.parametrize("size", [17, 16, 9, 5, 1])
def test_a_full_batch_step_is_on_all_samples_in_any_number_of_micro_batches(tmp_path, optim, size):
    model, expected, data = network().double(), network().double(), images(17)
    trainer_for(tmp_path, model, data, optim=optim, full_batch=True, per_device_train_batch_size=size).train()
    minimise_by_hand(expected, data, OPTIMIZERS[optim](expected.parameters(), lr=0.02), 5, 17)
    assert largest_difference(model, expected) < 1e-12


def test_one_full_batch_epoch_is_one_step(tmp_path):
    trainer = trainer_for(tmp_path, network(), images(17), full_batch=True, max_steps=-1, num_train_epochs=3)
    trainer.train()
    assert trainer.state.global_step == 3


def test_the_arguments_of_one_network_serve_another_with_another_lambda_and_other_data(tmp_path):
    used = trainer_for(tmp_path, network(), full_batch=True).args
    arguments = CollapseTrainingArguments(
        **{**used.to_dict(), "gradient_accumulation_steps": 1, "optim": "sgd", "learning_rate": 0.02}
    )
    before = arguments.to_dict()
    for fields, samples, body in (({}, 17, L2), ({"l2_coefficient": 0.2, "classifier_l2_coefficient": L2}, 8, 0.2)):
        model, expected, data = network(**fields).double(), network(**fields).double(), images(samples)
        CollapseTrainer(model, arguments, train_dataset=data).train()
        by_hand = torch.optim.SGD(expected.parameters(), lr=0.02)
        minimise_by_hand(expected, data, by_hand, 5, samples, body=body)
        assert largest_difference(model, expected) < 1e-12
        assert arguments.to_dict() == before


def test_the_schedule_is_a_linear_warm_up_and_a_cosine_by_default(tmp_path):
    model, expected = network().double(), network().double()
    trainer_for(tmp_path, model, max_steps=20, warmup_steps=0.2, lr_scheduler_type="cosine").train()

    def schedule(step):
        return step / 4 if step < 4 else (1 + math.cos(math.pi * (step - 4) / 16)) / 2

    by_hand = torch.optim.Adam(expected.parameters(), lr=0.02)
    minimise_by_hand(expected, images(), by_hand, 20, 5, schedule=schedule)
    assert largest_difference(model, expected) < 1e-12


def test_momentum_and_the_betas_reach_the_optimiser(tmp_path):
    sgd = trainer_for(tmp_path, network(), optim="sgd", optim_args="momentum=0.9").create_optimizer()
    adam = trainer_for(tmp_path, network(), adam_beta2=0.99, adam_epsilon=1e-6).create_optimizer()
    assert sgd.param_groups[0]["momentum"] == 0.9
    assert adam.param_groups[0]["betas"] == (0.9, 0.99)
    assert adam.param_groups[0]["eps"] == 1e-6
    assert adam.param_groups[0]["fused"]


def test_an_optimiser_that_is_made_again_takes_the_arguments_of_then(tmp_path):
    trainer = trainer_for(tmp_path, network())
    trainer.create_optimizer()
    trainer.model, trainer.optimizer, trainer.args.learning_rate = network(), None, 0.5
    again = trainer.create_optimizer()
    assert again.param_groups[0]["lr"] == 0.5
    held = {id(p) for group in again.param_groups for p in group["params"]}
    assert held == {id(p) for p in trainer.model.parameters()}


def test_an_optimiser_that_is_named_is_transformers_own_for_the_given_model(tmp_path, monkeypatch):
    trainer, other = trainer_for(tmp_path, network(), optim="adamw_torch", changed_objective=["optim"]), network()
    adamw = trainer.create_optimizer(other)
    assert type(adamw) is torch.optim.AdamW
    assert {id(p) for group in adamw.param_groups for p in group["params"]} == {id(p) for p in other.parameters()}
    # Some of them, GaLore for one, look for their layers in the model.
    monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", lambda *given: given)
    assert trainer.get_optimizer_cls_and_kwargs(trainer.args, other) == (trainer.args, other)


def given_optimizer(tmp_path, make, changed_objective=None):
    """A trainer with an optimiser of the user's own."""
    model = network(classifier_l2_coefficient=0.02)
    optimizers = (make(model), None)
    return trainer_for(tmp_path, model, trainer={"optimizers": optimizers}, changed_objective=changed_objective)


def three_groups(model, **changes):
    """What a user writes: λ on the blocks' weights, λ_L on the classifier's, nothing on biases and the embedding."""
    layers = list(model.network.layers.named_parameters())
    parts = {
        "blocks": ([p for name, p in layers if name.endswith("weight")], L2),
        "biases": ([p for name, p in layers if name.endswith("bias")], 0.0),
        "embedding": (list(model.network.embeddings.parameters()), 0.0),
        "classifier": (list(model.classifier.parameters()), 0.02),
    }
    return [{"params": params, "weight_decay": changes.get(part, decay)} for part, (params, decay) in parts.items()]


def test_an_optimiser_of_the_users_own_that_minimises_the_objective_passes(tmp_path):
    trainer = given_optimizer(tmp_path, lambda model: torch.optim.Adam(three_groups(model), lr=0.02))
    expected = network(classifier_l2_coefficient=0.02)
    trainer_for(tmp_path, expected).train()
    trainer.train()
    assert largest_difference(trainer.model, expected) < 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": 0.01}, r"0\.01 on network\.layers\.0\.feed_forward\.linear_1\.weight'; .* takes 0\.05 there"),
        ({"biases": L2}, r"0\.05 on network\.layers\.0\.feed_forward\.linear_1\.bias'; .* takes 0\.0 there"),
        ({"embedding": L2}, r"0\.05 on network\.embeddings\.projection\.weight'; .* takes 0\.0 there"),
        ({"classifier": L2}, r"0\.05 on classifier\.weight'; .* takes 0\.02 there"),
    ],
)
def test_another_penalty_is_refused_by_the_parameters_name(tmp_path, changes, message):
    def make(model):
        return torch.optim.Adam(three_groups(model, **changes), lr=0.02)

    with pytest.raises(ValueError, match=f"weight_decay is '{message}, as the model's l2_coefficient_of says"):
        given_optimizer(tmp_path, make).train()
    given_optimizer(tmp_path, make, ["weight_decay"]).train()


def test_a_parameter_that_no_group_holds_is_refused_by_its_name(tmp_path):
    with pytest.raises(ValueError, match=r"weight_decay is 'missing on classifier\.weight'"):
        given_optimizer(tmp_path, lambda model: torch.optim.Adam(three_groups(model)[:-1])).train()


@pytest.mark.parametrize(
    ("name", "options"),
    [("AdamW", {}), ("Adafactor", {}), ("NAdam", {"decoupled_weight_decay": True})],
)
def test_a_decoupled_optimiser_is_refused_however_it_is_given(tmp_path, name, options):
    kind = getattr(torch.optim, name)
    message = rf"optim is '{name}'; .* takes an optimiser with coupled L2\."
    with pytest.raises(ValueError, match=message):
        given_optimizer(tmp_path, lambda model: kind(three_groups(model), **options)).train()
    pair = {"optimizer_cls_and_kwargs": (kind, {"lr": 0.01, **options})}
    with pytest.raises(ValueError, match=message):
        trainer_for(tmp_path, network(), trainer=pair).train()
    given_optimizer(tmp_path, lambda model: kind(three_groups(model), **options), ["optim"]).train()


def test_an_optimiser_without_a_weight_decay_penalises_nothing(tmp_path):
    model = network(classifier_l2_coefficient=0)
    trainer = trainer_for(tmp_path, model, trainer={"optimizers": (torch.optim.Rprop(model.parameters()), None)})
    with pytest.raises(
        ValueError, match=r"weight_decay is '0\.0 on network\.layers\.0\.feed_forward\.linear_1\.weight"
    ):
        trainer.create_optimizer()


def test_a_frozen_parameter_needs_no_penalty(tmp_path):
    model = network()
    frozen = model.network.embeddings.requires_grad_(False).projection.weight
    before = frozen.clone()
    trainer_for(tmp_path, model).train()
    assert torch.equal(frozen, before)


@pytest.mark.parametrize(("architecture", "modality"), [("L-RN1", "image"), ("L-T11", "image"), ("L-T22", "text")])
def test_an_empty_share_of_a_step_has_no_loss_and_no_gradient(tmp_path, architecture, modality):
    model, data = network(architecture, modality=modality), {"image": images, "text": texts}[modality]()
    empty = {name: tensor[:0] for name, tensor in whole(data).items()}
    assert trainer_for(tmp_path, model).training_step(model, empty, num_items_in_batch=5) == 0
    assert all((parameter.grad == 0).all() for parameter in model.parameters())


def test_operations_are_counted_as_transformers_counts_them(tmp_path):
    trainer, batch = trainer_for(tmp_path, network()), whole(images(5))
    assert trainer.floating_point_ops(batch) == Trainer.floating_point_ops(trainer, batch) > 0


def test_without_arguments_the_defaults_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CollapseTrainer(network()).args.output_dir == CollapseTrainingArguments().output_dir == "trainer_output"


def test_arguments_of_the_stock_trainer_are_refused(tmp_path):
    with pytest.raises(ValueError, match="args is a TrainingArguments; it takes CollapseTrainingArguments"):
        CollapseTrainer(network(), TrainingArguments(output_dir=str(tmp_path)))


# Stopping and resuming


class Poison(TrainerCallback):
    """Makes a weight NaN before a step, as an overflow would."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                model.classifier.weight[0, 0] = math.nan


def test_training_stops_at_the_first_loss_that_is_not_finite(tmp_path):
    trainer = trainer_for(tmp_path, network(), callbacks=[Poison(3)], save_strategy="steps", save_steps=2)
    with pytest.raises(NonFiniteLossError, match="not finite at step 4") as caught:
        trainer.train()
    assert caught.value.step == trainer.state.global_step == 3
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_loss_that_is_not_finite_is_noticed_within_100_steps_where_nothing_is_logged(tmp_path):
    class Count(TrainerCallback):
        steps = 0

        def on_step_end(self, args, state, control, **kwargs):
            self.steps += 1

    count = Count()
    arguments = {"callbacks": [Poison(120), count], "max_steps": 1000, "logging_strategy": "no"}
    with pytest.raises(NonFiniteLossError, match="not finite at step 121"):
        trainer_for(tmp_path, network(), **arguments).train()
    assert count.steps == 200


def test_a_loss_of_another_process_that_is_not_finite_stops_this_one():
    losses = UnseenLosses()
    losses.add(7, torch.tensor(1.0))
    losses.add(8, torch.tensor(2.0))
    others = torch.tensor([[True, False]])
    accelerator = SimpleNamespace(num_processes=2, gather=lambda own: torch.cat([own, others]))
    with pytest.raises(NonFiniteLossError, match="step 9"):
        losses.look(accelerator)


class Waits(TorchDispatchMode):
    """Counts how often a tensor's value is asked for, from the end of one step to that of another."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def waits_between_logs(tmp_path, model, data, **arguments):
    """How often steps 2 to 6 of a training that logs after step 8 ask for the value of a tensor."""
    waits = Waits()

    class Between(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 1:
                waits.__enter__()
            if state.global_step == 6:
                waits.__exit__(None, None, None)

    arguments = {"max_steps": 8, "logging_steps": 8, "callbacks": [Between()], **arguments}
    trainer_for(tmp_path, model, data, **arguments).train()
    return waits.count


@pytest.mark.parametrize(
    "arguments", [{}, {"optim": "sgd"}, {"full_batch": True}, {"polish_steps": 1, "full_batch": True}]
)
@pytest.mark.parametrize("architecture", ["L-RN1", "L-RN2", "L-T11", "L-T22"])
def test_no_step_waits_for_the_value_of_a_tensor_until_something_is_logged(tmp_path, architecture, arguments):
    assert waits_between_logs(tmp_path, network(architecture), images(), **arguments) == 0


def test_a_loss_that_asks_for_its_value_is_seen_to_wait_at_every_step(tmp_path):
    class Asking(CollapseTrainer):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            assert loss.item() > 0
            return loss

    assert waits_between_logs(tmp_path, network(), images(), trainer_class=Asking) == 5


def test_a_checkpoint_that_cannot_be_written_is_an_error_that_names_the_folder(tmp_path):
    (tmp_path / "checkpoint-1").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=f"the network cannot be saved in {tmp_path}, where"):
        trainer_for(tmp_path, network(), save_strategy="steps", save_steps=1).train()


def test_a_search_keeps_the_checkpoints_of_its_trials_apart(tmp_path):
    trainer = trainer_for(tmp_path, network(), save_only_model=True)
    trainer.hp_search_backend = HPSearchBackend.OPTUNA
    trainer._save_checkpoint(trainer.model, SimpleNamespace(number=7))
    assert (tmp_path / "run-7" / "checkpoint-0" / "model.safetensors").exists()


@pytest.mark.parametrize("stopped_at", [3, 6])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_last_bit(tmp_path, stopped_at):
    # 14 samples in batches of 5: step 3 ends an epoch, step 6 the next; with accumulation an epoch has 2 steps.
    arguments = {
        "save_strategy": "steps", "save_steps": 1, "max_steps": 8, "lr_scheduler_type": "cosine",
        "gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
    }  # fmt: skip
    whole, resumed = network(), network()
    uninterrupted = trainer_for(tmp_path / "whole", whole, eval_dataset=images(6), **arguments)
    uninterrupted.train()

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == stopped_at

    trainer_for(tmp_path / "part", resumed, eval_dataset=images(6), callbacks=[Stop()], **arguments).train()
    fresh = network()
    again = trainer_for(tmp_path / "part", fresh, eval_dataset=images(6), **arguments)
    again.train(resume_from_checkpoint=True)

    assert largest_difference(whole, fresh) == 0
    assert largest_difference(whole, resumed) > 0
    gaps = [[entry["gap"] for entry in t.state.log_history if "gap" in entry] for t in (uninterrupted, again)]
    assert gaps[0] == gaps[1]


# Data


def test_a_plain_hub_dataset_with_the_default_collator_trains_the_same(tmp_path):
    data = images()
    rows = datasets.Dataset.from_dict({name: tensor.tolist() for name, tensor in data.tensors.items()})
    model, expected = network(), network()
    trainer_for(tmp_path, model, rows.with_format("torch")).train()
    trainer_for(tmp_path, expected, data).train()
    assert largest_difference(model, expected) == 0


def test_training_notes_a_missing_package_while_it_lasts_and_no_longer(tmp_path):
    class During(TrainerCallback):
        def on_step_end(self, args, state, control, **keywords):
            noted.append("lomo_optim" in sys.modules and sys.modules["lomo_optim"] is None)

    noted = []
    trainer = trainer_for(tmp_path, network(), images(8), max_steps=1)
    trainer.add_callback(During())
    trainer.train()
    assert noted == [True]
    assert "lomo_optim" not in sys.modules


def test_training_without_a_training_set_is_an_error(tmp_path):
    trainer = trainer_for(tmp_path, network())
    trainer.train_dataset = None
    with pytest.raises(ValueError, match=r"^train_dataset is None; training takes a dataset$"):
        trainer.get_train_dataloader()


def test_loaders_take_their_arguments_and_this_processs_share(tmp_path, monkeypatch):
    data, held_out = images(), images(7, seed=2)
    trainer = trainer_for(tmp_path, network(), data, eval_dataset=held_out, data_seed=7, dataloader_num_workers=2)
    monkeypatch.setattr(CollapseTrainingArguments, "world_size", 2)
    monkeypatch.setattr(CollapseTrainingArguments, "process_index", 1)
    loader, batches = trainer.get_train_dataloader(), ProcessBatchSampler(14, 10, 1, 2, seed=7)
    assert [batch.tolist() for batch in loader.batch_sampler] == [batch.tolist() for batch in batches]
    assert (loader.dataset, loader.num_workers) == (data, 2)
    assert trainer.get_eval_dataloader().dataset is held_out
