"""The metric against the floor of its arithmetic, in one process and on one thread.

    python benchmarks/metric.py

Every line is a ratio of times measured in turns in this run (the least of several), so that a busy machine moves both
alike, and the memory allocated above what was there before. The floors are what nobody can avoid: one float32 gemm
XᵀX for what needs Σ_W, and class sums with squared norms in float32 for what needs traces only.
"""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import resource
import threading
import time
from collections.abc import Callable

import torch

import hf_ncollapse
from hf_ncollapse.neural_collapse import measures
from hf_ncollapse.neural_collapse.class_statistics import ClassStatistics

BATCH = 512
ALL_BUT_NC4 = [name for name in measures.MEASURES if name != "nc4"]


def make_data(num_samples: int, width: int, num_classes: int):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_samples) % num_classes
    labels = labels[torch.randperm(num_samples, generator=generator)]
    centres = torch.randn(num_classes, width, generator=generator)
    features = torch.randn(num_samples, width, generator=generator).add_(centres[labels])
    return features, labels, centres


def batches(features, labels):
    return zip(features.split(BATCH), labels.split(BATCH), strict=True)


def class_sums(features, labels, num_classes):
    sums, squares = torch.zeros(num_classes, features.shape[1]), torch.zeros(num_classes)
    for batch, batch_labels in batches(features, labels):
        sums.index_add_(0, batch_labels, batch)
        squares.index_add_(0, batch_labels, batch.square().sum(1))


def engine(features, labels, classifier, names):
    names = measures.measure_names(names)
    statistics = ClassStatistics(len(classifier), second_moment="nc1_pinv" in names, directions="nc3" in names)
    for batch in batches(features, labels):
        statistics.update(*batch)
    return measures.compute(statistics, classifier=classifier, measures=names)


def through_evaluate(metric, features, labels, classifier, names):
    for batch, batch_labels in batches(features, labels):
        metric.add_batch(predictions=batch, references=batch_labels)
    return metric.compute(classifier=classifier, measures=names)


def least_seconds(*functions: Callable, repeats: int = 7) -> list[float]:
    """The least time of each function, called in turns."""
    best = [float("inf")] * len(functions)
    for _ in range(repeats):
        for index, function in enumerate(functions):
            start = time.perf_counter()
            function()
            best[index] = min(best[index], time.perf_counter() - start)
    return best


def peak_mib(function: Callable) -> float:
    """Resident memory that the call adds at its peak, in MiB, sampled every millisecond."""
    gc.collect()
    page = resource.getpagesize() / 2**20
    finished = threading.Event()
    with open("/proc/self/statm") as statm:

        def resident() -> float:
            statm.seek(0)
            return int(statm.read().split()[1]) * page

        start = peak = resident()

        def watch():
            nonlocal peak
            while not finished.wait(0.001):
                peak = max(peak, resident())

        watcher = threading.Thread(target=watch)
        watcher.start()
        function()
        finished.set()
        watcher.join()
    return peak - start


def report(what: str, seconds: float, floor: float, floor_name: str, limit: float | None, memory: float | None = None):
    bound = "" if limit is None else f" (limit {limit})"
    within = "" if memory is None else f", {memory:.0f} MiB"
    print(f"{what:62s} {seconds:7.3f} s = {seconds / floor:5.2f} × {floor_name}{bound}{within}")


def main():
    torch.set_num_threads(1)
    metric = hf_ncollapse.load_metric()
    for num_classes, limit in ((10, 1.4), (1000, 2.5)):
        features, labels, classifier = make_data(50_000, 512, num_classes)
        scale = f"N = 50,000, d = 512, K = {num_classes:,}"
        gemm, everything = least_seconds(
            lambda x=features: x.T @ x, lambda d=(features, labels, classifier): engine(*d, ALL_BUT_NC4)
        )
        memory = peak_mib(lambda d=(features, labels, classifier): engine(*d, ALL_BUT_NC4))
        report(f"{scale}: all measures but NC4", everything, gemm, "gemm", limit, memory)

        sums, traces, paper = least_seconds(
            lambda d=(features, labels, num_classes): class_sums(*d),
            lambda d=(features, labels, classifier): engine(*d, ["nc1", "nc2"]),
            lambda d=(features, labels, classifier): engine(*d, "paper"),
        )
        report(f"{scale}: traces only (nc1, nc2)", traces, sums, "class sums", 2)
        report(f"{scale}: the paper's nc1, nc2, nc3", paper, sums, "class sums", None)

        if num_classes == 10:
            for names, label in ((ALL_BUT_NC4, "all but NC4"), ("paper", "the paper's")):
                alone, wrapped = least_seconds(
                    lambda n=names, d=(features, labels, classifier): engine(*d, n),
                    lambda n=names, d=(features, labels, classifier): through_evaluate(metric, *d, n),
                )
                memory = peak_mib(lambda n=names, d=(features, labels, classifier): through_evaluate(metric, *d, n))
                report(f"{scale}: through evaluate, {label}", wrapped, alone, "engine", 1.5, memory)
        del features, labels, classifier

    num_classes, width = 50_257, 768
    features, labels, _ = make_data(64 * BATCH, width, num_classes)
    statistics = ClassStatistics(num_classes, directions=False)
    for batch in batches(features, labels):
        statistics.update(*batch)
    seconds = sorted(
        least_seconds(lambda b=batch: statistics.update(*b), repeats=3)[0] for batch in batches(features, labels)
    )
    tensors = [value for value in statistics.state_dict().values() if isinstance(value, torch.Tensor)]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / (num_classes * width * 8)
    median = seconds[len(seconds) // 2]
    print(
        f"K = 50,257, d = 768: update of 512 tokens, traces only: median {1000 * median:.2f} ms, "
        f"slowest {1000 * seconds[-1]:.2f} ms (limit 5); state {size:.2f} × K·d·8 bytes (limit 3)"
    )


if __name__ == "__main__":
    main()
