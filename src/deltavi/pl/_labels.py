"""Names beside points, placed one after the other where they cover neither each other nor much else."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.text import Text
from numpy.typing import ArrayLike, NDArray

from deltavi._errors import examples
from deltavi._types import FloatArray
from deltavi.pl._figure import DARK, GREY

logger = logging.getLogger("deltavi")


DISTANCES = (7.0, 13.0, 21.0, 31.0, 43.0, 57.0, 73.0)  # points, from the marker to the edge of the name
N_DIRECTIONS = 24
MARGIN = 1.5  # points of air around a name
MARKER_RADIUS = 2.0  # points
LINE_HEIGHT = 13  # points, of lines in a corner
# Cost of a place: each further point of distance, each marker covered, each leader covered or crossed, and each
# other named point that the leader runs through, which would seem to be the one named.
COST_DISTANCE = 0.05
COST_MARKER = 1.0
COST_LEADER = 5.0
COST_WRONG_POINT = 3.0
# Past this the name would do more harm than good.
MAX_COST = 5.0
N_LEADER_SAMPLES = 9


@dataclass
class _Canvas:
    """Positions in pixels of what is drawn so far: markers ``(n_markers, 2)``, boxes of texts and lines of leaders."""

    frame: FloatArray
    markers: FloatArray
    targets: FloatArray
    pixels_per_point: float
    taken: list[FloatArray]
    leaders: list[FloatArray] = field(default_factory=list)

    def free(self, boxes: FloatArray, paths: FloatArray) -> NDArray[np.bool_]:
        """Mask of the places in the frame whose text and leader overlap no other text."""
        inside = (boxes[:, :2] >= self.frame[:2]).all(axis=1) & (boxes[:, 2:] <= self.frame[2:]).all(axis=1)
        return np.asarray(inside & ~_overlap(boxes, self.taken) & ~_crosses_names(paths, self.taken))

    def cost(self, target: FloatArray, centres: FloatArray, boxes: FloatArray, distances: FloatArray) -> FloatArray:
        """Cost of each place, shape ``(n_places,)``."""
        radius = MARKER_RADIUS * self.pixels_per_point
        grown = boxes + np.array([-radius, -radius, radius, radius])
        cost = COST_DISTANCE * distances + COST_MARKER * _n_within(self.markers, grown)
        for leader in self.leaders:
            cost += COST_LEADER * ((_n_within(leader, boxes) > 0) | _crosses_leader(target, centres, leader))
        others = self.targets[(self.targets != target).any(axis=1)]
        return cost + COST_WRONG_POINT * _n_passed(target, centres, others, 2 * radius)

    def place(self, target: FloatArray, size: FloatArray) -> FloatArray | None:
        """Take the cheapest place for a name and return its centre, or None where there is no room."""
        centres, distances = _places(target, size, self.pixels_per_point)
        boxes = np.hstack([centres - size / 2, centres + size / 2])
        paths = _leader_samples(target, centres)
        cost = np.where(self.free(boxes, paths), self.cost(target, centres, boxes, distances), np.inf)
        best = int(np.argmin(cost))
        if cost[best] > MAX_COST:
            return None
        self.taken.append(boxes[best])
        self.leaders.append(paths[best])
        return np.asarray(centres[best])


def place_labels(
    ax: Axes,
    points: ArrayLike,
    names: Sequence[str],
    *,
    markers: ArrayLike | None = None,
    avoid: Sequence[Text] = (),
    fontsize: float | str = "small",
) -> list[Text]:
    """Write names beside points so that no two overlap; a name for which there is no room is left out.

    A thin leader joins each name to its point and runs through no other name.

    The limits of the axes must be final. Each name takes, in turn, the cheapest of a ring of places around its
    point, so names that matter most come first.

    Parameters
    ----------
    ax
        Axes to write on.
    points
        Points to name, shape ``(n_names, 2)``, in data units.
    names
        Their names.
    markers
        All points drawn, shape ``(n_markers, 2)``, which names should rather not cover.
    avoid
        Texts already on the axes that names must not cover.
    fontsize
        Size of the names.

    Returns
    -------
    The texts written, at most one per name.
    """
    # positions in pixels are known only once the layout of the figure has been worked out
    ax.figure.figure.draw_without_rendering()
    scale = ax.figure.figure.dpi / 72
    targets = _to_pixels(ax, points)
    covered = targets if markers is None else _to_pixels(ax, markers)
    canvas = _Canvas(_box(ax), covered, targets, scale, [_box(text) for text in avoid])
    written: dict[str, Text] = {}
    for target, name in zip(targets, names, strict=True):
        centre = canvas.place(target, _text_size(ax, name, fontsize) + 2 * MARGIN * scale)
        if centre is not None:
            written[name] = _write(ax, name, target, (centre - target) / scale, fontsize)
    left_out = [name for name in names if name not in written]
    if left_out:
        logger.info("There is no room to name %s.", examples(left_out))
    return list(written.values())


def write_lines(ax: Axes, lines: Sequence[tuple[str, str]], *, boxed: bool = False) -> list[Text]:
    """Write lines of text, each with its colour, into the upper left corner of `ax`.

    With `boxed`, points behind them are covered.
    """
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1} if boxed else None
    return [
        ax.annotate(
            text,
            xy=(0, 1),
            xycoords="axes fraction",
            xytext=(6, -6 - LINE_HEIGHT * i),
            textcoords="offset points",
            ha="left",
            va="top",
            fontsize="small",
            color=color,
            zorder=6,
            bbox=box,
        )
        for i, (text, color) in enumerate(lines)
    ]


def _to_pixels(ax: Axes, points: ArrayLike) -> FloatArray:
    return np.asarray(ax.transData.transform(np.asarray(points, dtype=np.float64).reshape(-1, 2)))


def _box(drawn: Axes | Text) -> FloatArray:
    """Left, lower, right and upper edge of something drawn, in pixels, shape ``(4,)``."""
    return np.asarray(drawn.get_window_extent().extents, dtype=np.float64)


def _text_size(ax: Axes, name: str, fontsize: float | str) -> FloatArray:
    """Width and height of a name, in pixels, shape ``(2,)``."""
    probe = ax.text(0.5, 0.5, name, fontsize=fontsize, transform=ax.transAxes)
    left, lower, right, upper = _box(probe)
    probe.remove()
    return np.array([right - left, upper - lower])


def _places(target: FloatArray, size: FloatArray, pixels_per_point: float) -> tuple[FloatArray, FloatArray]:
    """Centres of the places tried for a name, shape ``(n_places, 2)``, and their distances in points."""
    angles = np.linspace(0, 2 * np.pi, N_DIRECTIONS, endpoint=False)
    directions = np.column_stack([np.cos(angles), np.sin(angles)])
    # how far the centre must go for the edge of the name, not its centre, to be at the distance
    reach = (np.abs(directions) * size / 2).sum(axis=1)
    rings = [target + directions * (d * pixels_per_point + reach)[:, None] for d in DISTANCES]
    return np.vstack(rings), np.repeat(DISTANCES, N_DIRECTIONS)


def _overlap(boxes: FloatArray, taken: Sequence[FloatArray]) -> NDArray[np.bool_]:
    """Mask of the boxes that overlap any occupied box."""
    hit = np.zeros(len(boxes), dtype=bool)
    for other in taken:
        hit |= (boxes[:, :2] < other[2:]).all(axis=1) & (boxes[:, 2:] > other[:2]).all(axis=1)
    return hit


def _n_within(points: FloatArray, boxes: FloatArray) -> FloatArray:
    """Number of points, of shape ``(n_points, 2)``, that each box covers."""
    above = (points[None] > boxes[:, None, :2]).all(axis=2)
    below = (points[None] < boxes[:, None, 2:]).all(axis=2)
    return np.asarray((above & below).sum(axis=1), dtype=np.float64)


def _leader_samples(target: FloatArray, centres: FloatArray) -> FloatArray:
    """Points along the line from the marker to each place, shape ``(n_places, N_LEADER_SAMPLES, 2)``."""
    steps = np.linspace(0, 1, N_LEADER_SAMPLES + 1, endpoint=False)[1:]
    return np.asarray(target + steps[None, :, None] * (centres - target)[:, None])


def _crosses_names(paths: FloatArray, taken: Sequence[FloatArray]) -> NDArray[np.bool_]:
    """Mask of the places whose leader crosses an occupied box."""
    crosses = np.zeros(len(paths), dtype=bool)
    for box in taken:
        crosses |= np.any(np.all((paths > box[:2]) & (paths < box[2:]), axis=2), axis=1)
    return crosses


def _crosses_leader(target: FloatArray, centres: FloatArray, leader: FloatArray) -> NDArray[np.bool_]:
    """Mask of the places whose leader crosses another one, given by points along it."""
    start, end = leader[0], leader[-1]
    apart = _side(target, centres, start) * _side(target, centres, end) < 0
    around = _side(start, end, target) * _side(start, end, centres) < 0
    return np.asarray(apart & around)


def _n_passed(target: FloatArray, centres: FloatArray, others: FloatArray, radius: float) -> FloatArray:
    """Number of other points, of shape ``(n_others, 2)``, on the line from the marker to each place."""
    along = (centres - target)[:, None]
    across = (others - target)[None]
    nearest = np.clip((along * across).sum(axis=2) / (along**2).sum(axis=2), 0, 1)
    gaps = np.linalg.norm(across - nearest[..., None] * along, axis=2)
    return np.asarray((gaps < radius).sum(axis=1), dtype=np.float64)


def _side(start: FloatArray, end: FloatArray, point: FloatArray) -> FloatArray:
    """On which side of the line from `start` to `end` a point lies, as a signed area; shapes ``(..., 2)``."""
    along, across = end - start, point - start
    return np.asarray(along[..., 0] * across[..., 1] - along[..., 1] * across[..., 0])


def _write(ax: Axes, name: str, target: FloatArray, shift: FloatArray, fontsize: float | str) -> Text:
    """Write one name `shift` points away from its point, joined to it by a thin line."""
    return ax.annotate(
        name,
        xy=tuple(ax.transData.inverted().transform(target)),
        xytext=tuple(shift),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=fontsize,
        color=DARK,
        zorder=5,
        arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2},
        path_effects=[patheffects.withStroke(linewidth=2, foreground="white")],
    )
