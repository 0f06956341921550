"""Seeds derived by hash, so that all estimators see the same events and no run disturbs another."""

from __future__ import annotations

import hashlib
import json

import torch


def derive_seed(base: int, *labels: object) -> int:
    """A 63-bit seed from a base seed and labels, e.g. ``derive_seed(0, "data", toy, budget, design, repetition)``."""
    text = json.dumps([base, *(str(label) for label in labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def derive_generator(base: int, *labels: object) -> torch.Generator:
    """A generator seeded by `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(base, *labels))
