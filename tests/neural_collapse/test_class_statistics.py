"""Class statistics: one pass over any batches gives what two passes over all the data give."""

import copy
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_in_processes
from torch.utils._python_dispatch import TorchDispatchMode

from hf_ncollapse.neural_collapse.batch_checks import require_finite
from hf_ncollapse.neural_collapse.class_statistics import ClassStatistics
from hf_ncollapse.neural_collapse.compute import compute

NUM_CLASSES, WIDTH = 4, 6


def make_data(seed=0, num_samples=60, dtype=torch.float64, mean=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat(
        [torch.arange(NUM_CLASSES), torch.randint(NUM_CLASSES, (num_samples - 4,), generator=generator)]
    )
    centres = torch.randn(NUM_CLASSES, WIDTH, generator=generator, dtype=torch.float64)
    noise = torch.randn(num_samples, WIDTH, generator=generator, dtype=torch.float64)
    return (mean + scale * (centres[labels] + noise)).to(dtype), labels


def collect(features, labels, sizes=(None,), **options):
    statistics = ClassStatistics(NUM_CLASSES, **({"second_moment": True} | options))
    for features_batch, labels_batch in zip(features.split(sizes), labels.split(sizes), strict=True):
        statistics.update(features_batch, labels_batch)
    return statistics


def assert_same_statistics(actual, expected, tolerance=1e-9):
    assert torch.equal(actual.counts, expected.counts)
    for name in ("class_means", "within_class_scatter", "within_class_second_moment", "direction_sums"):
        ours, theirs = getattr(actual, name), getattr(expected, name)
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max(), name


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (1e4, 1.0), (10.0, 1e-3), (0.0, 1e-30), (0.0, 1e18)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_one_pass_gives_the_two_pass_statistics_of_the_rounded_features(dtype, mean, scale):
    if dtype == torch.float16 and scale in (1e-30, 1e18):
        pytest.skip("outside float16's range")
    features, labels = make_data(num_samples=300, dtype=dtype, mean=mean, scale=scale)
    statistics = collect(features, labels, [64, 64, 1, 171])

    exact = features.double()
    one_hot = torch.nn.functional.one_hot(labels, NUM_CLASSES).double()
    means = one_hot.T @ exact / one_hot.sum(0).unsqueeze(1)
    centred = exact - means[labels]
    assert torch.allclose(statistics.class_means, means, rtol=1e-12, atol=0)
    assert torch.allclose(statistics.within_class_scatter, one_hot.T @ centred.square().sum(1), rtol=1e-10, atol=0)
    second_moment = statistics.within_class_second_moment
    assert (second_moment - centred.T @ centred).norm() <= 1e-6 * (centred.T @ centred).norm()
    directions = torch.nn.functional.normalize(exact, eps=0)
    assert torch.allclose(statistics.direction_sums, one_hot.T @ directions, rtol=1e-12, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), cuts=st.sets(st.integers(1, 59), max_size=6), mean=st.sampled_from([0.0, 1e4]))
def test_neither_sample_order_nor_batch_splits_nor_merge_order_matter(seed, cuts, mean):
    features, labels = make_data(seed, mean=mean)
    whole = collect(features, labels, [60])
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    ends = [0, *sorted(cuts), 60]
    sizes = [end - start for start, end in pairwise(ends)]
    assert_same_statistics(collect(features[order], labels[order], sizes), whole)

    parts = [collect(f, y, [len(y)]) for f, y in zip(features.split(sizes), labels.split(sizes), strict=True)]
    forwards, backwards = (ClassStatistics(NUM_CLASSES, second_moment=True) for _ in range(2))
    for part in parts:
        forwards.merge(part)
    for part in reversed(parts):
        backwards.merge(part)
    assert_same_statistics(forwards, whole)
    assert_same_statistics(backwards, whole)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.ones(3, 2), [0, 1, -1], r"labels must be in 0 … 3, got -1 at position 2 \(1 labels in all\)$"),
        (torch.ones(3, 2), [0, 4, 7], r"got 4 at position 1 \(2 labels in all\)"),
        (torch.ones(3, 2), [0, 1, 4], r"got 4 at position 2 \(1 labels in all\)$"),
        (torch.ones(3, 2), [-100, 1, 1], r"\(1 labels in all\); pass ignore_index=-100 to skip such samples$"),
        (torch.ones(3, 2), [0.0, 1.0, 1.0], "labels must be integers, got torch.float32"),
        (torch.ones(3, 2), [True, False, True], "labels must be integers, got torch.bool"),
        (torch.ones(3, 2), [1j, 0j, 1j], "labels must be integers, got torch.complex64"),
        (torch.ones(3, 2), [0, 1], r"labels must have one entry a sample, \(3,\), got shape \(2,\)"),
        (torch.ones(3), [0, 1, 2], r"features must be samples × width \(N×d\), got shape \(3,\)"),
        (torch.ones(3, 0), [0, 1, 2], r"features must be samples × width \(N×d\), got shape \(3, 0\)"),
        (torch.ones(3, 2, dtype=torch.cfloat), [0, 1, 2], "features must be real, got torch.complex64"),
        (torch.ones(3, 2).to(torch.float8_e4m3fn), [0, 1, 2], r"16 bits or more, got torch.float8_e4m3fn: cast them"),
        (torch.ones(3, 5), [0, 1, 2], "features must keep their width 2, got 5"),
        (
            torch.tensor([[1, 2], [float("nan"), 2], [float("inf"), float("nan")]]),
            [0, 1, 2],
            "got 2 NaN and 1 infinite values in 2 of 3 samples, first in sample 1, feature 0",
        ),
        (
            torch.full((1, 2), -1e200, dtype=torch.float64),
            [0],
            r"small enough to square in float64, got values up to 1e\+200",
        ),
    ],
)
def test_bad_input_is_named_and_leaves_the_state_as_it_was(features, labels, message):
    statistics = ClassStatistics(NUM_CLASSES, second_moment=True)
    statistics.update(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([3, 3]))
    before = copy.deepcopy(statistics.state_dict())
    with pytest.raises(ValueError, match=message):
        statistics.update(features, torch.tensor(labels))
    after = statistics.state_dict()
    assert all(torch.equal(torch.as_tensor(after[name]), torch.as_tensor(before[name])) for name in before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_one_feature_that_is_not_finite_is_refused_in_every_precision(dtype, value):
    statistics = ClassStatistics(3)
    with pytest.raises(ValueError, match=r"features must be finite.*first in sample 1, feature 1"):
        statistics.update(torch.tensor([[0, 1], [2, value]], dtype=dtype), torch.tensor([0, 2]))
    assert statistics.num_samples == 0


def test_a_bad_sample_after_every_class_was_seen_leaves_the_state_as_it_was():
    features, labels = make_data()
    statistics = collect(features, labels, [30, 30])
    before = copy.deepcopy(statistics.state_dict())
    with pytest.raises(ValueError, match="features must be finite"):
        statistics.update(torch.full((1, WIDTH), torch.nan), labels[:1])
    after = statistics.state_dict()
    assert all(torch.equal(torch.as_tensor(after[name]), torch.as_tensor(before[name])) for name in before)


def test_a_class_that_comes_late_loses_no_precision():
    features, labels = make_data(num_samples=300, mean=1e4, scale=1e-3)
    order = labels.argsort(stable=True)
    features, labels = features[order], labels[order]
    statistics = collect(features, labels, [20] * 15)
    centred = features - statistics.class_means[labels]
    expected = torch.zeros(NUM_CLASSES, dtype=torch.float64).index_add_(0, labels, centred.square().sum(1))
    assert torch.allclose(statistics.within_class_scatter, expected, rtol=1e-9, atol=0)


def test_the_second_moment_of_wide_features_is_whole():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(50, 300, generator=generator, dtype=torch.float64)
    statistics = ClassStatistics(2, second_moment=True)
    statistics.update(features, torch.arange(50) % 2)
    centred = features - statistics.class_means[torch.arange(50) % 2]
    assert torch.allclose(statistics.within_class_second_moment, centred.T @ centred, atol=1e-12)


def test_a_zero_feature_has_no_direction():
    statistics = ClassStatistics(2)
    statistics.update(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0]]), torch.tensor([0, 0, 1]))
    assert torch.allclose(statistics.direction_sums, torch.tensor([[0.6, 0.8], [0.0, 1.0]], dtype=torch.float64))


def test_only_directions_are_accumulated_unless_the_second_moment_is_asked_for():
    statistics = ClassStatistics(2)
    assert (statistics.has_directions, statistics.has_second_moment) == (True, False)
    lean = ClassStatistics(2, second_moment=True, directions=False)
    restored = ClassStatistics.from_state_dict(lean.state_dict())
    assert (restored.has_directions, restored.has_second_moment, restored.num_features) == (False, True, None)


def test_the_state_lives_where_it_was_asked_to():
    features, labels = make_data()
    statistics = collect(features, labels, [60])
    assert ClassStatistics(2, device="meta").device == torch.device("meta")
    moved = ClassStatistics.from_state_dict(statistics.state_dict(), device="meta")
    wider = moved.resized(7)
    for elsewhere in (moved, wider, copy.deepcopy(statistics).to("meta")):
        tensors = [value for value in elsewhere.state_dict().values() if isinstance(value, torch.Tensor)]
        assert {tensor.device.type for tensor in tensors} | {elsewhere.device.type} == {"meta"}
    back = statistics.to("cpu")
    assert back is statistics
    back.update(features, labels)
    assert_same_statistics(back, collect(features.repeat(2, 1), labels.repeat(2), [120]))
    assert ClassStatistics(2).to("cpu").num_samples == 0


def test_a_bad_sample_at_the_end_of_a_large_batch_leaves_the_state_as_it_was():
    features, labels = make_data(num_samples=1500)
    statistics = ClassStatistics(NUM_CLASSES)
    with pytest.raises(ValueError, match="first in sample 1499, feature 5"):
        statistics.update(
            torch.cat([features[:-1], features[-1:].index_fill(1, torch.tensor([5]), torch.inf)]), labels
        )
    assert statistics.num_samples == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_refused_first_batch_leaves_no_trace(dtype):
    statistics = ClassStatistics(2)
    with pytest.raises(ValueError, match="features must be finite"):
        statistics.update(torch.tensor([[1.0, torch.nan]], dtype=dtype), torch.tensor([0]))
    assert (statistics.num_features, statistics.device) == (None, None)
    statistics.update(torch.ones(2, 5), torch.tensor([0, 1]))
    assert statistics.class_means.tolist() == [[1.0] * 5] * 2


def test_a_state_that_inference_mode_began_goes_on_outside_it_and_the_other_way_round():
    features, labels = make_data()
    expected = collect(features, labels, [60])
    statistics, other = (ClassStatistics(NUM_CLASSES, second_moment=True) for _ in range(2))
    with torch.inference_mode():
        statistics.update(features[:20].clone(), labels[:20])
        other.update(features[20:30].clone(), labels[20:30])
        other.merge(collect(features[30:40], labels[30:40], [10]))
    statistics.update(features[40:], labels[40:])
    other.update(features[:0], labels[:0])
    statistics.merge(other)
    assert_same_statistics(statistics, expected)
    with torch.inference_mode():
        statistics.update(features, labels)
    assert_same_statistics(statistics, collect(features.repeat(2, 1), labels.repeat(2), [120]))


def test_room_for_labels_is_made_a_few_times_and_not_for_a_mistake():
    statistics, sizes = ClassStatistics(2), set()
    for label in range(1000):
        batch = torch.ones(1, 3), torch.tensor([label])
        statistics = statistics.grown_for(*batch)
        statistics.update(*batch)
        sizes.add(statistics.num_classes)
    assert statistics.num_samples == 1000
    assert len(sizes) <= 10
    message = r"got 3000000 at position 1 among 1002 samples: map them to whole numbers without gaps$"
    with pytest.raises(ValueError, match=message):
        statistics.grown_for(torch.ones(2, 64), torch.tensor([0, 3_000_000]))


def test_ignored_samples_are_not_looked_at():
    statistics, expected = ClassStatistics(NUM_CLASSES), ClassStatistics(NUM_CLASSES)
    features = torch.tensor([[1.0, 2.0], [float("nan"), 0.0], [3.0, 4.0]])
    statistics.update(features, torch.tensor([0, -100, 1]), ignore_index=-100)
    statistics.update(features[1:2], torch.tensor([-100]), ignore_index=-100)
    expected.update(features[[0, 2]], torch.tensor([0, 1]))
    assert statistics.num_samples == 2
    assert torch.equal(statistics.class_means, expected.class_means)


def test_numpy_arrays_integers_and_a_last_batch_of_one_are_welcome():
    statistics = ClassStatistics(2)
    statistics.update(np.array([[1, 2], [3, 4]]), np.array([0, 1], dtype=np.int32))
    statistics.update(np.array([[3, 6]], dtype=np.float16), np.array([0], dtype=np.uint8))
    assert statistics.class_means.tolist() == [[2.0, 4.0], [3.0, 4.0]]
    assert statistics.within_class_scatter.tolist() == pytest.approx([10.0, 0.0], rel=1e-15)


def test_a_single_class_and_empty_statistics_are_refused():
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        ClassStatistics(1)
    empty = ClassStatistics(3)
    empty.update(torch.empty(0, 5), torch.empty(0, dtype=torch.int64))
    assert empty.num_samples == 0
    with pytest.raises(ValueError, match=r"^the statistics are empty: update them with at least one sample$"):
        _ = empty.class_means
    require_finite(torch.empty(0, 5, dtype=torch.float64))


def test_what_was_not_accumulated_is_not_invented():
    features, labels = make_data()
    lean = collect(features, labels, [60], second_moment=False, directions=False)
    with pytest.raises(ValueError, match="second_moment=True"):
        _ = lean.within_class_second_moment
    with pytest.raises(ValueError, match="directions=True"):
        _ = lean.direction_sums
    with pytest.raises(ValueError, match="cannot merge: has_second_moment is False here, True there"):
        lean.merge(collect(features, labels, [60]))
    with pytest.raises(ValueError, match="cannot merge features of width 3 into width 6"):
        lean.merge(collect(features[:, :3], labels, [60], second_moment=False, directions=False))


def test_features_that_require_gradients_do_not_keep_their_graph():
    statistics = ClassStatistics(NUM_CLASSES)
    statistics.update(torch.ones(2, 3, requires_grad=True), torch.tensor([0, 1]))
    assert not statistics.class_means.requires_grad


def test_merging_takes_nothing_from_the_other_and_accepts_what_is_empty():
    features, labels = make_data()
    first, second = collect(features[:25], labels[:25], [25]), collect(features[25:], labels[25:], [35])
    before = copy.deepcopy(second.state_dict())
    first.merge(second)
    first.merge(ClassStatistics(NUM_CLASSES, second_moment=True))
    assert_same_statistics(first, collect(features, labels, [60]))
    assert all(
        torch.equal(torch.as_tensor(second.state_dict()[name]), torch.as_tensor(before[name])) for name in before
    )


def test_a_saved_state_continues_where_it_stopped(tmp_path):
    features, labels = make_data()
    torch.save(collect(features[:25], labels[:25], [25]).state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    continued = ClassStatistics(NUM_CLASSES, second_moment=True)
    continued.load_state_dict(state)
    continued.update(features[25:], labels[25:])
    assert_same_statistics(continued, collect(features, labels, [60]))

    for name, value in {"version": 0, "num_classes": 3, "second_moment": False, "directions": False}.items():
        with pytest.raises(ValueError, match=f"cannot load a state with {name} {value}: this has"):
            ClassStatistics(NUM_CLASSES, second_moment=True).load_state_dict(state | {name: value})


def test_selecting_classes_may_drop_absent_ones_only():
    features, labels = make_data()
    statistics = collect(features[labels != 2], labels[labels != 2], [int((labels != 2).sum())])
    selected = statistics.select_classes(statistics.present_classes)
    assert selected.num_classes == 3
    assert torch.equal(selected.class_means, statistics.class_means[[0, 1, 3]])
    assert torch.equal(selected.within_class_second_moment, statistics.within_class_second_moment)
    with pytest.raises(ValueError, match=r"^select_classes may leave out absent classes only.* of all samples$"):
        statistics.select_classes(torch.tensor([True, True, False, False]))


def test_many_classes_cost_three_arrays_of_class_means_at_most():
    statistics = ClassStatistics(5000, directions=False)
    statistics.update(torch.randn(16, 64), torch.arange(16))
    tensors = [value for value in statistics.state_dict().values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors) <= 3 * 5000 * 64 * 8


def test_classes_without_samples_can_be_added_and_cut_off():
    features, labels = make_data()
    statistics = collect(features, labels, [60])
    wider = statistics.resized(7)
    assert wider.class_means.shape == (7, WIDTH)
    wider.update(features[:1], torch.tensor([6]))
    assert_same_statistics(statistics.resized(9).resized(NUM_CLASSES), statistics)
    with pytest.raises(ValueError, match="cannot resize to 5 classes: later ones have samples"):
        wider.resized(5)


def far_data(dtype):
    """60 samples far from the origin by class, the last class of one sample only."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(NUM_CLASSES).repeat_interleave(torch.tensor([25, 20, 14, 1]))
    features = 1e6 + torch.randn(60, WIDTH, generator=generator, dtype=torch.float64)
    return features.to(dtype), labels


def reduce_in_process(rank, folder, dtypes):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/rendezvous", timeout=timedelta(seconds=120), rank=rank, world_size=3
    )
    try:
        reduced = []
        for dtype in dtypes:
            features, labels = far_data(dtype)
            statistics = ClassStatistics(NUM_CLASSES, second_moment=True)
            for part in ([slice(0, 41)], [slice(41, 59), slice(59, 60)], [])[rank]:
                statistics.update(features[part], labels[part])
            statistics.all_reduce()
            reduced.append(statistics.state_dict())

        of_another_width = ClassStatistics(NUM_CLASSES)
        of_another_width.update(torch.ones(1, (2, 3, 3)[rank]), labels[:1])
        with pytest.raises(ValueError, match=r"^the processes must see features of one width, got \[2, 3, 3\]$"):
            of_another_width.all_reduce()
        return reduced
    finally:
        dist.destroy_process_group()


def test_processes_with_uneven_data_end_with_the_single_process_statistics(tmp_path):
    # A float32 batch has its second moment from a float32 gemm, about shifts that depend on the split.
    tolerances = {torch.float64: 1e-9, torch.float32: 1e-6}
    for of_a_process in run_in_processes(reduce_in_process, 3, tmp_path, list(tolerances)):
        for (dtype, tolerance), state in zip(tolerances.items(), of_a_process, strict=True):
            alone = collect(*far_data(dtype), [60])
            reduced = ClassStatistics.from_state_dict(state)
            assert torch.allclose(reduced.within_class_scatter, alone.within_class_scatter, rtol=1e-9, atol=1e-9)
            assert_same_statistics(reduced, alone, tolerance)


def test_alone_reducing_changes_nothing():
    features, labels = make_data()
    statistics = collect(features, labels, [60])
    statistics.all_reduce()
    assert_same_statistics(statistics, collect(features, labels, [60]), tolerance=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_sums_are_exact_under_autocast(dtype):
    features, labels = make_data(num_samples=300, dtype=dtype, mean=1.0)
    expected = collect(features, labels, [100] * 3)
    with torch.autocast("cpu", torch.bfloat16):
        statistics = collect(features, labels, [100] * 3)
    for name in ("class_means", "within_class_scatter", "within_class_second_moment", "direction_sums"):
        assert torch.equal(getattr(statistics, name), getattr(expected, name)), name


class PrecisionsOfProducts(TorchDispatchMode):
    """Collects what float32 products may be computed in at each of them."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if function.name() in ("aten::mm", "aten::addmm") and result.dtype == torch.float32:
            self.seen.append(torch.backends.mkldnn.matmul.fp32_precision)
        return result


@pytest.mark.parametrize("allowed", ["medium", "high", "highest"])
def test_no_float32_product_is_one_of_fewer_bits_and_what_was_allowed_stays_allowed(allowed):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(allowed)
    try:
        features, labels = torch.randn(1200, 8), torch.arange(1200) % 600
        statistics = ClassStatistics(600, second_moment=True)
        with PrecisionsOfProducts() as precisions:
            statistics.update(features, labels)
            names = ["nc1_pinv", "nc1_cdnv", "gnc2", "nc2_equiangular", "nc2_worst", "nc4"]
            classifier = torch.randn(600, 8)
            compute(statistics, classifier=classifier, measures=names, batches=[(features, labels)], per_class=True)
        assert len(precisions.seen) > 10
        assert set(precisions.seen) == {"ieee"}
        assert torch.get_float32_matmul_precision() == allowed
    finally:
        torch.set_float32_matmul_precision(before)


def test_constant_features_deviate_by_nothing():
    features, labels = make_data(num_samples=1000)
    features = torch.full_like(features, 0.1)
    statistics = collect(features, labels, [300, 300, 400])
    assert torch.equal(statistics.class_means, torch.full_like(statistics.class_means, 0.1))
    assert not statistics.within_class_scatter.any()
    assert not statistics.within_class_second_moment.any()


class HostReads(TorchDispatchMode):
    """Counts what an accelerator would have to wait for: numbers and sizes that the host reads from tensors."""

    READS = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "equal", "bincount")

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.name().split("::")[1]
        indices = arguments[1] if name.startswith("index.") else ()
        by_mask = any(index is not None and index.dtype == torch.bool for index in indices)
        if by_mask or any(read in name for read in self.READS):
            self.names.append(name)
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("ignore_index", [None, -100])
@pytest.mark.parametrize("second_moment", [True, False])
def test_an_update_reads_from_the_device_once_when_every_class_was_seen(ignore_index, second_moment, monkeypatch):
    features, labels = make_data(num_samples=1200, dtype=torch.float32)
    statistics = ClassStatistics(NUM_CLASSES, second_moment=second_moment)
    for _ in range(2):
        statistics.update(features, labels)
    lists, as_list = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: (lists.append(tensor), as_list(tensor))[1])
    if ignore_index is not None:
        labels = labels.masked_fill(torch.arange(1200) % 3 == 0, ignore_index)
    for size in (1200, 300, 300):
        lists.clear()
        with HostReads() as reads:
            statistics.update(features[:size], labels[:size], ignore_index=ignore_index)
        assert (len(lists), reads.names) == (1, [])


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    dtypes=st.lists(st.sampled_from([torch.float32, torch.float64, torch.int32, torch.bfloat16]), min_size=1),
    scale=st.sampled_from([1e-40, 1e-3, 1.0, 1e30]),
)
def test_batches_of_any_sizes_and_types_are_staged_together(seed, dtypes, scale):
    features, labels = make_data(seed, num_samples=600, mean=1.0, scale=10.0)
    statistics, start = ClassStatistics(NUM_CLASSES, second_moment=True), 0
    seen = []
    for index, dtype in enumerate(dtypes):
        stop = start + (1, 7, 50, 3)[index % 4]
        batch = (features[start:stop] * (1 if dtype == torch.int32 else scale)).to(dtype)
        statistics.update(batch, labels[start:stop])
        seen.append(batch.double())
        start = stop
        if index % 3 == 2:
            _ = statistics.within_class_second_moment
    exact, labels = torch.cat(seen), labels[:start]
    centred = exact - statistics.class_means[labels]
    expected = centred.T @ centred
    assert (statistics.within_class_second_moment - expected).norm() <= 1e-6 * expected.norm()
