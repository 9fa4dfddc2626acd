"""L-BFGS told of one point a step: against closed forms, the dense formula, kinks, and a hand loop."""

import copy
import itertools

import pytest
import torch
from small_runs import L2, images, largest_difference, minimise_by_hand, network, objective, trainer_for, whole
from transformers import TrainerCallback

from hf_ncollapse.training.arguments import CollapseTrainingArguments
from hf_ncollapse.training.lbfgs import LBFGS
from hf_ncollapse.training.losses import NonFiniteLossError

# The optimiser


class Problem:
    """A function of one vector, and what L-BFGS asked of it."""

    def __init__(self, function, start, **keywords):
        self.function = function
        self.x = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.seen = []
        groups = keywords.pop("groups", [{"params": [self.x]}])
        self.optimizer = LBFGS(groups, lambda: self.seen[-1], **keywords)

    def run(self, steps):
        for _ in range(steps):
            self.x.grad = None
            value = self.function(self.x)
            value.backward()
            self.seen.append(value.item())
            self.optimizer.step()
        return self


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def test_a_ridge_regression_reaches_its_closed_form_with_a_lambda_for_each_group():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    targets = torch.randn(30, generator=generator, dtype=torch.float64)
    free, penalised = torch.nn.Parameter(torch.zeros(2).double()), torch.nn.Parameter(torch.zeros(4).double())
    fit = None
    optimizer = LBFGS([{"params": [penalised], "weight_decay": 0.3}, {"params": [free]}], lambda: fit.item())
    for _ in range(60):
        free.grad = penalised.grad = None
        fit = (inputs @ torch.cat([free, penalised]) - targets).square().mean() / 2
        fit.backward()
        optimizer.step()
    optimizer.eval()
    ridge = torch.diag(torch.tensor([0, 0, 0.3, 0.3, 0.3, 0.3], dtype=torch.float64))
    exact = torch.linalg.solve(inputs.T @ inputs / 30 + ridge, inputs.T @ targets / 30)
    assert (torch.cat([free, penalised]) - exact).abs().max() < 1e-7


def test_the_valley_of_rosenbrock_is_followed_to_its_end():
    problem = Problem(rosenbrock, [-1.2, 1.0]).run(80)
    problem.optimizer.eval()
    assert (problem.x - 1).abs().max() < 1e-6


def test_the_direction_is_that_of_the_dense_formula():
    scales = torch.tensor([1.0, 3, 10, 40, 90]).double()
    problem = Problem(lambda x: (scales * x.square()).sum() + x.exp().sum(), [1.0, -1, 2, 0.5, -2]).run(12)
    memory = problem.optimizer.state[problem.x]
    pairs = list(zip(memory["steps"], memory["differences"], strict=True))
    assert len(pairs) > 4
    last_step, last_difference = pairs[-1]
    identity = torch.eye(5).double()
    inverse = identity * last_step.dot(last_difference) / last_difference.dot(last_difference)
    for s, y in pairs:
        v = identity - torch.outer(y, s) / y.dot(s)
        inverse = v.T @ inverse @ v + torch.outer(s, s) / y.dot(s)
    torch.testing.assert_close(memory["direction"], -inverse @ memory["gradient"], rtol=1e-9, atol=1e-12)


def test_points_taken_satisfy_the_weak_wolfe_conditions():
    problem = Problem(rosenbrock, [-1.2, 1.0])
    memory = problem.optimizer.state[problem.x]
    before = None
    taken = 0
    for _ in range(60):
        problem.run(1)
        if before is not None and memory["iterations"] > before["iterations"]:
            moved = memory["point"] - before["point"]
            slope = before["gradient"].dot(moved)
            assert memory["objective"] <= before["objective"] + 1e-4 * slope
            assert memory["gradient"].dot(moved) >= 0.9 * slope
            taken += 1
        before = dict(memory)
    assert taken > 20


def test_the_history_is_bounded():
    problem = Problem(rosenbrock, [-1.2, 1.0], history_size=3).run(40)
    memory = problem.optimizer.state[problem.x]
    assert [len(memory[name]) for name in ("steps", "differences", "inverses")] == [3, 3, 3]


def test_kinks_are_passed_along_a_valley():
    # Lewis and Overton's nonsmooth Rosenbrock function, whose minimum 0 lies at (1, 1).
    problem = Problem(lambda x: 8 * (x[0] ** 2 - x[1]).abs() + (1 - x[0]) ** 2, [-1.0, 2.0]).run(400)
    problem.optimizer.eval()
    assert problem.function(problem.x) < 1e-3


def test_where_no_step_is_found_the_parameters_are_perturbed_and_the_best_point_is_kept():
    problem = Problem(lambda x: 1 + x.abs().sum(), [0.3, 1.0], perturbation=1e-3).run(400)
    progress = problem.optimizer.progress
    assert progress["perturbations"] > 0
    problem.optimizer.eval()
    assert problem.function(problem.x).item() == min(problem.seen)


def test_where_steps_lead_nowhere_the_parameters_are_perturbed():
    problem = Problem(lambda x: 1 + 1e-9 * (-x).exp().sum(), [1.0, 2.0]).run(200)
    assert problem.optimizer.progress["perturbations"] > 0
    problem.optimizer.eval()
    assert problem.function(problem.x).item() == min(problem.seen)


def test_a_trial_that_is_not_finite_is_turned_back():
    problem = Problem(lambda x: (x - x.log()).sum(), [4.0, 0.01]).run(40)
    assert not all(torch.isfinite(torch.tensor(problem.seen)))
    problem.optimizer.eval()
    assert (problem.x - 1).abs().max() < 1e-6


def test_a_start_that_is_not_finite_is_an_error():
    with pytest.raises(FloatingPointError, match="the objective is not finite where L-BFGS starts"):
        Problem(lambda x: x.log().sum(), [-1.0]).run(1)


def test_a_stationary_start_is_perturbed():
    problem = Problem(lambda x: (x**4 - x**2).sum(), [0.0, 0.0]).run(3)
    assert problem.optimizer.progress["perturbations"] == 3  # of zeros, which stay
    problem = Problem(lambda x: ((x - 1) ** 4 - (x - 1) ** 2).sum(), [1.0, 1.0]).run(60)
    problem.optimizer.eval()
    assert problem.function(problem.x).item() == pytest.approx(-0.5)


@pytest.mark.parametrize("stopped_at", [1, 2, 7, 200])
def test_a_saved_state_continues_to_the_same_bits(stopped_at):
    def function(x):
        return 8 * (x[0] ** 2 - x[1]).abs() + (1 - x[0]) ** 2

    straight = Problem(function, [-1.0, 2.0]).run(stopped_at + 100)
    stopped = Problem(function, [-1.0, 2.0]).run(stopped_at)
    stopped.optimizer.eval()
    resumed = Problem(function, stopped.x.tolist())
    resumed.optimizer.load_state_dict(copy.deepcopy(stopped.optimizer.state_dict()))
    resumed.optimizer.train()
    resumed.run(100)
    assert torch.equal(straight.x, resumed.x)
    assert straight.optimizer.progress == resumed.optimizer.progress


# In the trainer


@pytest.mark.parametrize("size", [17, 9, 4])
def test_the_trainer_takes_the_steps_of_a_loop_on_the_objective(tmp_path, size):
    model, expected, data = network().double(), network().double(), images(17)
    trainer = trainer_for(
        tmp_path, model, data, optim="lbfgs", optim_args="history_size=7", full_batch=True, max_steps=25,
        per_device_train_batch_size=size,
    )  # fmt: skip
    trainer.train()

    batch, value = whole(data), None
    by_hand = LBFGS(expected.parameters(), lambda: value.item(), history_size=7)
    for _ in range(25):
        expected.zero_grad()
        value = objective(expected, batch)
        value.backward()
        by_hand.step()
    by_hand.eval()
    assert by_hand.progress["iterations"] > 15
    assert largest_difference(model, expected) < 1e-9
    assert trainer.measure()["objective"] == pytest.approx(objective(expected, batch).item(), abs=1e-12)


def test_polishing_follows_the_whole_schedule_of_the_first_optimiser(tmp_path):
    data, arguments = images(17), {"full_batch": True, "lr_scheduler_type": "cosine", "warmup_steps": 2}
    adam, polished = network().double(), network().double()
    trainer_for(tmp_path, adam, data, max_steps=6, **arguments).train()
    end_of_adam = objective(adam, whole(data)).item()
    seen = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, model, **kwargs):
            seen.append(copy.deepcopy(model))

    trainer = trainer_for(
        tmp_path, polished, data, max_steps=30, polish_steps=0.8, callbacks=[Watch()], logging_steps=1, **arguments
    )
    trainer.train()
    assert largest_difference(seen[6], adam) == 0
    assert objective(polished, whole(data)).item() < 0.9 * end_of_adam
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert all(rates[:6][1:])
    assert not any(rates[6:])


def test_polishing_begins_where_it_started_if_the_first_optimiser_lost_ground(tmp_path):
    data = images(17)
    model = network().double()
    minimise_by_hand(model, data, torch.optim.Adam(model.parameters(), lr=0.02), 200, 17)
    start = copy.deepcopy(model)
    trainer = trainer_for(tmp_path, model, data, max_steps=8, polish_steps=3, learning_rate=5.0, full_batch=True)
    trainer.train()
    reached = objective(model, whole(data)).item()
    assert reached <= objective(start, whole(data)).item()
    assert largest_difference(model, start) < 0.1


@pytest.mark.parametrize("stopped_at", [2, 5, 6, 11])
@pytest.mark.parametrize("arguments", [{"optim": "lbfgs"}, {"polish_steps": 9}])
def test_a_stopped_run_continues_to_the_same_bits(tmp_path, stopped_at, arguments):
    arguments = {
        "full_batch": True, "per_device_train_batch_size": 4, "max_steps": 14, "save_strategy": "steps",
        "save_steps": 1, "eval_strategy": "steps", "eval_steps": 2, "lr_scheduler_type": "cosine", **arguments,
    }  # fmt: skip

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == stopped_at

    straight, fresh = network(), network()
    trainer_for(tmp_path / "straight", straight, eval_dataset=images(6), **arguments).train()
    trainer_for(tmp_path / "part", network(), eval_dataset=images(6), callbacks=[Stop()], **arguments).train()
    trainer_for(tmp_path / "part", fresh, eval_dataset=images(6), **arguments).train(resume_from_checkpoint=True)
    assert largest_difference(straight, fresh) == 0


def test_a_checkpoint_is_of_the_best_point_and_evaluation_says_how_the_search_goes(tmp_path):
    data = images(17)
    model = network()
    trainer = trainer_for(
        tmp_path, model, data, eval_dataset=data, optim="lbfgs", full_batch=True, max_steps=12,
        save_strategy="steps", save_steps=12, eval_strategy="steps", eval_steps=3,
    )  # fmt: skip
    trainer.train()
    saved = type(model).from_pretrained(tmp_path / "checkpoint-12")
    assert largest_difference(saved, model) == 0
    evaluations = [entry for entry in trainer.state.log_history if "gap" in entry]
    assert [entry["line_search_trials"] for entry in evaluations] == [2, 5, 8, 11]
    assert all(later["gap"] <= earlier["gap"] for earlier, later in itertools.pairwise(evaluations))
    last = evaluations[-1]
    assert 0 < last["iterations"] <= last["line_search_trials"]
    model.zero_grad()
    objective(model, whole(data), body=L2, classifier=L2).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    assert last["gradient_norm"] == pytest.approx(gradient, rel=1e-3)


def test_a_trial_that_is_not_finite_does_not_end_the_training_but_a_start_does(tmp_path):
    class Poison(TrainerCallback):
        def __init__(self, at):
            self.at = at

        def on_step_begin(self, args, state, control, model, **kwargs):
            if state.global_step == self.at:
                with torch.no_grad():
                    model.classifier.weight.fill_(float("inf"))

    arguments = {"optim": "lbfgs", "full_batch": True, "max_steps": 6}
    model = network()
    trainer = trainer_for(tmp_path, model, callbacks=[Poison(0)], **arguments)
    with pytest.raises(NonFiniteLossError, match="not finite at step 1"):
        trainer.train()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"optim": "lbfgs"}, "full_batch is False; L-BFGS compares the objective on the same samples: it takes True"),
        ({"polish_steps": 5}, "full_batch is False; L-BFGS compares"),
        ({"polish_steps": -1, "full_batch": True}, "polish_steps is -1 and optim 'adam'; it takes a number or share"),
        ({"polish_steps": 5, "optim": "lbfgs", "full_batch": True}, "polish_steps is 5 and optim 'lbfgs'"),
        ({"optim": "lbfgs", "full_batch": True, "bf16": True}, "bf16 or fp16 is True; their rounding would mislead"),
        ({"optim": "lbfgs", "full_batch": True, "optim_args": "fit=1"}, "optim_args names fit; lbfgs takes history_"),
    ],
)
def test_what_a_line_search_cannot_do_is_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        CollapseTrainingArguments(output_dir="unused", **keywords)


@pytest.mark.parametrize(("given", "steps", "expected"), [(0, 10, 0), (4, 10, 4), (0.5, 9, 5), (0.05, 10, 1)])
def test_polishing_is_a_number_or_a_share_of_all_steps(given, steps, expected):
    arguments = CollapseTrainingArguments(output_dir="unused", full_batch=True, polish_steps=given)
    assert arguments.polishing(steps) == expected
    with pytest.raises(ValueError, match="polish_steps is 11, more than all 10 steps of a run"):
        CollapseTrainingArguments(output_dir="unused", full_batch=True, polish_steps=11).polishing(10)
