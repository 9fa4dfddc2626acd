"""What a sweep's repositories, branches and tag are called on the Hub."""

# Tells this package's repositories from others'.
TAG = "hf-ncollapse"


def model_repo(namespace: str, sweep: str, depth: int) -> str:
    """The repository of one depth; each seed is a branch of it."""
    return f"{namespace}/{sweep}-depth-{depth}"


def results_repo(namespace: str, sweep: str) -> str:
    """The data set with a sweep's results table."""
    return f"{namespace}/{sweep}-results"


def seed_branch(seed: int) -> str:
    """The branch of one seed in its depth's repository."""
    return f"seed-{seed}"
