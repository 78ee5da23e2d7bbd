"""What a phantom is made of and how it is scanned: numbers with units, checked when given."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ht_kernels.arguments import pair
from ht_kernels.errors import InputError

from .scan import LinearScan, SectorScan

SOUND_SPEED = 1540.0
"""Metres per second in soft tissue: what scanners assume."""


@dataclass(frozen=True)
class LesionKind:
    """What tells one kind of lesion from another.

    Attributes:
        contrast: echogenicity against the tissue it replaces, in dB.
        attenuation: factor on the tissue's own. Below 1 the tissue behind the lesion is brighter (posterior
            enhancement), above 1 darker (a shadow).
        irregularity: relative standard deviation of the outline's radius.
        elongation: width over height, the range it is drawn from.
        edge: width of the margin in mm.
    """

    contrast: float
    attenuation: float
    irregularity: float
    elongation: tuple[float, float]
    edge: float


KINDS = {
    "hypoechoic": LesionKind(-14.0, 0.9, 0.09, (1.1, 1.9), 0.5),
    "hyperechoic": LesionKind(9.0, 1.0, 0.05, (1.2, 2.0), 0.5),
    "cystic": LesionKind(-45.0, 0.15, 0.03, (1.0, 1.7), 0.2),
    "shadowing": LesionKind(-16.0, 2.0, 0.15, (0.7, 1.2), 0.9),
}
LABELS = ("none", *KINDS)
"""Names of the labels; a sample's label is an index into them."""


@dataclass(frozen=True)
class Interference:
    """A periodic artifact in the data of the beams.

    Attributes:
        kind: ``lines`` adds a signal of its own, as a power supply does; ``stripes`` modulates the gain from line to
            line, as grating lobes and dead elements do.
        cycles: periods over the scan's depth and over its width.
        level: for ``lines`` the signal against tissue at 0 dB, for ``stripes`` the swing of the gain, in dB.
    """

    kind: str = "lines"
    cycles: tuple[float, float] = (40.0, 0.0)
    level: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("lines", "stripes"):
            raise InputError(f"interference kind {self.kind!r} is unknown; expected lines or stripes")


@dataclass(frozen=True)
class Motion:
    """How tissue moves in a clip: all of it moves to and fro, and is squeezed towards the probe and released.

    Attributes:
        shift: amplitude to the side and in depth, in mm.
        strain: amplitude of the compression in depth; the width grows by as much (incompressible tissue, 2-D).
        period: frames of one cycle.
        decorrelation: frames after which motion out of the image plane has changed all scatterers.
    """

    shift: tuple[float, float] = (1.5, 0.8)
    strain: float = 0.05
    period: float = 30.0
    decorrelation: float = 90.0

    def __post_init__(self) -> None:
        _positive(self, "period", "decorrelation")
        if not abs(self.strain) < 0.5:
            raise InputError(f"strain is {self.strain}, expected a number between -0.5 and 0.5")


@dataclass(frozen=True)
class Phantom:
    """One scanned phantom. What is left to chance (tissue, outline, scatterers) follows from the seed of a simulation.

    Attributes:
        kind: a lesion of :data:`KINDS`, or ``none``.
        scan: geometry of the beams.
        size: (height, width) of the image.
        frequency: centre frequency in MHz.
        cycles: length of the pulse in wavelengths (full width at half of the amplitude).
        f_number: focal depth over aperture; the beam is ``wavelength * f_number`` wide at the focus.
        focus: depth of the focus in mm.
        focal_zone: distance from the focus at which the beam is sqrt(2) wider, in mm.
        looks: statistically independent images averaged into one (spatial or frequency compounding).
        attenuation: of tissue, one way, in dB/(cm MHz).
        tgc: time-gain compensation in dB per cm of depth; None for exactly what the tissue attenuates.
        noise: electronic noise before the compensation, in dB against tissue of 0 dB at the probe.
        gain: brightness of tissue of 0 dB, in dB relative to white.
        dynamic_range: from black to white, in dB.
        contrast: of the lesion in dB; None for its kind's own.
        layers: whether there are skin, fat, gland and muscle, or tissue of 0 dB everywhere.
        interference: a periodic artifact.
        motion: of clips.

    Raises:
        InputError: a value makes no sense.
    """

    kind: str = "hypoechoic"
    scan: LinearScan | SectorScan = field(default_factory=LinearScan)
    size: tuple[int, int] = (224, 224)
    frequency: float = 8.0
    cycles: float = 2.5
    f_number: float = 2.5
    focus: float = 18.0
    focal_zone: float = 14.0
    looks: int = 1
    attenuation: float = 0.6
    tgc: float | None = None
    noise: float = -75.0
    gain: float = -26.0
    dynamic_range: float = 60.0
    contrast: float | None = None
    layers: bool = True
    interference: Interference | None = None
    motion: Motion = field(default_factory=Motion)

    def __post_init__(self) -> None:
        if self.kind not in LABELS:
            raise InputError(f"lesion kind {self.kind!r} is unknown; expected one of {', '.join(LABELS)}")
        sides = pair(self.size)
        if sides is None or min(sides) < 8:
            raise InputError(f"size is {self.size!r}, expected a height and a width of 8 pixels or more")
        if self.looks < 1:
            raise InputError(f"looks is {self.looks}, expected 1 or more")
        _positive(self, "frequency", "cycles", "f_number", "focus", "focal_zone", "dynamic_range")
        if not self.attenuation >= 0:
            raise InputError(f"attenuation is {self.attenuation}, expected a number of dB/(cm MHz) from 0 on")

    @property
    def wavelength(self) -> float:
        """Wavelength in mm."""
        return SOUND_SPEED / self.frequency * 1e-3

    @property
    def pulse_width(self) -> float:
        """Axial full width at half maximum of the point-spread function in mm: half the pulse, for sound goes twice."""
        return self.cycles * self.wavelength / 2

    def beam_width(self, depth: Any) -> Any:
        """Lateral full width at half maximum of the point-spread function in mm, at a depth in mm.

        The diffraction limit at the focus, and a Gaussian beam's hyperbola around it (Szabo, Diagnostic Ultrasound
        Imaging, 2nd edition, chapter 6).
        """
        return self.wavelength * self.f_number * (1 + ((depth - self.focus) / self.focal_zone) ** 2) ** 0.5

    @property
    def attenuation_slope(self) -> float:
        """What tissue takes from its echoes, there and back, in dB per cm of depth."""
        return 2 * self.attenuation * self.frequency

    @property
    def label(self) -> int:
        """Index into :data:`LABELS`."""
        return LABELS.index(self.kind)


def _positive(values: object, *names: str) -> None:
    for name in names:
        value = getattr(values, name)
        if not (value > 0 and math.isfinite(value)):
            raise InputError(f"{name} is {value}, expected a positive number")
