"""Colours of cell types and batches: as many as are needed, each as far from the others as can be.

The first seven are Okabe and Ito's, which colour-blind readers can tell apart. Every further one is, of a grid of colours, the
one farthest from all before it, white, black and grey (the method of Glasbey et al. 2007, doi 10.1002/col.20327), by the
distance in OKLab (Ottosson 2020, https://bottosson.github.io/posts/oklab/).
"""

from collections.abc import Sequence
from functools import cache

import numpy as np

from .labels import UNASSIGNED

FIRST = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#8C6D00"]

GREY = "#BBBBBB"  # of annotated cells behind the target's, and behind the hatches of bars of `Unassigned` ones
DARK_GREY = "#5F5F5F"  # of the target's cells without a type

AVOIDED = ["#FFFFFF", "#000000", "#BBBBBB", "#D9D9D9"]  # paper, letters, and cells without a type

LIGHTNESS = 0.38, 0.82  # of OKLab: darker ones look alike, lighter ones are lost on paper

LEAST_CHROMA = 0.055  # less is nearly grey

LEVELS = np.linspace(0, 1, 12)  # of red, green and blue in the grid


def distinct_colours(n: int) -> list[str]:
    """Return n colours (`#RRGGBB`), no two alike; the first are the same for every n.

    >>> distinct_colours(2), len(set(distinct_colours(60)))
    (['#0072B2', '#E69F00'], 60)
    """
    most = 1 << max(5, (n - 1).bit_length())  # few different lengths are computed
    colours = _colours(most)
    return [colours[i % len(colours)] for i in range(n)]


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name, by its place among them; `Unassigned` is dark grey.

    >>> colours_of(["B", "T", "Unassigned"])
    {'B': '#0072B2', 'T': '#E69F00', 'Unassigned': '#5F5F5F'}
    """
    others = [name for name in names if name != UNASSIGNED]
    found = dict(zip(others, distinct_colours(len(others)), strict=True))
    return {name: found.get(name, DARK_GREY) for name in names}


@cache
def _colours(n: int) -> tuple[str, ...]:
    grid = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS, indexing="ij"), axis=-1).reshape(-1, 3)
    places = _oklab(grid)
    chroma = np.hypot(places[:, 1], places[:, 2])
    fits = (LIGHTNESS[0] <= places[:, 0]) & (places[:, 0] <= LIGHTNESS[1]) & (chroma >= LEAST_CHROMA)
    grid, places = grid[fits], places[fits]
    chosen = FIRST[:n]
    taken = _oklab(np.array([_rgb(name) for name in (*chosen, *AVOIDED)]))
    distance = np.linalg.norm(places[:, None] - taken[None], axis=-1).min(axis=1)
    while len(chosen) < min(n, len(grid)):
        best = int(distance.argmax())
        chosen.append("#" + "".join(f"{round(255 * level):02X}" for level in grid[best]))
        distance = np.minimum(distance, np.linalg.norm(places - places[best], axis=1))
    return tuple(chosen)


def _rgb(name: str) -> list[float]:
    return [int(name[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def _oklab(rgb: np.ndarray) -> np.ndarray:
    """Return colours (n, 3; red, green and blue from 0 to 1, sRGB) in OKLab, (n, 3)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_lms = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    lab: np.ndarray = np.cbrt(linear @ np.array(to_lms).T) @ np.array(to_lab).T
    return lab
