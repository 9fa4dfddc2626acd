"""`hf-ncollapse theory`: what it prints, to the last digit, and what it waits for."""

import subprocess
import sys
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest

COMMAND = """
import sys
from hf_ncollapse.cli import main
main(["theory", *sys.argv[1:]])
print(*{name.split(".")[0] for name in sys.modules}, file=sys.stderr)
"""


def run(arguments: str) -> tuple[dict[str, str], set[str]]:
    """The numbers that it prints, by their names, and the packages that it has imported."""
    command = [sys.executable, "-c", COMMAND, *arguments.split()]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = finished.stdout.splitlines()[1:-1]
    return {line[:16].strip(): line[16:30].strip() for line in lines}, set(finished.stderr.split())


def mse(counts: list[int], l2: Fraction, squared_radius: int) -> tuple[Fraction, Fraction]:
    """Fit and penalty without a bias: each class is a ridge regression on a feature orthogonal to the others'."""
    shares = [Fraction(count, sum(counts)) for count in counts]
    fit = sum(p * (l2 / (p * squared_radius + l2)) ** 2 for p in shares) / 2
    return fit, l2 / 2 * sum(p * p * squared_radius / (p * squared_radius + l2) ** 2 for p in shares)


def mse_with_bias(num_classes: int, l2: Fraction, squared_radius: int) -> tuple[Fraction, Fraction]:
    """Fit and penalty of equal classes: W is a simplex ETF times a norm, and leaves a share of every residual."""
    residual = l2 * (num_classes - 1) / (squared_radius + l2 * (num_classes - 1))
    fit = residual**2 * Fraction(num_classes - 1, num_classes) / 2
    return fit, residual**2 * squared_radius / (2 * num_classes * l2)


def cross_entropy(num_classes: int, l2: Fraction, radius: int) -> tuple[Fraction, Fraction]:
    """Fit and penalty of equal classes: convex in the norm of a class's row of W, whose derivative is bisected."""
    with localcontext(prec=50):
        penalty, slope = Decimal(float(l2)) * num_classes, Decimal(radius) * num_classes / (num_classes - 1)
        low, high = Decimal(0), slope / penalty
        for _ in range(150):
            norm = (low + high) / 2
            wrong = (num_classes - 1) * (-norm * slope).exp()
            low, high = (norm, high) if penalty * norm < slope * wrong / (1 + wrong) else (low, norm)
        return Fraction((1 + wrong).ln()), Fraction(penalty / 2 * norm**2)


L2 = Fraction(1, 200)


@pytest.mark.parametrize(
    ("arguments", "fit", "penalty"),
    [
        ("--class-counts 8 4 2 2 --loss mse --hidden-size 16", *mse([8, 4, 2, 2], L2, 16)),
        ("--classes 10 --loss mse", *mse([1] * 10, L2, 64)),
        ("--classes 10 --loss mse --classifier-bias --norm-scale unit", *mse_with_bias(10, L2, 1)),
        ("--classes 10", *cross_entropy(10, L2, 8)),
        ("--classes 3 --norm-scale unit --classifier-bias", *cross_entropy(3, L2, 1)),
    ],
)
def test_a_closed_form_is_printed_to_the_last_digit_without_torch(arguments, fit, penalty):
    printed, imported = run(f"--l2 0.005 {arguments}")
    assert not imported & {"torch", "transformers"}
    exact = {"fit": fit, "penalty": penalty, "J*": fit + penalty}
    assert {name: printed[name] for name in exact} == {name: f"{float(value):.10f}" for name, value in exact.items()}


def test_an_optimum_without_a_closed_form_is_certified_from_below():
    printed, imported = run("--l2 0.005 --class-counts 8 4 2 2 --norm-scale unit")
    assert printed["J*"] == "0.1374445919"  # found by a minimisation over free features too
    assert 0 <= float(printed["J*"]) - float(printed["lower bound"]) <= 1e-9
    assert "transformers" not in imported
