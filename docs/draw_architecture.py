"""Draws ``architecture.svg`` from the imports: ``python docs/draw_architecture.py``. A test fails where the picture is another.

Rooms stand in columns; an arrow leads from a room to one that imports it. One that follows from two others is left out.
"""

import sys
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from test_architecture import EVERYWHERE, MODULES, ORDER, SOURCE, rooms_imported  # noqa: E402

PICTURE = ROOT / "docs" / "architecture.svg"
Graph = dict[str, set[str]]
Place = tuple[float, float]
COLUMN, ROW, BOX, HIGH, MARGIN = 140, 52, 92, 32, 20  # pixels

STYLE = (
    "text{font:15px sans-serif;fill:#1a1a1a;text-anchor:middle}rect{rx:6;fill:#e8f0fa;stroke:#3b6ea5}"
    "path{fill:none;stroke:#7a8794;stroke-width:1.4}.paper{fill:#fff;stroke:none}#tip path{fill:#7a8794;stroke:none}"
)
HEAD = (
    '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z"/></marker>'
)


def imports() -> Graph:
    """Room -> the rooms that it imports; rooms without code, and what every room may import, are left out."""
    found: Graph = {}
    for path in MODULES:
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room in ORDER and room not in EVERYWHERE and path.stat().st_size:
            found.setdefault(room, set()).update(rooms_imported(path) - EVERYWHERE - {room})
    return {room: found[room] for room in ORDER if room in found}


def shortest(graph: Graph) -> Graph:
    """The same without the imports that follow from others."""

    def reached(room: str) -> set[str]:
        return set().union(*({other} | reached(other) for other in graph[room]))

    return {room: own - set().union(*(reached(other) for other in own)) for room, own in graph.items()}


def columns(graph: Graph) -> list[list[str]]:
    """The rooms from left to right, each as near to those that import it as it can be."""
    before: dict[str, int] = {}
    for room in reversed(list(graph)):  # whoever imports a room stands behind it in the order
        before[room] = 1 + max((before[other] for other in before if room in graph[other]), default=-1)
    last = max(before.values())
    return [[room for room in graph if before[room] == last - column] for column in range(last + 1)]


def routes(graph: Graph, stand: list[list[str]]) -> list[list[str]]:
    """Each arrow as the rooms that it joins and, in every column between, a gap kept free for it, which is put into ``stand``."""
    column = {room: i for i, own in enumerate(stand) for room in own}
    found = []
    for room, own in graph.items():
        for other in sorted(own, key=ORDER.index):
            gaps = [f"{other} {i}" for i in range(column[other] + 1, column[room])]  # arrows of one room run together
            for i, gap in enumerate(gaps, column[other] + 1):
                if gap not in stand[i]:
                    stand[i].append(gap)
            found.append([other, *gaps, room])
    return found


def heights(stand: list[list[str]], arrows: list[list[str]]) -> dict[str, Place]:
    """Where everything stands: within its column in the order of the mean height of its neighbours."""
    tallest = max(map(len, stand))
    near: dict[str, set[str]] = {name: set() for own in stand for name in own}
    for arrow in arrows:
        for a, b in pairwise(arrow):
            near[a].add(b)
            near[b].add(a)
    place: dict[str, Place] = {}

    def height(name: str) -> float:
        known = [place[other][1] for other in near[name] if other in place]
        return sum(known) / len(known) if known else 0.0

    for sweep in range(8):
        for i, own in enumerate(stand[:: 1 if sweep % 2 else -1]):
            x = MARGIN + COLUMN * (i if sweep % 2 else len(stand) - 1 - i)
            own.sort(key=height)
            top = MARGIN + ROW * (tallest - len(own)) / 2
            place |= {name: (x, top + ROW * row) for row, name in enumerate(own)}
    return place


def svg() -> str:
    """The picture."""
    graph = shortest(imports())
    stand = columns(graph)
    arrows = routes(graph, stand)
    place = heights(stand, arrows)
    wide = 2 * MARGIN + COLUMN * (len(stand) - 1) + BOX
    high = 2 * MARGIN + ROW * (max(map(len, stand)) - 1) + HIGH
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}">']
    lines += [f"<title>Which room imports which</title><style>{STYLE}</style><defs>{HEAD}</defs>"]
    lines += [f'<rect class="paper" width="{wide}" height="{high}"/>']
    lines += [f'<path marker-end="url(#tip)" d="{_curve([place[name] for name in arrow])}"/>' for arrow in arrows]
    for room in graph:
        x, y = place[room]
        lines.append(f'<rect x="{x:g}" y="{y:g}" width="{BOX}" height="{HIGH}"/>')
        lines.append(f'<text x="{x + BOX / 2:g}" y="{y + 21:g}">{room}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _curve(places: list[Place]) -> str:
    """From the right edge of the first place to the left edge of the last, level through those between."""
    middle = HIGH / 2
    path = f"M{places[0][0] + BOX:g} {places[0][1] + middle:g}"
    for (x, y), (to, at) in pairwise(places):
        start, bend = x + BOX, (x + BOX + to) / 2
        path += f"L{start:g} {y + middle:g}C{bend:g} {y + middle:g} {bend:g} {at + middle:g} {to:g} {at + middle:g}"
    return path


if __name__ == "__main__":
    PICTURE.write_text(svg(), encoding="utf-8")
    print(f"{PICTURE} drawn")
