"""What a run of a sweep costs beside its training, and whether many of them use a process up.

    OMP_NUM_THREADS=1 python benchmarks/many_runs.py
    OMP_NUM_THREADS=1 python benchmarks/many_runs.py --workers 2

Trains 200 seeds of one block on 100 digits for 3 steps each, by the engine that the options of `hf-ncollapse train`
name. Prints the seconds a run, by the clock and of the CPUs of this process and those below it, from the end of the
20th to that of the last; and the largest resident memory and number of open files of these processes at both ends.
"""

import argparse
import tempfile
import time

import psutil
from transformers.utils.logging import disable_progress_bar

from hf_ncollapse.sweeps import make_engine, parse_engine, parse_recipe, run_sweep
from hf_ncollapse.sweeps.progress import SweepProgress

FIRST = 20
RECIPE = [
    "--sweep=many", "--architecture=L-RN1", "--dataset=digits", "--train_samples=100", "--test_samples=50",
    "--hidden_size=16", "--depths", "1", "--max_steps=3",
]  # fmt: skip


class Seen:
    """This process and those below it, now."""

    def __init__(self):
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        self.clock = time.perf_counter()
        self.cpu = sum(sum(process.cpu_times()[:4]) for process in processes)  # with ended children
        self.mebibytes = max(process.memory_info().rss for process in processes) / 2**20
        self.files = max(process.num_fds() for process in processes)


def main() -> None:
    """Run the sweep and print what its runs took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    options, engine = parser.parse_known_args()
    disable_progress_bar()
    seen: dict[int, Seen] = {}
    show_ended = SweepProgress.show_ended

    def look(progress: SweepProgress, count: int) -> None:
        show_ended(progress, count)
        if count in (FIRST, options.runs):
            seen.setdefault(count, Seen())

    SweepProgress.show_ended = look
    seeds = [str(seed) for seed in range(options.runs)]
    with tempfile.TemporaryDirectory() as folder:
        (recipe,), given = parse_recipe([*RECIPE, "--seeds", *seeds, "--output_dir", folder, *engine])
        run_sweep(recipe, make_engine(parse_engine(given)))
    first, last = seen[FIRST], seen[options.runs]
    runs = options.runs - FIRST
    print(f"{(last.clock - first.clock) / runs:.3f} s a run, {(last.cpu - first.cpu) / runs:.3f} s of CPUs")
    print(f"after {FIRST} runs: {first.mebibytes:.0f} MiB, {first.files} open files")
    print(f"after {options.runs} runs: {last.mebibytes:.0f} MiB, {last.files} open files")


if __name__ == "__main__":
    main()
