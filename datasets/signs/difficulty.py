"""How hard the signs are: every range that a crop's appearance is drawn from."""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True)
class Difficulty:
    """Ranges are uniform; probabilities say how often an effect appears; lengths are in pixels of the 64-pixel crop."""

    # pose
    radius: Range = (13.0, 27.0)
    roll_degrees: float = 15.0
    tilt_degrees: float = 46.0
    shift: float = 5.0
    # resolution and blur
    coarse_probability: float = 0.55
    coarse: Range = (1.2, 2.9)
    defocus_probability: float = 0.35
    defocus: Range = (0.4, 1.6)
    motion_probability: float = 0.25
    motion: Range = (2.0, 6.5)
    # light
    gain: Range = (0.45, 1.2)
    gamma: Range = (0.65, 1.6)
    cast: float = 0.14
    fog_probability: float = 0.25
    fog: Range = (0.2, 0.66)
    shadow_probability: float = 0.35
    shadow: Range = (0.4, 0.8)
    glare_probability: float = 0.2
    glare: Range = (0.15, 0.6)
    # surface and surroundings
    dirt_probability: float = 0.35
    fade: float = 0.45
    occlusion_probability: float = 0.33
    occlusion: Range = (0.1, 0.38)
    neighbour_probability: float = 0.25
    pole_probability: float = 0.6
    # sensor
    noise: Range = (0.5, 14.0)


DEFAULT = Difficulty()
