"""A generator for the tests of the machinery: no physics, no packages, and a way to die at a chosen chunk."""

import os
import signal
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from touchneedle.toys.generated import Chunk, CrossSection

DIE_AT = "FAKE_GENERATOR_DIES_AT"


@dataclass
class FakeConfig:
    scale: float = 1.0


class FakeGenerator:
    """Standard normals times a scale; those above zero are selected."""

    Config = FakeConfig
    version: ClassVar[str] = "1"
    packages: ClassVar[tuple[str, ...]] = ("numpy",)
    extra: ClassVar[str] = "hep"

    def __init__(self, config):
        self.config = config

    def chunk(self, n, seed):
        if os.environ.get(DIE_AT) == str(seed.spawn_key[0]):
            os.kill(os.getpid(), signal.SIGKILL)
        x = self.config.scale * np.random.default_rng(seed).standard_normal(n)
        chosen = {"x": x[x > 0].astype(np.float32), "sign": np.ones(int((x > 0).sum()), dtype=np.int8)}
        return Chunk(chosen, {"all": CrossSection(pb=100 + float(x.mean()), stderr=float(x.std()) / n**0.5)})


class Absent(FakeGenerator):
    """One whose package nobody has."""

    packages = ("no-such-package-anywhere",)
