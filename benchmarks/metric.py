"""The metric against the floor of its arithmetic, in one process and on one thread.

    python benchmarks/metric.py [FOLDER]

With the folder of a checkout of github.com/rhubarbwu/neural-collapse, that package is timed beside this one.

Every line is a ratio of processor times measured in turns in this run (the least of several), so that a busy machine
moves both alike, and the memory allocated above what was there before. The floors are what nobody can avoid: one
float32 gemm XᵀX for what needs Σ_W, and class sums with squared norms in float32 for what needs traces only.
"""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import resource
import sys
import threading
import time
from collections.abc import Callable

import torch

import hf_ncollapse
from hf_ncollapse.neural_collapse.class_statistics import ClassStatistics
from hf_ncollapse.neural_collapse.compute import compute
from hf_ncollapse.neural_collapse.registry import MEASURES, measure_names, to_accumulate

BATCH = 512
ONE_PASS = [
    name
    for name, measure in MEASURES.items()
    if not {"batches", "out_of_distribution"} & measure.needs and measure.max_classes is None
]
# Those of the papers that named NC1 to NC4, without the eigenvalues and K×K matrices of later ones.
CLASSIC = [name for name in ONE_PASS if name.startswith(("nc1", "nc2", "gnc2", "nc3", "bias"))]


PEERS = ["nc1", "nc1_pinv", "nc1_cdnv", "nc2_means", "nc3_etf"]


def make_data(num_samples: int, width: int, num_classes: int):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_samples) % num_classes
    labels = labels[torch.randperm(num_samples, generator=generator)]
    centres = torch.randn(num_classes, width, generator=generator)
    features = torch.randn(num_samples, width, generator=generator).add_(centres[labels])
    return features, labels, centres


def batches(features, labels, batch_size=BATCH):
    return zip(features.split(batch_size), labels.split(batch_size), strict=True)


def class_sums(features, labels, num_classes):
    sums, squares = torch.zeros(num_classes, features.shape[1]), torch.zeros(num_classes)
    for batch, batch_labels in batches(features, labels):
        sums.index_add_(0, batch_labels, batch)
        squares.index_add_(0, batch_labels, batch.square().sum(1))


def engine(features, labels, classifier, names, batch_size=BATCH, look_again=False):
    statistics = ClassStatistics(len(classifier), **to_accumulate(measure_names(names)))
    for batch in batches(features, labels, batch_size):
        statistics.update(*batch)
    again = batches(features, labels, batch_size) if look_again else None
    return compute(statistics, classifier=classifier, measures=names, batches=again)


def through_evaluate(metric, features, labels, classifier, names):
    for batch, batch_labels in batches(features, labels):
        metric.add_batch(predictions=batch, references=batch_labels)
    return metric.compute(classifier=classifier, measures=names)


def least_seconds(*functions: Callable, repeats: int = 7) -> list[float]:
    """The least processor time of each function, called in turns: what others compute meanwhile does not count."""
    best = [float("inf")] * len(functions)
    for _ in range(repeats):
        for index, function in enumerate(functions):
            start = time.process_time()
            function()
            best[index] = min(best[index], time.process_time() - start)
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
    print(f"{what:62s} {seconds:7.3f} s = {seconds / floor:5.2f} × {floor_name}{bound}{within}", flush=True)


def measure_scale(num_classes: int, limits: dict[str, float]) -> None:
    """N = 50,000, d = 512: every way to compute, in turns with the gemm."""
    data = features, labels, _ = make_data(50_000, 512, num_classes)
    metric = hf_ncollapse.load_metric()
    streamed = hf_ncollapse.load_metric(measures="nc1", num_classes=num_classes)
    ways = {
        "traces only (nc1, nc2)": lambda: engine(*data, ["nc1", "nc2"]),
        "the paper's nc1, nc2, nc3": lambda: engine(*data, "paper"),
        "all of NC1 to NC3": lambda: engine(*data, CLASSIC),
        "all of one pass": lambda: engine(*data, ONE_PASS),
        "all of NC1 to NC4": lambda: engine(*data, [*CLASSIC, "nc4"], look_again=True),
        "nc1 through evaluate, streamed": lambda: through_evaluate(streamed, *data, "nc1"),
        "the paper's through evaluate, kept": lambda: through_evaluate(metric, *data, "paper"),
        "second moment in batches of 32": lambda: engine(*data, ["nc1_pinv"], batch_size=32),
    }
    if len(sys.argv) > 1 and num_classes <= 10:
        ways["the same five measures of NC1 to NC3, here"] = lambda: engine(*data, PEERS)
        ways["the same five measures of NC1 to NC3, peer"] = lambda: peer(*data)
    gemm, sums, *seconds = least_seconds(
        lambda: features.T @ features, lambda: class_sums(features, labels, num_classes), *ways.values(), repeats=5
    )
    report(f"K = {num_classes:,}: class sums and squared norms in float32", sums, gemm, "gemm", None)
    for (name, way), duration in zip(ways.items(), seconds, strict=True):
        report(f"K = {num_classes:,}: {name}", duration, gemm, "gemm", limits.get(name), peak_mib(way))


def peer(features, labels, classifier):
    """What rhubarbwu/neural-collapse has of NC1 to NC3, as its README computes it."""
    from neural_collapse import accumulate, measure

    shape = classifier.shape
    means_of, covariance_of, norms_of = (
        getattr(accumulate, f"{name}Accumulator")(*shape, "cpu") for name in ("Mean", "Covar", "VarNorm")
    )
    for batch in batches(features, labels):
        means_of.accumulate(*batch)
    means, centre = means_of.compute()
    for batch in batches(features, labels):
        covariance_of.accumulate(*batch, means)
        norms_of.accumulate(*batch, means)
    covariance, (norms, _) = covariance_of.compute(), norms_of.compute()
    measure.covariance_ratio(covariance, means, centre)
    measure.covariance_ratio(covariance, means, centre, "quotient")
    measure.variability_cdnv(norms, means, tile_size=64)
    measure.simplex_etf_error(means, centre)
    measure.self_duality_error(classifier, means, centre)


def measure_pairs(num_classes: int) -> None:
    """Each of the measures of pairs, of means that are there already."""
    features, labels, classifier = make_data(2 * num_classes, 512, num_classes)
    statistics = ClassStatistics(num_classes, directions=False)
    statistics.update(features, labels)
    for name in ("nc1_cdnv", "gnc2", "nc2_equiangular", "nc2_equiangular_classifier", "nc2_worst"):
        (seconds,) = least_seconds(
            lambda name=name: compute(statistics, classifier=classifier, measures=name), repeats=3
        )
        print(f"{f'K = {num_classes:,}, d = 512: {name}':62s} {seconds:7.3f} s (limit 1)", flush=True)


def measure_updates(num_classes: int, width: int) -> None:
    """Language models: the time of an update with 512 tokens."""
    features, labels, _ = make_data(64 * BATCH, width, num_classes)
    statistics = ClassStatistics(num_classes, directions=False)
    for batch in batches(features, labels):
        statistics.update(*batch)
    seconds = sorted(
        least_seconds(lambda b=batch: statistics.update(*b), repeats=3)[0] for batch in batches(features, labels)
    )
    print(
        f"K = {num_classes:,}, d = {width}: update of {BATCH} tokens, traces only: "
        f"median {1000 * seconds[len(seconds) // 2]:.2f} ms, slowest {1000 * seconds[-1]:.2f} ms (limit 5)"
    )


def measure_streaming(num_classes: int, width: int) -> None:
    """Language models: the memory that nc1 takes through evaluate, from the first batch to the value."""
    features, labels, _ = make_data(64 * BATCH, width, num_classes)
    for what, said in (("said at once", {"num_classes": num_classes}), ("learned", {})):
        metric = hf_ncollapse.load_metric(measures="nc1", **said)

        def whole(metric=metric):
            for batch, batch_labels in batches(features, labels):
                metric.add_batch(predictions=batch, references=batch_labels)
            metric.compute(num_classes=num_classes, absent="exclude")

        states = peak_mib(whole) / (16 * num_classes * width / 2**20)
        print(f"K = {num_classes:,}, d = {width}: streamed nc1, K {what}: {states:.1f} × the state of 16·K·d bytes")


def main():
    torch.set_num_threads(1)
    sys.path += sys.argv[1:]
    print("N = 50,000, d = 512, batches of 512, float32")
    of_few = {
        "traces only (nc1, nc2)": 0.2,
        "all of NC1 to NC3": 1.2,
        "nc1 through evaluate, streamed": 0.5,
        "second moment in batches of 32": 1.5,
    }
    measure_scale(10, of_few)
    measure_scale(1000, {"traces only (nc1, nc2)": 0.4, "all of NC1 to NC3": 2.5, "all of NC1 to NC4": 6})
    measure_pairs(10_000)
    measure_updates(50_257, 768)
    measure_streaming(50_257, 768)


if __name__ == "__main__":
    main()
