"""Check the package on the GPU that is here: training, measurement, determinism, speed, memory.

    python benchmarks/gpu.py

Prints one line a check and exits with 1 when one fails. Where there is no GPU it says so and exits with 0.
"""

import copy
import sys
import time

import torch

from hf_ncollapse import CollapseResNetConfig, CollapseResNetForImageClassification
from hf_ncollapse.neural_collapse import measures
from hf_ncollapse.neural_collapse.class_statistics import ClassStatistics

STEPS, SAMPLES, CLASSES = 20, 512, 10
# Largest difference of a parameter from CPU training after STEPS steps, relative to the largest parameter.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


def network() -> CollapseResNetForImageClassification:
    """L-RN1 of depth 8, always the same."""
    torch.manual_seed(0)
    return CollapseResNetForImageClassification(CollapseResNetConfig(num_hidden_layers=8, num_labels=CLASSES))


def batch(device: str) -> dict[str, torch.Tensor]:
    """Class patterns under noise, so that there is something to learn; always the same."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(SAMPLES) % CLASSES
    patterns = torch.randn(CLASSES, 1, 28, 28, generator=generator)
    pixels = patterns[labels] + 0.5 * torch.randn(SAMPLES, 1, 28, 28, generator=generator)
    return {"pixel_values": pixels.to(device), "labels": labels.to(device)}


def optimizer_of(model, **options) -> torch.optim.Optimizer:
    """SGD, whose steps do not blow rounding errors up as Adam's first ones do; the penalty coupled."""
    groups = [{"params": [p], "weight_decay": model.l2_coefficient_of(name)} for name, p in model.named_parameters()]
    return torch.optim.SGD(groups, lr=0.1, **options)


def trained(device: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """All parameters after STEPS steps, on the CPU."""
    model, data = network().to(device), batch(device)
    optimizer = optimizer_of(model)
    for _ in range(STEPS):
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            loss = model(**data).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).cpu()


def measured(device: str) -> dict[str, float]:
    """NC1 and NC3 of an untrained network's features."""
    model, data = network(), batch("cpu")
    with torch.no_grad():
        features = model(**data).features.to(device)
    statistics = ClassStatistics(CLASSES)
    statistics.update(features, data["labels"].to(device))
    return {
        "nc1": float(measures.nc1(statistics)),
        "nc3": float(measures.nc3(statistics, model.classifier.weight.detach().to(device))),
    }


def seconds_of(step, repeats: int = 200) -> float:
    """Median seconds of a call, each waited for."""
    for _ in range(10):
        step()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def speeds() -> dict[str, float]:
    """Seconds a training step: eager, compiled, and replayed as a CUDA graph, which launches nothing by itself."""
    data = batch("cuda")

    def step_of(model, forward, optimizer):
        def step():
            optimizer.zero_grad(set_to_none=True)
            forward(**data).loss.backward()
            optimizer.step()

        return step

    model = network().cuda()
    initial = copy.deepcopy(model.state_dict())
    eager = step_of(model, model, optimizer_of(model, fused=True))
    result = {"eager": seconds_of(eager)}
    result["torch.compile"] = seconds_of(step_of(model, torch.compile(model), optimizer_of(model, fused=True)))
    model.load_state_dict(initial)
    captured = step_of(model, model, optimizer_of(model, fused=True))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            captured()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured()
    result["CUDA graph"] = seconds_of(graph.replay)
    return result


def main() -> int:
    """Run every check; the number that failed, at most 1."""
    if not torch.cuda.is_available():
        print("no GPU here: nothing was checked")
        return 0
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    torch.backends.cuda.matmul.allow_tf32 = False
    failed = False

    def report(what: str, difference: float, tolerance: float) -> None:
        nonlocal failed
        failed |= not difference <= tolerance
        print(f"{what}: {difference:.2e} (at most {tolerance:.0e}){'' if difference <= tolerance else '  FAILED'}")

    reference = trained("cpu")
    for dtype, tolerance in TOLERANCES.items():
        difference = (trained("cuda", dtype) - reference).abs().max() / reference.abs().max()
        report(f"{dtype} training on GPU against float32 on CPU, {STEPS} steps", difference.item(), tolerance)
    cpu, gpu = measured("cpu"), measured("cuda")
    for name in cpu:
        report(f"{name} on GPU against CPU, relative", abs(gpu[name] - cpu[name]) / abs(cpu[name]), 1e-9)
    torch.use_deterministic_algorithms(True)
    report("two trainings in deterministic mode", (trained("cuda") - trained("cuda")).abs().max().item(), 0.0)
    torch.use_deterministic_algorithms(False)

    torch.cuda.reset_peak_memory_stats()
    times = speeds()
    for name, seconds in times.items():
        print(f"{name}: {1 / seconds:,.0f} steps/s")
    print(f"launch-bound share of an eager step: {1 - times['CUDA graph'] / times['eager']:.0%}")
    print(f"largest memory: {torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
