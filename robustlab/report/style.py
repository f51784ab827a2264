"""Colours and markers: the Okabe-Ito palette (safe for colour-blind readers) and one sequential scale."""

from __future__ import annotations

SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A6D00", "#56B4E9", "#5B4B8A", "#4D4D4D")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
INK = "#1b2733"
MUTED = "#5d6b79"
LINE = "#d8dee5"

# White to deep blue, even in lightness: the darker, the more accuracy is left.
_SCALE = (
    (247, 251, 255),
    (214, 230, 244),
    (171, 207, 230),
    (106, 174, 214),
    (55, 135, 192),
    (16, 91, 164),
    (8, 48, 107),
)


def series_colour(index: int) -> str:
    """The colour of the index-th model."""
    return SERIES[index % len(SERIES)]


def series_marker(index: int) -> str:
    """The marker of the index-th model; marker and colour repeat at different periods only past 8 models."""
    return MARKERS[(index + index // len(MARKERS)) % len(MARKERS)]


def heat(value: float) -> tuple[str, str]:
    """(background, text) as hex for a share in [0, 1]."""
    position = min(1.0, max(0.0, value)) * (len(_SCALE) - 1)
    index = min(int(position), len(_SCALE) - 2)
    part = position - index
    mixed = [round(a + (b - a) * part) for a, b in zip(_SCALE[index], _SCALE[index + 1], strict=True)]
    background = f"#{mixed[0]:02x}{mixed[1]:02x}{mixed[2]:02x}"
    return background, max(("#000000", "#ffffff"), key=lambda ink: contrast(background, ink))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two hex colours, 1 to 21 (WCAG 2.1)."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
