"""`CollapseTrainer` minimises exactly J, measures it truly, and stops or resumes without losing a step."""

import copy
import math
from types import SimpleNamespace

import datasets
import pytest
import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import HPSearchBackend

from hf_ncollapse import CollapseResNetConfig, CollapseResNetForImageClassification
from hf_ncollapse.neural_collapse import measures
from hf_ncollapse.neural_collapse.class_statistics import ClassStatistics
from hf_ncollapse.theory import gufm_optimum
from hf_ncollapse.training.arguments import CollapseTrainingArguments
from hf_ncollapse.training.batches import ProcessBatchSampler
from hf_ncollapse.training.data import TensorDataset
from hf_ncollapse.training.trainer import CollapseTrainer, NonFiniteLossError

L2 = 0.05


def network(**keywords):
    torch.manual_seed(0)
    defaults = {"hidden_size": 8, "num_hidden_layers": 2, "image_size": 3, "num_labels": 3, "l2_coefficient": L2}
    return CollapseResNetForImageClassification(CollapseResNetConfig(**{**defaults, **keywords}))


def dataset(count=14, seed=1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    pixels = torch.randn(count, 1, 3, 3, generator=generator) + labels.view(-1, 1, 1, 1)
    return TensorDataset(pixel_values=pixels, labels=labels)


def trainer_for(tmp_path, model, train_dataset=None, *, eval_dataset=None, callbacks=None, trainer=None, **arguments):
    defaults = {
        "per_device_train_batch_size": 5, "max_steps": 5, "lr_scheduler_type": "constant", "warmup_steps": 0,
        "learning_rate": 0.02, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "seed": 3,
    }  # fmt: skip
    return CollapseTrainer(
        model,
        CollapseTrainingArguments(output_dir=str(tmp_path), **{**defaults, **arguments}),
        train_dataset=dataset() if train_dataset is None else train_dataset,
        eval_dataset=eval_dataset,
        callbacks=callbacks,
        **(trainer or {}),
    )


def objective(model, pixels, labels):
    """J on one batch, from the logits and every parameter."""
    logits = model(pixels).logits
    if model.config.loss == "cross_entropy":
        fit = torch.nn.functional.cross_entropy(logits, labels)
    else:
        fit = (logits - torch.eye(3, dtype=logits.dtype)[labels]).square().sum(1).mean() / 2
    return fit + L2 / 2 * sum(parameter.square().sum() for parameter in model.parameters())


def minimise_by_hand(model, data, optimizer, steps, batch_size, schedule=lambda step: 1.0, seed=3):
    """A loop on J over the trainer's global batches, with the gradient of J alone."""
    rate = optimizer.param_groups[0]["lr"]
    sampler = ProcessBatchSampler(len(data), batch_size, seed=seed)
    step = 0
    while True:
        for indices in sampler:
            if step == steps:
                return
            optimizer.param_groups[0]["lr"] = rate * schedule(step)
            optimizer.zero_grad()
            batch = data.__getitems__(indices)
            objective(model, batch["pixel_values"].to(model.dtype), batch["labels"]).backward()
            optimizer.step()
            step += 1
        sampler.set_epoch(sampler.epoch + 1)


def largest_difference(model, other):
    return max((a - b).abs().max().item() for a, b in zip(model.parameters(), other.parameters(), strict=True))


# The exact objective


@pytest.mark.parametrize("optim", ["adam", "sgd"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_five_steps_equal_a_loop_on_the_objective_written_by_hand(tmp_path, optim, loss, accumulation):
    # The last batch of an epoch of 11 samples holds 1; with accumulation the last micro-batch of 17 holds 2, and its
    # step has fewer micro-batches.
    model = network(loss=loss).double()
    expected = copy.deepcopy(model)
    size = 5 if accumulation == 1 else 3
    data = dataset(11 if accumulation == 1 else 17)

    trainer_for(
        tmp_path, model, data, optim=optim, per_device_train_batch_size=size, gradient_accumulation_steps=accumulation
    ).train()

    optimizers = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    by_hand = optimizers[optim](expected.parameters(), lr=0.02)
    minimise_by_hand(expected, data, by_hand, 5, size * accumulation)
    assert largest_difference(model, expected) < 1e-12
    assert largest_difference(model, network(loss=loss).double()) > 0.01


def test_the_schedule_is_a_linear_warm_up_and_a_cosine_by_default(tmp_path):
    model, expected = network().double(), network().double()
    trainer_for(tmp_path, model, max_steps=20, warmup_steps=0.2, lr_scheduler_type="cosine").train()

    def schedule(step):
        return step / 4 if step < 4 else (1 + math.cos(math.pi * (step - 4) / 16)) / 2

    minimise_by_hand(expected, dataset(), torch.optim.Adam(expected.parameters(), lr=0.02), 20, 5, schedule)
    assert largest_difference(model, expected) < 1e-12


def test_momentum_and_the_betas_reach_the_optimiser(tmp_path):
    sgd = trainer_for(tmp_path, network(), optim="sgd", optim_args="momentum=0.9").create_optimizer()
    adam = trainer_for(tmp_path, network(), adam_beta2=0.99, adam_epsilon=1e-6).create_optimizer()
    assert sgd.param_groups[0]["momentum"] == 0.9
    assert adam.param_groups[0]["betas"] == (0.9, 0.99)
    assert adam.param_groups[0]["eps"] == 1e-6
    assert adam.param_groups[0]["fused"]


def test_an_optimiser_that_is_named_is_transformers_own_for_the_given_model(tmp_path, monkeypatch):
    trainer, other = trainer_for(tmp_path, network(), optim="adamw_torch", changed_objective=["optim"]), network()
    adamw = trainer.create_optimizer(other)
    assert type(adamw) is torch.optim.AdamW
    assert adamw.param_groups[0]["params"] == list(other.parameters())
    # Some of them, GaLore for one, look for their layers in the model.
    monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", lambda *given: given)
    assert trainer.get_optimizer_cls_and_kwargs(trainer.args, other) == (trainer.args, other)


def test_the_penalty_is_the_configs_resolved_lambda(tmp_path):
    trainer = trainer_for(tmp_path, network(l2_depth_scaling="inverse"))
    assert trainer.args.weight_decay == pytest.approx(L2 / 2)
    same = trainer_for(tmp_path, network(), weight_decay=L2)
    assert same.args.weight_decay == L2


def test_another_weight_decay_is_refused_unless_it_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"weight_decay is 0.1; .* the model's λ, {L2}"):
        trainer_for(tmp_path, network(), weight_decay=0.1)
    trainer = trainer_for(tmp_path, network(), weight_decay=0.1, changed_objective=["weight_decay"])
    assert trainer.create_optimizer().param_groups[0]["weight_decay"] == 0.1


def test_a_decoupled_or_partial_optimiser_is_refused_however_it_is_given(tmp_path):
    def given(make, changed_objective=None):
        model = network()
        optimizers = (make(model), None)
        arguments = {"trainer": {"optimizers": optimizers}, "changed_objective": changed_objective}
        return trainer_for(tmp_path, model, **arguments)

    def adamw(model):
        return torch.optim.AdamW(model.parameters(), weight_decay=L2)

    def without_the_classifier(model):
        return torch.optim.Adam(
            [{"params": model.network.parameters(), "weight_decay": L2}, {"params": model.classifier.parameters()}]
        )

    with pytest.raises(ValueError, match=r"optim is 'AdamW'; .* takes an optimiser with coupled L2\."):
        given(adamw).train()
    with pytest.raises(ValueError, match=r"optim is 'NAdam'; .* coupled L2"):
        given(lambda m: torch.optim.NAdam(m.parameters(), weight_decay=L2, decoupled_weight_decay=True)).train()
    with pytest.raises(ValueError, match=r"weight_decay is 'on 200 of 224 weights .* takes λ = 0.05 on every weight"):
        given(without_the_classifier).train()
    pair = {"optimizer_cls_and_kwargs": (torch.optim.AdamW, {"lr": 0.01})}
    with pytest.raises(ValueError, match="optim is 'AdamW'"):
        trainer_for(tmp_path, network(), trainer=pair).train()
    given(adamw, ["optim"]).train()
    given(lambda model: torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=L2)).train()


def test_an_optimiser_without_a_weight_decay_penalises_nothing(tmp_path):
    model = network(l2_coefficient=1.0)
    trainer = trainer_for(tmp_path, model, trainer={"optimizers": (torch.optim.Rprop(model.parameters()), None)})
    with pytest.raises(ValueError, match="weight_decay is 'on 0 of 224 weights"):
        trainer.create_optimizer()


def test_an_empty_share_of_a_step_has_no_loss_and_no_gradient(tmp_path):
    model = network()
    empty = {name: tensor[:0] for name, tensor in dataset().tensors.items()}
    assert trainer_for(tmp_path, model).training_step(model, empty, num_items_in_batch=5) == 0
    assert all((parameter.grad == 0).all() for parameter in model.parameters())


def test_operations_are_counted_as_transformers_counts_them(tmp_path):
    trainer, batch = trainer_for(tmp_path, network()), dataset(5).tensors
    assert trainer.floating_point_ops(batch) == Trainer.floating_point_ops(trainer, batch) > 0


def test_without_arguments_the_defaults_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CollapseTrainer(network()).args.output_dir == CollapseTrainingArguments().output_dir == "trainer_output"


def test_arguments_of_the_stock_trainer_are_refused(tmp_path):
    from transformers import TrainingArguments

    with pytest.raises(ValueError, match="args is a TrainingArguments; it takes CollapseTrainingArguments"):
        CollapseTrainer(network(), TrainingArguments(output_dir=str(tmp_path)))


# Measurement


@pytest.mark.parametrize(("loss", "scale", "radius"), [("cross_entropy", "unit", 1.0), ("mse", "sqrt", math.sqrt(8))])
def test_evaluation_logs_objective_gap_and_collapse_of_the_training_set_and_both_accuracies(
    tmp_path, loss, scale, radius
):
    seen = []

    class Listener(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            seen.append((args, state, metrics))

    # The last batch of each dataset has one sample.
    model, data, held_out = network(loss=loss, norm_scale=scale).double(), dataset(15), dataset(8, seed=2)
    trainer = trainer_for(
        tmp_path, model, data, eval_dataset=held_out, eval_strategy="steps", eval_steps=2, logging_steps=1,
        per_device_eval_batch_size=7, max_steps=4, callbacks=[Listener()],
    )  # fmt: skip
    trainer.train()
    metrics = trainer.evaluate()

    logged = trainer.state.log_history[-1]
    with torch.no_grad():
        output = model(data.tensors["pixel_values"])
        total = objective(model, data.tensors["pixel_values"], data.labels).item()
        correct = model(held_out.tensors["pixel_values"]).logits.argmax(1) == held_out.labels
    optimum = gufm_optimum([5, 5, 5], L2, loss=loss, radius=radius).objective
    statistics = ClassStatistics(3)
    statistics.update(output.features, data.labels)
    expected = {
        "objective": total,
        "gufm_optimum": optimum,
        "gap": total - optimum,
        "regularization": model.regularization().item(),
        "fit": total - model.regularization().item(),
        "train_accuracy": (output.logits.argmax(1) == data.labels).double().mean().item(),
        "test_accuracy": correct.double().mean().item(),
        "nc1": measures.nc1(statistics),
        "nc2": measures.nc2(model.classifier.weight)
        if loss == "cross_entropy"
        else measures.nc2_orthogonal(statistics),
        "nc3": measures.nc3(statistics, model.classifier.weight),
    }
    for name, value in expected.items():
        assert logged[name] == pytest.approx(value, abs=1e-12), name
        assert metrics[f"eval_{name}"] == logged[name]
    parts = [logged[f"regularization_{part}"] for part in ("embedding", "body", "classifier")]
    assert sum(parts) == pytest.approx(logged["regularization"])
    assert [entry["step"] for entry in trainer.state.log_history if "gap" in entry] == [2, 4, 4]
    assert all("learning_rate" in entry for entry in trainer.state.log_history if "loss" in entry)
    assert len(seen) == 3
    assert seen[-1][0] is trainer.args
    assert seen[-1][1] is trainer.state
    assert seen[-1][2] is metrics
    assert metrics["eval_test_accuracy"] != metrics["eval_train_accuracy"]
    assert trainer.evaluate(data)["eval_test_accuracy"] == metrics["eval_train_accuracy"]


def test_a_width_too_small_for_the_frame_warns_once_and_leaves_the_optimum_out(tmp_path):
    trainer = trainer_for(tmp_path, network(hidden_size=2), dataset(15))
    with pytest.warns(UserWarning, match=r"no gufm_optimum and no gap: hidden_size is 2; the simplex ETF") as warned:
        first, _ = trainer.measure(), trainer.measure()
    assert len(warned) == 1
    assert "gap" not in first
    assert "gufm_optimum" not in first
    assert first["objective"] > 0


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
    with pytest.raises(NonFiniteLossError, match="not finite at step 4") as caught:
        trainer_for(tmp_path, network(), callbacks=[Poison(3)]).train()
    assert caught.value.step == 3


def test_a_loss_of_another_process_that_is_not_finite_stops_this_one(tmp_path, monkeypatch):
    model = network()
    trainer = trainer_for(tmp_path, model)
    monkeypatch.setattr(CollapseTrainingArguments, "world_size", 2)
    monkeypatch.setattr(trainer.accelerator, "gather", lambda own: torch.cat([own, torch.tensor([False])]))
    with pytest.raises(NonFiniteLossError, match="step 1"):
        trainer.training_step(model, dataset(5).tensors, num_items_in_batch=10)


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
    uninterrupted = trainer_for(tmp_path / "whole", whole, eval_dataset=dataset(6), **arguments)
    uninterrupted.train()

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == stopped_at

    trainer_for(tmp_path / "part", resumed, eval_dataset=dataset(6), callbacks=[Stop()], **arguments).train()
    fresh = network()
    again = trainer_for(tmp_path / "part", fresh, eval_dataset=dataset(6), **arguments)
    again.train(resume_from_checkpoint=True)

    assert largest_difference(whole, fresh) == 0
    assert largest_difference(whole, resumed) > 0
    gaps = [[entry["gap"] for entry in t.state.log_history if "gap" in entry] for t in (uninterrupted, again)]
    assert gaps[0] == gaps[1]


# Data


def test_a_plain_hub_dataset_with_the_default_collator_trains_the_same(tmp_path):
    data = dataset()
    rows = datasets.Dataset.from_dict({name: tensor.tolist() for name, tensor in data.tensors.items()})
    model, expected = network(), network()
    trainer_for(tmp_path, model, rows.with_format("torch")).train()
    trainer_for(tmp_path, expected, data).train()
    assert largest_difference(model, expected) == 0


def test_training_without_a_training_set_is_an_error(tmp_path):
    trainer = trainer_for(tmp_path, network())
    trainer.train_dataset = None
    with pytest.raises(ValueError, match=r"^train_dataset is None; training takes a dataset$"):
        trainer.get_train_dataloader()


def test_loaders_take_their_arguments_and_this_processs_share(tmp_path, monkeypatch):
    data, held_out = dataset(), dataset(7, seed=2)
    trainer = trainer_for(tmp_path, network(), data, eval_dataset=held_out, data_seed=7, dataloader_num_workers=2)
    monkeypatch.setattr(CollapseTrainingArguments, "world_size", 2)
    monkeypatch.setattr(CollapseTrainingArguments, "process_index", 1)
    loader, batches = trainer.get_train_dataloader(), ProcessBatchSampler(14, 10, 1, 2, seed=7)
    assert [batch.tolist() for batch in loader.batch_sampler] == [batch.tolist() for batch in batches]
    assert (loader.dataset, loader.num_workers) == (data, 2)
    assert trainer.get_eval_dataloader().dataset is held_out
