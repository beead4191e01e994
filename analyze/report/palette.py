"""Colours that the colour-blind and a grey print tell apart; the page, figures and TensorBoard share them."""

from typing import NamedTuple

# Okabe and Ito's, which remain distinct under every common colour blindness; their yellow is darker, to show on white.
CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A800")
NOTHING = "#8a8f98"


class Ramp(NamedTuple):
    """A colour map: anchors at equal distances, between which colours are blended in sRGB."""

    light: tuple[str, ...]
    dark: tuple[str, ...]


# From 0 to 1, darker (on a dark page lighter) all the way.
SEQUENTIAL = Ramp(
    light=("#ffffff", "#cfe1f2", "#93c3df", "#4a98c9", "#1764ab", "#08306b"),
    dark=("#101419", "#12305a", "#1d5a9c", "#3f8fcb", "#8cc5e8", "#f2f9ff"),
)
# From -1 over 0 to 1: orange, nothing, blue.
DIVERGING = Ramp(
    light=("#7f3b08", "#d8730f", "#fdc68a", "#ffffff", "#9ccae8", "#2a7fbf", "#053061"),
    dark=("#ffd9ad", "#f08a24", "#7a3d0a", "#101419", "#0f3a61", "#3f8fcb", "#cfe9fb"),
)


def rgb(anchors: tuple[str, ...]) -> list[tuple[float, float, float]]:
    """The anchors of a colour map as numbers in [0, 1].

    Example:
        >>> rgb(("#ffffff", "#330000"))
        [(1.0, 1.0, 1.0), (0.2, 0.0, 0.0)]
    """
    return [tuple(int(anchor[at : at + 2], 16) / 255 for at in (1, 3, 5)) for anchor in anchors]  # pyright: ignore
