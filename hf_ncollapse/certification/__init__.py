"""Check a trained network's numbers anew, in float64, from nothing but its weights and its data."""

from .certificate import Certificate, certify_network
from .claims import Check, Verification, certify

__all__ = ["Certificate", "Check", "Verification", "certify", "certify_network"]
