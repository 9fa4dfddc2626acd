"""Global batches that do not depend on the number of processes."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_ncollapse.data import TensorDataset
from hf_ncollapse.training.batches import BatchLoader, ProcessBatchSampler

SIZES = {
    "num_samples": st.integers(1, 60),
    "batch_size": st.integers(1, 70),
    "num_processes": st.integers(1, 5),
    "seed": st.one_of(st.none(), st.integers(0, 2**31)),
    "epoch": st.integers(0, 5),
}


def global_batches(num_samples, batch_size, num_processes, seed, epoch):
    """The batches of every process, put together step by step."""
    samplers = [
        ProcessBatchSampler(num_samples, batch_size, rank, num_processes, seed) for rank in range(num_processes)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return list(zip(*samplers, strict=True)), samplers


@given(**SIZES)
def test_an_epoch_has_every_sample_once_in_shares_of_equal_size(num_samples, batch_size, num_processes, seed, epoch):
    steps, samplers = global_batches(num_samples, batch_size, num_processes, seed, epoch)
    seen = torch.cat([share for shares in steps for share in shares])
    assert sorted(seen.tolist()) == list(range(num_samples))
    assert all(len(sampler) == len(steps) for sampler in samplers)
    for shares in steps:
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) <= batch_size


@given(**SIZES)
def test_the_global_batches_are_the_same_on_any_number_of_processes(
    num_samples, batch_size, num_processes, seed, epoch
):
    steps, _ = global_batches(num_samples, batch_size, num_processes, seed, epoch)
    alone, _ = global_batches(num_samples, batch_size, 1, seed, epoch)
    assert [sorted(torch.cat(shares).tolist()) for shares in steps] == [sorted(share.tolist()) for (share,) in alone]


def test_an_epochs_order_depends_on_the_seed_and_the_epoch_alone():
    def order(seed, epoch):
        sampler = ProcessBatchSampler(50, 7, seed=seed)
        sampler.set_epoch(epoch)
        torch.rand(3)  # another use of the global generator changes nothing
        return torch.cat(list(sampler)).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6
    assert order(None, 3) == list(range(50))


def test_a_batch_of_all_samples_keeps_their_order_and_is_no_copy():
    sampler = ProcessBatchSampler(9, 12, seed=0)
    (batch,) = sampler
    assert batch.tolist() == list(range(9))
    data = TensorDataset(pixel_values=torch.rand(9, 2), labels=torch.arange(9))
    for order, is_copy in ((batch, False), (batch.tolist(), False), (batch.flip(0), True), (batch[:8], True)):
        rows = data.batch(order)
        assert (rows["pixel_values"].data_ptr() != data.tensors["pixel_values"].data_ptr()) == is_copy
        assert torch.equal(rows["labels"], torch.as_tensor(order))


def test_the_loader_passes_the_epoch_on_to_its_sampler():
    loader = BatchLoader(list(range(10)), batch_sampler=ProcessBatchSampler(10, 4, seed=0), collate_fn=list)
    loader.set_epoch(1)
    first = list(loader)
    assert list(loader) == first
    loader.set_epoch(2)
    assert list(loader) != first
