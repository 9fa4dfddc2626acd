"""What a trainer measures is what the formulas say of the network on its whole training set."""

import logging
import math

import pytest
import torch
from small_runs import L2, images, network, objective, texts, trainer_for, whole
from transformers import TrainerCallback

from hf_ncollapse.data import TensorDataset
from hf_ncollapse.neural_collapse import measures
from hf_ncollapse.neural_collapse.class_statistics import ClassStatistics
from hf_ncollapse.theory import gufm_optimum
from hf_ncollapse.training.losses import NonFiniteLossError
from hf_ncollapse.training.measurement import conflicting_label_counts

LOSSES = [("cross_entropy", False), ("cross_entropy", True), ("mse", False), ("mse", True)]


def squares(parameters):
    return sum(parameter.square().sum().item() for parameter in parameters)


@pytest.mark.parametrize(("loss", "bias"), LOSSES)
@pytest.mark.parametrize(("scale", "radius"), [("unit", 1.0), ("sqrt", math.sqrt(8))])
def test_objective_gap_and_collapse_are_those_of_the_whole_training_set(tmp_path, loss, bias, scale, radius):
    keywords = {"loss": loss, "classifier_bias": bias, "norm_scale": scale}
    model = network(**keywords, l2_depth_scaling="inverse", classifier_l2_coefficient=0.02).double()
    # The last batch of each data set has one sample.
    data, held_out = images(15), images(8, seed=2)
    trainer = trainer_for(tmp_path, model, data, eval_dataset=held_out, per_device_eval_batch_size=7)
    trainer.train()

    measured = trainer.measure()

    with torch.no_grad():
        batch = whole(data)
        output, total = model(**batch), objective(model, batch, L2 / 2, 0.02).item()
        correct = model(**whole(held_out)).logits.argmax(1) == held_out.labels
    body = L2 / 4 * squares(p for name, p in model.network.layers.named_parameters() if name.endswith("weight"))
    classifier = 0.01 * squares([model.classifier.weight])
    optimum = gufm_optimum([5, 5, 5], 0.02, loss=loss, radius=radius, classifier_bias=bias).objective
    statistics = ClassStatistics(3)
    statistics.update(output.features, data.labels)
    frame = measures.nc2_identity if loss == "mse" and not bias else measures.nc2
    expected = {
        "objective": total,
        "gufm_optimum": optimum,
        "gap": total - optimum,
        "regularization_body": body,
        "regularization_classifier": classifier,
        "regularization": body + classifier,
        "fit": total - body - classifier,
        "train_accuracy": (output.logits.argmax(1) == data.labels).double().mean().item(),
        "test_accuracy": correct.double().mean().item(),
        "nc1": measures.nc1(statistics),
        "nc2": frame(model.classifier.weight),
        "nc3": measures.nc3(statistics, model.classifier.weight),
    }
    for name, value in expected.items():
        assert measured[name] == pytest.approx(value, abs=1e-12), name


def test_every_evaluation_is_logged_and_returned_and_its_listeners_hear_of_it(tmp_path):
    seen = []

    class Listener(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            seen.append((args, state, metrics))

    trainer = trainer_for(
        tmp_path, network(), images(15), eval_dataset=images(9, seed=2), eval_strategy="steps", eval_steps=2,
        logging_steps=1, max_steps=4, callbacks=[Listener()],
    )  # fmt: skip
    trainer.train()
    metrics = trainer.evaluate()

    logged = trainer.state.log_history[-1]
    assert metrics == {f"eval_{name}": logged[name] for name in logged if name not in ("epoch", "step")}
    assert logged["gap"] == trainer.measure()["gap"]
    assert [entry["step"] for entry in trainer.state.log_history if "gap" in entry] == [2, 4, 4]
    assert all("learning_rate" in entry for entry in trainer.state.log_history if "loss" in entry)
    assert len(seen) == 3
    assert seen[-1][0] is trainer.args
    assert seen[-1][1] is trainer.state
    assert seen[-1][2] is metrics
    assert trainer.evaluate(trainer.train_dataset)["eval_test_accuracy"] == metrics["eval_train_accuracy"]


@pytest.mark.parametrize("architecture", ["L-RN1", "L-T11"])
@pytest.mark.parametrize(("loss", "bias"), LOSSES)
def test_the_parts_of_the_gap_sum_to_it(tmp_path, architecture, loss, bias):
    model = network(architecture, loss=loss, classifier_bias=bias, classifier_l2_coefficient=0.01).double()
    measured = trainer_for(tmp_path, model, images(12)).measure()
    parts = [measured[name] for name in ("regularization_body", "gap_fit", "gap_classifier", "gap_spread")]
    assert sum(parts) == pytest.approx(measured["gap"], abs=1e-9)
    assert min(parts) >= 0


@pytest.mark.parametrize(("loss", "bias"), LOSSES)
def test_the_gap_of_a_trained_network_proves_its_collapse(tmp_path, loss, bias):
    model = network(loss=loss, classifier_bias=bias, l2_coefficient=1e-5, classifier_l2_coefficient=0.2).double()
    trainer = trainer_for(tmp_path, model, images(6), full_batch=True, max_steps=200, lr_scheduler_type="cosine")
    trainer.train()
    measured = trainer.measure()
    assert measured["nc1"] <= measured["nc1_bound"] < 1
    assert measured["nc3"] <= measured["nc3_bound"]


@pytest.mark.parametrize("batch_size", [4, 5, 64])
@pytest.mark.parametrize(
    ("architecture", "modality", "bias"),
    [("L-RN2", "image", True), ("L-T11", "image", False), ("L-T22", "text", True)],
)
def test_the_relative_gradient_is_that_of_the_objective_over_that_of_the_penalty(
    tmp_path, batch_size, architecture, modality, bias
):
    fields = {"modality": modality, "classifier_bias": bias, "l2_depth_scaling": "inverse"}
    model = network(architecture, **fields).double()
    data = {"image": images, "text": texts}[modality](14)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)
    trainer = trainer_for(tmp_path, model, data, per_device_eval_batch_size=batch_size)

    measured = trainer.measure(gradient=True)["relative_gradient"]

    gradients = torch.autograd.grad(objective(model, whole(data), body=L2 / 2), model.parameters())
    weights = [p for name, p in model.network.layers.named_parameters() if name.endswith("weight")]
    penalty = math.sqrt((L2 / 2) ** 2 * squares(weights) + L2**2 * squares([model.classifier.weight]))
    assert measured == pytest.approx(math.sqrt(squares(gradients)) / penalty, rel=1e-10)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_to_the_end_leaves_no_gradient(tmp_path):
    model = network(num_hidden_layers=1).double()
    trainer = trainer_for(
        tmp_path, model, images(6), full_batch=True, max_steps=500, lr_scheduler_type="cosine", adam_beta2=0.97
    )
    before = trainer.measure(gradient=True)["relative_gradient"]
    trainer.train()
    assert trainer.measure(gradient=True)["relative_gradient"] < 1e-4 < before


def test_where_nothing_is_penalised_there_is_no_relative_gradient(tmp_path):
    trainer = trainer_for(tmp_path, network(l2_coefficient=0))
    with pytest.warns(UserWarning, match="l2_coefficient is 0"):
        measured = trainer.measure(gradient=True)
    assert "relative_gradient" not in measured
    assert measured["objective"] == measured["fit"] > 0


def test_a_width_too_small_for_the_frame_warns_once_and_leaves_the_optimum_out(tmp_path):
    trainer = trainer_for(tmp_path, network(hidden_size=2), images(15))
    with pytest.warns(UserWarning, match=r"no gufm_optimum and no gap: hidden_size is 2; the simplex ETF") as warned:
        first, _ = trainer.measure(), trainer.measure()
    assert len(warned) == 1
    assert not [name for name in first if "gap" in name or "optimum" in name or "bound" in name]
    assert first["objective"] > 0


@pytest.mark.parametrize("eval_dataset", [None, images(6)])
def test_a_network_that_is_not_finite_is_not_measured(tmp_path, eval_dataset):
    model = network()
    trainer = trainer_for(tmp_path, model, eval_dataset=eval_dataset)
    with torch.no_grad():
        model.classifier.weight[0, 0] = math.nan
    with pytest.raises(NonFiniteLossError, match="step 1"):
        trainer.evaluate()


def test_weights_too_large_for_their_penalty_are_not_measured(tmp_path):
    model = network()
    with torch.no_grad():
        model.network.layers[0].feed_forward.linear_1.weight.fill_(1e25)  # whose square no float32 holds
    with pytest.raises(NonFiniteLossError):
        trainer_for(tmp_path, model).measure()


# Equal inputs with different labels


def contradictory_images():
    """15 images, of which 2 equal ones have 2 labels, and 3 others 2 labels, one of them twice."""
    data = images(15)
    pixels = data.tensors["pixel_values"]
    pixels[1] = pixels[0]
    pixels[5], pixels[8] = pixels[4], pixels[4]
    return data


def test_contradictory_labels_are_said_once_raise_the_optimum_and_leave_the_gap_whole(tmp_path, caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    trainer = trainer_for(tmp_path, network().double(), contradictory_images(), per_device_eval_batch_size=4)
    measured = trainer.measure()
    trainer.measure()
    logger.removeHandler(caplog.handler)

    counts = [[1, 1, 0], [0, 1, 2]]
    alone = gufm_optimum([5, 5, 5], L2, radius=math.sqrt(8)).objective
    together = gufm_optimum([5, 5, 5], L2, radius=math.sqrt(8), conflicts=counts).objective
    assert measured["gufm_optimum"] == pytest.approx(together, abs=1e-9)
    assert measured["gap"] == measured["objective"] - measured["gufm_optimum"]
    assert together > alone + 0.01
    assert "gap_fit" not in measured
    assert "nc1_bound" not in measured
    (message,) = [record.getMessage() for record in caplog.records if "labels" in record.getMessage()]
    assert message.startswith("2 inputs of the training set occur with several labels, 5 samples in all")


def test_training_on_contradictory_labels_approaches_the_raised_optimum(tmp_path):
    data = contradictory_images()
    trainer = trainer_for(tmp_path, network(l2_coefficient=1e-4, classifier_l2_coefficient=L2), data, full_batch=True,
                          max_steps=300, lr_scheduler_type="cosine")  # fmt: skip
    trainer.train()
    measured = trainer.measure()
    assert 0 <= measured["gap"] < 0.01


def test_inputs_that_are_equal_with_equal_labels_contradict_nothing():
    data = images(15)
    pixels = data.tensors["pixel_values"]
    pixels[3] = pixels[0]
    assert conflicting_label_counts([whole(data)], 3) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_contradictions_are_found_across_batches_in_any_number_type(dtype):
    pixels = torch.tensor([[1, 2], [3, 4], [1, 2], [1, 3]]).to(dtype)
    data = TensorDataset(pixel_values=pixels, labels=torch.tensor([0, 1, 2, 2]))
    batches = [data.batch(torch.tensor(rows)) for rows in ([0, 1], [2, 3])]
    assert conflicting_label_counts(batches, 3) == [[1, 0, 1]]


@pytest.mark.parametrize("pad", [0, 9])
def test_padding_is_no_part_of_a_text(pad):
    def batch(rows, labels, width):
        ids = torch.full((len(rows), width), pad)
        mask = torch.zeros(len(rows), width, dtype=torch.int64)
        for i, (start, words) in enumerate(rows):
            ids[i, start : start + len(words)] = torch.tensor(words)
            mask[i, start : start + len(words)] = 1
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(labels)}

    texts_with_padding = [
        batch([(0, [5, 6]), (0, [5])], [0, 1], width=2),
        batch([(0, [5, 6]), (2, [5, 6]), (0, [5, 6, pad])], [1, 1, 2], width=4),
    ]
    assert conflicting_label_counts(texts_with_padding, 3) == [[1, 2, 0]]
