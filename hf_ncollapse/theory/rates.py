"""How fast collapse improves with depth."""


def expected_slopes() -> dict[str, float]:
    """Return the slopes of log gap, NC1, NC2 and NC3 in log of the number of blocks, at the global optimum.

    The penalty of the blocks, hence the gap J − J*, is O(1/L) up to logarithms, and the distance from the collapsed
    set is Õ(L^−1/2) (arXiv:2505.15239, section 4.2). Gap, NC1 and NC3 are quadratic in that distance, NC2 is linear
    in it. They are bounds on the optimum, which training need not reach: the paper itself expects slopes of its
    metrics in [−1/2, −1/4] and measured about −0.335.
    """
    return {"gap": -1.0, "nc1": -1.0, "nc2": -0.5, "nc3": -1.0}
