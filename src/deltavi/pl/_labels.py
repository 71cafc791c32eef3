"""Names beside points, placed one after the other where they cover neither each other nor much else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.text import Text
from numpy.typing import ArrayLike, NDArray

from deltavi.pl._figure import DARK, GREY

FloatArray = NDArray[np.float64]

DISTANCES = (7.0, 13.0, 21.0, 31.0, 43.0, 57.0, 73.0)  # points, from the marker to the edge of the name
N_DIRECTIONS = 24
MARGIN = 1.5  # points of air around a name
MARKER_RADIUS = 2.0  # points
# What a place costs: each further point of distance, each marker covered, each leader that it or its own crosses.
COST_DISTANCE = 0.05
COST_MARKER = 1.0
COST_LEADER = 5.0
# Past this the name would do more harm than good.
MAX_COST = 6.0
N_LEADER_SAMPLES = 9


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
    pixels_per_point = ax.figure.figure.dpi / 72
    targets = _to_pixels(ax, points)
    covered = _to_pixels(ax, points if markers is None else markers)
    taken = [_box(text) for text in avoid]
    leaders: list[FloatArray] = []
    written = []
    for target, name in zip(targets, names, strict=True):
        size = _text_size(ax, name, fontsize) + 2 * MARGIN * pixels_per_point
        centres, distances = _places(target, size, pixels_per_point)
        boxes = np.hstack([centres - size / 2, centres + size / 2])
        paths = _leader_samples(target, centres)
        free = _inside(boxes, _box(ax)) & ~_overlap(boxes, taken) & ~_crosses_names(paths, taken)
        radius = MARKER_RADIUS * pixels_per_point
        cost = COST_DISTANCE * distances + COST_MARKER * _n_within(covered, boxes + [-radius, -radius, radius, radius])
        for leader in leaders:
            cost += COST_LEADER * (_n_within(leader, boxes) > 0) + COST_LEADER * _crosses_leader(
                target, centres, leader
            )
        cost = np.where(free, cost, np.inf)
        best = int(np.argmin(cost))
        if cost[best] > MAX_COST:
            continue
        taken.append(boxes[best])
        leaders.append(paths[best])
        written.append(_write(ax, name, target, centres[best] - target, pixels_per_point, fontsize))
    return written


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


def _inside(boxes: FloatArray, frame: FloatArray) -> NDArray[np.bool_]:
    """Whether each box, shape ``(n_boxes, 4)``, lies within the frame."""
    return np.asarray((boxes[:, :2] >= frame[:2]).all(axis=1) & (boxes[:, 2:] <= frame[2:]).all(axis=1))


def _overlap(boxes: FloatArray, taken: Sequence[FloatArray]) -> NDArray[np.bool_]:
    """Whether each box overlaps any box that is taken."""
    hit = np.zeros(len(boxes), dtype=bool)
    for other in taken:
        hit |= (boxes[:, :2] < other[2:]).all(axis=1) & (boxes[:, 2:] > other[:2]).all(axis=1)
    return hit


def _n_within(points: FloatArray, boxes: FloatArray) -> FloatArray:
    """How many points, shape ``(n_points, 2)``, each box covers."""
    above = (points[None] > boxes[:, None, :2]).all(axis=2)
    below = (points[None] < boxes[:, None, 2:]).all(axis=2)
    return np.asarray((above & below).sum(axis=1), dtype=np.float64)


def _leader_samples(target: FloatArray, centres: FloatArray) -> FloatArray:
    """Points along the line from the marker to each place, shape ``(n_places, N_LEADER_SAMPLES, 2)``."""
    steps = np.linspace(0, 1, N_LEADER_SAMPLES + 1, endpoint=False)[1:]
    return np.asarray(target + steps[None, :, None] * (centres - target)[:, None])


def _crosses_names(paths: FloatArray, taken: Sequence[FloatArray]) -> NDArray[np.bool_]:
    """Whether the line to each place runs through a box that is taken."""
    crosses = np.zeros(len(paths), dtype=bool)
    for box in taken:
        crosses |= np.any(np.all((paths > box[:2]) & (paths < box[2:]), axis=2), axis=1)
    return crosses


def _crosses_leader(target: FloatArray, centres: FloatArray, leader: FloatArray) -> NDArray[np.bool_]:
    """Whether the line from the marker to each place crosses a leader, given by points along it."""
    start, end = leader[0], leader[-1]
    apart = _side(target, centres, start) * _side(target, centres, end) < 0
    around = _side(start, end, target) * _side(start, end, centres) < 0
    return np.asarray(apart & around)


def _side(start: FloatArray, end: FloatArray, point: FloatArray) -> FloatArray:
    """On which side of the line from `start` to `end` a point lies, as a signed area; shapes ``(..., 2)``."""
    along, across = end - start, point - start
    return np.asarray(along[..., 0] * across[..., 1] - along[..., 1] * across[..., 0])


def _write(
    ax: Axes, name: str, target: FloatArray, shift: FloatArray, pixels_per_point: float, fontsize: float | str
) -> Text:
    """Write one name at its place, joined to its point by a thin line."""
    return ax.annotate(
        name,
        xy=tuple(ax.transData.inverted().transform(target)),
        xytext=tuple(shift / pixels_per_point),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=fontsize,
        color=DARK,
        zorder=5,
        arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2},
        path_effects=[patheffects.withStroke(linewidth=2, foreground="white")],
    )
