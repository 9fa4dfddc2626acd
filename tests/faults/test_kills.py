"""A sweep killed at any file operation, and a publication killed at any request, end as if nothing had happened."""

import pytest
from kills import KillingHub, end_code, end_of, run_process, start_process, train

TINY = [
    *("--sweep", "tiny", "--architecture", "L-RN1", "--dataset", "digits", "--train_samples", "60"),
    *("--test_samples", "20", "--hidden_size", "12", "--depths", "1", "2", "--initialization", "continuation"),
    *("--per_device_train_batch_size", "30", "--max_steps", "3", "--eval_steps", "3", "--use_cpu"),
]
PARTS = 8


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[int, dict]:
    """How many file operations a sweep has, and what it comes to."""
    folder, count = tmp_path_factory.mktemp("undisturbed"), tmp_path_factory.mktemp("count") / "operations"
    assert run_process(train, TINY, folder, None, count) == 0
    return int(count.read_text()), end_of(folder)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_a_sweep_killed_at_any_file_operation_ends_in_the_same_table_and_files(part, undisturbed, tmp_path, capsys):
    operations, end = undisturbed
    assert operations > 100
    lost = []
    tried = range(1 + part, operations + 1, PARTS)
    for number in tried:
        folder = tmp_path / str(number)
        folder.mkdir()
        assert run_process(train, TINY, folder, number) == -9
        if run_process(train, TINY, folder) != 0 or end_of(folder) != end:
            lost.append(number)
    with capsys.disabled():
        print(f"\nkilled at {len(tried)} of {operations} file operations, {len(tried) - len(lost)} ended the same")
    assert lost == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_a_sweep_goes_on_when_one_of_its_two_workers_is_killed(part, tmp_path, capsys):
    two_chains = [*TINY, "--seeds", "0", "1"]
    count = tmp_path / "operations"
    assert run_process(train, two_chains, tmp_path / "alone", None, count) == 0
    end, operations = end_of(tmp_path / "alone"), int(count.read_text())
    killed, lost = 0, []
    for number in range(1 + 8 * part, operations // 2 + 1, 16):  # a worker has about half of them
        folder = tmp_path / str(number)
        folder.mkdir()
        doomed, other = start_process(train, two_chains, folder, number), start_process(train, two_chains, folder)
        killed += end_code(doomed) == -9
        goes_on = end_code(other) == 0 and end_of(folder)["tiny/results.csv"] == end["tiny/results.csv"]
        # What the one was writing stays under another name until the next start.
        if not goes_on or run_process(train, two_chains, folder) != 0 or end_of(folder) != end:
            lost.append(number)
    with capsys.disabled():
        print(f"\none of two workers killed at {killed} file operations, {len(lost)} ended otherwise")
    assert killed > 10
    assert lost == []


def state_of(hub: KillingHub) -> dict:
    """Every file of every branch, the number of commits, and what the Collections say."""
    state = {}
    for key, repository in hub.store.repositories.items():
        state[key] = {branch: repository.files(branch) for branch in repository.branches}, len(repository.commits)
    for collection in hub.store.collections.values():
        state[collection["title"]] = [(item["type"], item["id"], item["note"]["text"]) for item in collection["items"]]
    return state


@pytest.mark.slow
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_a_publication_killed_at_any_request_is_completed_by_the_next_start(done, tmp_path, capsys):
    folder = tmp_path / "runs"
    assert run_process(train, TINY, folder) == 0
    with KillingHub() as hub:
        assert hub.publish(folder / "tiny") == 0
        requests, state = hub.asked, state_of(hub)
    assert requests > 20
    lost = []
    for number in range(1, requests + 1):
        with KillingHub(number, done) as hub:
            assert hub.publish(folder / "tiny") == -9
            if hub.publish(folder / "tiny") != 0 or state_of(hub) != state:
                lost.append(number)
    with capsys.disabled():
        print(f"\nkilled at {requests} requests, {requests - len(lost)} completed the same")
    assert lost == []
