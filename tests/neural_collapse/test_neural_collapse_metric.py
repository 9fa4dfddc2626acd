"""The evaluate metric gives what the engine gives, however the samples come in."""

import json
from html import escape
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from processes import run_in_processes

from hf_ncollapse.neural_collapse import measures
from hf_ncollapse.neural_collapse.class_statistics import ClassStatistics
from hf_ncollapse.neural_collapse.compute import compute
from hf_ncollapse.neural_collapse.registry import MEASURES

METRIC_FILE = Path(measures.__file__).with_name("neural_collapse.py")
COUNTS = [30, 20, 10, 5]
WIDTH = 8


@pytest.fixture(scope="module", autouse=True)
def caches_of_their_own(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path_factory.mktemp("metrics")))
        yield


@pytest.fixture
def load():
    return lambda **options: evaluate.load(str(METRIC_FILE), **options)


@pytest.fixture(scope="module")
def samples():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centres = torch.randn(len(COUNTS), WIDTH, generator=generator)
    features = centres[labels] + 0.5 * torch.randn(len(labels), WIDTH, generator=generator)
    return features, labels, centres + 0.1, torch.randn(len(COUNTS), generator=generator)


def expected_result(samples, **options):
    features, labels, classifier, bias = samples
    statistics = ClassStatistics(len(COUNTS), second_moment=True)
    statistics.update(features, labels)
    options = {"batches": [(features, labels)]} | options
    return compute(statistics, classifier=classifier, bias=bias, measures="all", **options)


def assert_same_result(actual, expected):
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name] == (pytest.approx(value, rel=1e-6) if name in MEASURES else value), name


@pytest.mark.parametrize("weighting", ["class", "sample"])
def test_batches_of_any_kind_and_size_give_the_engines_result(load, samples, weighting):
    features, labels, classifier, bias = samples
    metric = load()
    metric.add_batch(predictions=features[:20], references=labels[:20])
    metric.add_batch(predictions=features[20:40].numpy(), references=labels[20:40].numpy())
    metric.add_batch(predictions=features[40:50].tolist(), references=labels[40:50].tolist())
    metric.add_batch(predictions=list(features[50:60]), references=list(labels[50:60]))
    for feature, label in zip(features[60:], labels[60:], strict=True):
        metric.add(prediction=feature, reference=label)
    assert len(metric) == 65
    result = metric.compute(classifier=classifier, bias=bias, measures="all", weighting=weighting)
    assert_same_result(result, expected_result(samples, weighting=weighting))
    assert len(metric) == 0


def test_samples_given_to_compute_add_to_those_added(load, samples):
    features, labels, classifier, bias = samples
    metric = load()
    metric.add_batch(predictions=features[:20], references=labels[:20])
    options = {"classifier": classifier.numpy(), "bias": bias.tolist(), "measures": "all"}
    result = metric.compute(predictions=features[20:], references=labels[20:], **options)
    assert_same_result(result, expected_result(samples))


def test_more_features_than_are_kept_are_streamed_and_the_result_says_what_that_costs(load, samples):
    features, labels, classifier, bias = samples
    metric = load(keep_features_mib=32 * WIDTH * 4 / 2**20)
    order = labels.argsort()
    for start in range(0, 65, 7):
        batch = order[start : start + 7]
        metric.add_batch(predictions=features[batch], references=labels[batch])
    metric.add_batch(predictions=torch.full((2, WIDTH), 9.0), references=[-100, -100])
    result = metric.compute(classifier=classifier, bias=bias, measures="all", ignore_index=-100)
    assert "a second look at the features" in result["left_out"]["nc4"]
    assert_same_result(result, expected_result(samples, batches=None))


def test_streamed_labels_are_judged_like_kept_ones(load, samples):
    features, labels, classifier, _ = samples
    for keep in (1, 0):
        metric = load(keep_features_mib=keep)
        metric.add_batch(predictions=features, references=labels)
        metric.add_batch(predictions=features[:3], references=[0, -100, 6])
        with pytest.raises(ValueError, match=r"got -100 at position 66 .*ignore_index=-100"):
            metric.compute(classifier=classifier)
        with pytest.raises(ValueError, match="labels must be in 0 … 3, got 6 at position 67"):
            metric.compute(classifier=classifier, ignore_index=-100)
        assert metric.compute(measures="nc1", ignore_index=-100, absent="exclude")["absent_classes"] == [4, 5]
    metric.add_batch(predictions=features, references=labels)
    with pytest.raises(ValueError, match="ignore_index=1 came too late"):
        metric.compute(classifier=classifier, ignore_index=1)


def test_samples_that_cannot_be_streamed_are_still_there_and_told_of_at_every_batch(load, samples):
    features, labels, classifier, _ = samples
    metric = load(keep_features_mib=2 * len(labels) * WIDTH * 4 / 2**20)
    metric.add_batch(predictions=features, references=labels)
    metric.add_batch(predictions=features[:1], references=[10**8])  # its class alone would make K×d take 6 GB
    for _ in range(2):
        with pytest.raises(ValueError, match="got 100000000 at position"):
            metric.add_batch(predictions=features, references=labels)
    result = metric.compute(classifier=classifier, ignore_index=10**8)
    assert result["nc1"] == pytest.approx(expected_result(samples)["nc1"], rel=1e-6)


def test_an_error_keeps_what_was_added_and_forgets_what_compute_was_given(load, samples):
    features, labels, classifier, _ = samples
    metric = load()
    metric.add_batch(predictions=features, references=labels)
    with pytest.raises(ValueError, match="measures must be"):
        metric.compute(classifier=classifier, measures="nc7")
    assert metric.compute(classifier=classifier)["num_samples"] == 65
    with pytest.raises(ValueError, match="nc2 needs classifier"):
        metric.compute(predictions=features, references=labels)
    assert len(metric) == 0


def test_the_metric_copies_what_it_keeps(load, samples):
    features, labels, classifier, _ = samples
    metric, reused = load(), torch.empty(13, WIDTH)
    for batch, batch_labels in zip(features.split(13), labels.split(13), strict=True):
        metric.add_batch(predictions=reused.copy_(batch), references=batch_labels)
    expected = metric.compute(predictions=features[:0], references=labels[:0], classifier=classifier)
    assert expected["nc1"] == pytest.approx(expected_result(samples)["nc1"])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"predictions": [[1.0, 2.0]]}, "both predictions .* and references"),
        ({"predictions": [1.0, 2.0], "references": [0, 1]}, r"features must be samples × width \(N×d\), got shape"),
        ({"predictions": [[1.0, 2.0]], "references": [0, 1]}, "labels must have one entry a sample"),
        ({"predictions": [[1.0, 2.0]], "references": [0.5]}, "labels must be integers"),
        ({"predictions": [[1.0, np.nan]], "references": [0]}, "1 NaN and 0 infinite .* first in sample 0, feature 1"),
        ({"predictions": [[1.0]], "references": [0]}, "features must keep their width 2, got 1"),
    ],
)
def test_bad_batches_are_refused_when_they_are_added(load, batch, message):
    metric = load()
    metric.add_batch(predictions=[[0.0, 1.0]], references=[1])
    with pytest.raises(ValueError, match=message):
        metric.add_batch(**batch)
    assert len(metric) == 1


def test_nothing_added_is_an_error(load):
    with pytest.raises(ValueError, match="there are no samples"):
        load().compute()


def test_test_samples_are_measured_about_training_means(load, samples):
    features, labels, classifier, bias = samples
    metric = load()
    metric.add_batch(predictions=features[:40], references=labels[:40])
    training_statistics = metric.statistics(num_classes=4)
    result = metric.compute(
        predictions=features[40:],
        references=labels[40:],
        classifier=classifier,
        bias=bias,
        training_statistics=training_statistics,
        measures="all",
    )
    training, test = ClassStatistics(4), ClassStatistics(4, second_moment=True)
    training.update(features[:40], labels[:40])
    test.update(features[40:], labels[40:])
    expected = compute(
        test,
        classifier=classifier,
        bias=bias,
        measures="all",
        training_statistics=training,
        batches=[(features[40:], labels[40:])],
    )
    assert_same_result(result, expected)


def test_it_combines_with_other_metrics(load, samples):
    features, labels, classifier, _ = samples
    combined = evaluate.combine([load(), load()])
    combined.add_batch(predictions=features, references=labels)
    result = combined.compute(classifier=classifier)
    assert result["neural_collapse_0_nc1"] == result["neural_collapse_1_nc1"]


def compute_in_process(process_id, samples, folder, keep):
    torch.set_num_threads(1)
    features, labels, classifier, bias = samples
    options = {"num_process": 2, "process_id": process_id, "experiment_id": "shared", "cache_dir": folder}
    metric = evaluate.load(str(METRIC_FILE), keep_features_mib=keep, **options)
    part = slice(0, 41) if process_id == 0 else slice(41, None)
    results = []
    for _ in range(3):
        metric.add_batch(predictions=features[part], references=labels[part])
        results.append(metric.compute(classifier=classifier, bias=bias, measures="all"))
    return results


@pytest.mark.parametrize("keep", [1, 0])
def test_two_processes_give_the_single_process_values_again_and_again(samples, tmp_path, monkeypatch, keep):
    # The other process has its module cache from the environment.
    monkeypatch.setenv("HF_MODULES_CACHE", evaluate.config.HF_MODULES_CACHE)
    # What a run that crashed may have left: a request that nobody waits for.
    folder = tmp_path / "neural_collapse" / "default"
    folder.mkdir(parents=True)
    torch.save({"token": "stale"}, folder / "shared-2-request")
    results, of_the_other = run_in_processes(compute_in_process, 2, samples, str(tmp_path), keep)
    assert of_the_other == [None] * 3
    for result in results:
        assert_same_result(result, expected_result(samples, **({} if keep else {"batches": None})))
    assert list(folder.iterdir()) == []


def test_a_process_that_waits_in_vain_says_for_whom(samples, tmp_path, load):
    features, labels, classifier, _ = samples
    for process_id, message in ((0, "1 of 2 processes did not call compute"), (1, "process 0 did not call compute")):
        metric = load(num_process=2, process_id=process_id, timeout=0.1, cache_dir=str(tmp_path))
        metric.add_batch(predictions=features, references=labels)
        with pytest.raises(ValueError, match=message):
            metric.compute(classifier=classifier)
        assert len(metric) == 65


def test_buffers_of_processes_merge_whether_kept_or_streamed(samples):
    from hf_ncollapse.neural_collapse.sample_buffer import SampleBuffer

    features, labels, _, _ = samples
    for limits in ((10**9, 0), (0, 10**9), (0, 0)):
        merged = SampleBuffer(10**9)
        for limit, part in zip(limits, (slice(0, 41), slice(41, None)), strict=True):
            buffer = SampleBuffer(limit)
            buffer.add(features[part], labels[part])
            merged.merge(SampleBuffer.from_state_dict(buffer.state_dict()))
        statistics, batches = merged.summarize(4, second_moment=True, directions=True, ignore_index=None)
        assert batches is None
        assert measures.nc1(statistics) == pytest.approx(expected_result(samples)["nc1"], rel=1e-9)
        assert len(merged) == 65


def test_it_reads_well(load):
    metric = load()
    assert set(metric.features) == {"predictions", "references"}
    assert "predictions: features, N×d" in metric.inputs_description
    for name in MEASURES:
        assert name in metric.inputs_description
    assert "classifier: W, K×d" in metric.compute.__doc__


@pytest.mark.parametrize("kept_mib", [128, 0], ids=["kept", "streamed"])
def test_features_with_a_label_to_ignore_may_be_anything(load, samples, kept_mib):
    features, labels, classifier, _ = samples
    expected = load().compute(predictions=features, references=labels, classifier=classifier)
    metric = load(keep_features_mib=kept_mib)
    undefined = torch.full((2, WIDTH), torch.nan)
    metric.add_batch(
        predictions=torch.cat([features, undefined]), references=torch.cat([labels, torch.tensor([-100] * 2)])
    )
    assert_same_result(metric.compute(classifier=classifier, ignore_index=-100), expected)
    with pytest.raises(ValueError, match=r"got 1 NaN .* first in sample 1, feature 1"):
        metric.add_batch(predictions=[[torch.nan, 1.0], [1.0, torch.nan]], references=[-100, 0])


@pytest.mark.parametrize("kept_mib", [128, 0], ids=["kept", "streamed"])
def test_a_label_that_is_a_mistake_takes_no_memory(load, samples, kept_mib, monkeypatch):
    features = torch.zeros(10, 64)
    labels = torch.tensor([0, 1, 2, 3_000_000, *range(6)])
    metric = load(keep_features_mib=kept_mib)
    made, make = [], ClassStatistics.__init__

    def recorded(self, num_classes, **options):
        made.append(num_classes)
        make(self, num_classes, **options)

    monkeypatch.setattr(ClassStatistics, "__init__", recorded)
    with pytest.raises(ValueError, match="got 3000000 at position 3 among 10 samples: map them"):
        metric.compute(predictions=features, references=labels, measures="nc1")
    assert max(made, default=0) <= 2
    assert len(metric) == 0


def test_a_refused_batch_leaves_no_trace(load, samples):
    features, labels, classifier, _ = samples
    expected = load().compute(predictions=features, references=labels, classifier=classifier)
    for kept_mib in (128, 0):
        metric = load(keep_features_mib=kept_mib)
        for bad, bad_labels in ((torch.full((1, 3), torch.nan), [0]), (torch.zeros(10, 64), [3_000_000] * 10)):
            if kept_mib == 0 or bad.isnan().any():
                with pytest.raises(ValueError, match=r"finite|got 3000000"):
                    metric.add_batch(predictions=bad, references=bad_labels)
        assert len(metric) == 0
        metric.add_batch(predictions=features, references=labels)
        assert_same_result(metric.compute(classifier=classifier), expected)


@pytest.mark.parametrize("kept_mib", [128, 0], ids=["kept", "streamed"])
def test_inference_mode_around_the_first_batch_changes_nothing(load, samples, kept_mib):
    features, labels, classifier, _ = samples
    metric = load(keep_features_mib=kept_mib)
    with torch.inference_mode():
        metric.add_batch(predictions=features[:20].clone(), references=labels[:20])
    metric.add_batch(predictions=features[20:], references=labels[20:])
    expected = load().compute(predictions=features, references=labels, classifier=classifier)
    assert_same_result(metric.compute(classifier=classifier), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r'^nc2 needs classifier=W; without one, name other measures, such as measures="nc1"$'),
        (
            {"classifier": torch.nn.Linear(WIDTH, 4)},
            r"must be a layer's weight \(model\.classifier\.weight\), got Linear$",
        ),
        ({"references": ["cat", "dog"]}, r"^references must be whole numbers 0 … K − 1, got 'cat': number the names$"),
    ],
)
def test_what_is_no_array_is_an_error_that_says_what_to_give(load, samples, arguments, message):
    with pytest.raises(ValueError, match=message):
        load().compute(**({"predictions": samples[0], "references": samples[1]} | arguments))


def test_measures_said_when_loading_are_all_that_is_paid_for(load, samples, monkeypatch):
    features, labels, classifier, _ = samples
    metric = load(measures=["nc1", "nc2"], num_classes=4)
    # The metric runs a copy of the modules, and it is the copy's class that makes statistics.
    copied = type(metric._buffer).stream.__globals__["ClassStatistics"]
    made, make = [], copied.__init__

    def recorded(self, num_classes, **options):
        made.append((num_classes, options))
        make(self, num_classes, **options)

    monkeypatch.setattr(copied, "__init__", recorded)
    for part in (slice(0, 30), slice(30, None)):
        metric.add_batch(predictions=features[part], references=labels[part])
    expected = expected_result(samples)
    result = metric.compute(classifier=classifier)
    assert made == [(4, {"second_moment": False, "directions": False})]
    for name in ("nc1", "nc2"):
        assert result[name] == pytest.approx(expected[name], rel=1e-9)
    assert "nc3" not in result

    metric.add_batch(predictions=features, references=labels)
    with pytest.raises(ValueError, match="nc3 needs statistics made with directions=True"):
        metric.compute(classifier=classifier, measures="nc3")
    result = metric.compute(classifier=classifier, measures="nc2_means")
    assert result["nc2_means"] == pytest.approx(expected["nc2_means"], rel=1e-9)


@pytest.mark.parametrize("measure", ["nc1", "nc4"], ids=["streamed", "kept"])
def test_a_label_above_the_classes_said_when_loading_is_refused_when_it_is_added(load, samples, measure):
    features, labels, classifier, bias = samples
    metric = load(measures=measure, num_classes=4)
    with pytest.raises(ValueError, match=r"labels must be in 0 … 3, got 4 at position 1 \(1 labels in all\)$"):
        metric.add_batch(predictions=features[:3], references=[0, 4, -100])
    assert len(metric) == 0
    metric.add_batch(predictions=features, references=labels)
    result = metric.compute(classifier=classifier, bias=bias)
    assert result[measure] == pytest.approx(expected_result(samples)[measure], rel=1e-9)


def test_standard_errors_classes_and_strangers_come_through(load, samples):
    features, labels, classifier, bias = samples
    outside = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))
    options = {"out_of_distribution": outside, "per_class": True, "standard_errors": True}
    result = load().compute(
        predictions=features, references=labels, classifier=classifier, bias=bias, measures="all", **options
    )
    assert_same_result(result, expected_result(samples, **options))
    assert {"nc5", "per_class", "nc1_bias"} <= result.keys()


def test_a_notebook_shows_the_result_as_a_table_and_draws_it(load, samples):
    features, labels, classifier, _ = samples
    result = load().compute(
        predictions=features, references=labels, classifier=classifier, measures="all", standard_errors=True
    )

    table = result.to_pandas()
    html = result._repr_html_()
    figure = result.plot()

    assert dict(table["value"]) == {name: result[name] for name in result["conventions"]}
    assert table["standard_error"].dropna().to_dict() == {
        "nc1": result["nc1_standard_error"], "nc3": result["nc3_standard_error"]
    }  # fmt: skip
    assert all(escape(formula) in html for formula in result["conventions"].values())
    assert f"{sum(COUNTS)} samples of {len(COUNTS)} classes" in html
    for name, reason in result["left_out"].items():
        assert f"not measured: {name} ({escape(reason)})" in html
    (axes,) = figure.axes
    dots = {axes.get_yticklabels()[int(line.get_ydata()[0])].get_text(): line for line in axes.lines}
    assert {name: line.get_xdata()[0] for name, line in dots.items()} == {
        name: abs(result[name]) for name in result["conventions"] if result[name]
    }
    assert {name for name, line in dots.items() if line.get_fillstyle() == "none"} == {
        name for name in result["conventions"] if result[name] < 0
    }


def test_the_result_is_a_dictionary_to_json(samples):
    result = expected_result(samples)

    assert json.loads(json.dumps(result)) == result
