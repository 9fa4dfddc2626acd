"""Batches that do not depend on the number of processes."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler


class ProcessBatchSampler(Sampler[Any]):
    """This process's share of every global batch, as index tensors.

    An epoch is one permutation, drawn from the seed and the epoch alone, cut into global batches; process r of P takes
    every P-th sample of each, from the r-th on. No sample is repeated or dropped, whatever P is (the usual samplers
    repeat some to even out), so a run computes the same steps on any number of processes. Shares of one batch differ
    by one sample at most; when a last batch holds fewer than P samples, some shares are empty.

    Args:
        num_samples: N ≥ 1.
        global_batch_size: samples a step, over all processes.
        process_index: r in [0, P).
        num_processes: P.
        seed: of the permutations; None keeps the data's order, as a batch of all samples does.
    """

    def __init__(
        self,
        num_samples: int,
        global_batch_size: int,
        process_index: int = 0,
        num_processes: int = 1,
        seed: int | None = None,
    ):
        self.num_samples = num_samples
        self.global_batch_size = global_batch_size
        self.process_index = process_index
        self.num_processes = num_processes
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_samples // self.global_batch_size)

    def __iter__(self) -> Iterator[torch.Tensor]:
        # A batch of all samples is a sum, which needs no order; in the data set's own it needs no copy either.
        if self.seed is None or self.num_samples <= self.global_batch_size:
            order = torch.arange(self.num_samples)
        else:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(self.num_samples, generator=generator)
        for batch in order.split(self.global_batch_size):
            yield batch[self.process_index :: self.num_processes]


class JointBatchSampler(Sampler[Any]):
    """The batches of several samplers, one after the other in each of its own.

    Args:
        samplers: with batches of the same sizes, and `set_epoch`.
    """

    def __init__(self, samplers: Sequence[Any]):
        self.samplers = samplers

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutations of this epoch."""
        for sampler in self.samplers:
            sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.samplers[0])

    def __iter__(self) -> Iterator[torch.Tensor]:
        for batches in zip(*self.samplers, strict=True):
            yield torch.cat(batches)


class BatchLoader(DataLoader[Any]):
    """A DataLoader whose `set_epoch` reaches its batch sampler, which is where the Trainer calls it.

    Without workers and pinned memory it does no more than cut the batches: a DataLoader's own iterator takes longer
    than a small batch does.
    """

    batch_sampler: ProcessBatchSampler | JointBatchSampler

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch's own iterator is one
        if self.num_workers or self.pin_memory:
            return super().__iter__()
        dataset = self.dataset
        rows_at = getattr(dataset, "__getitems__", lambda indices: [dataset[index] for index in indices])
        return (self.collate_fn(rows_at(indices)) for indices in self.batch_sampler)
