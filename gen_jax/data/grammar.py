"""Captions of scenes of coloured shapes: a small grammar that writes them, and a parser that reads them back.

A scene is a tuple of one to three things, each with a shape, a colour, a size and a place of a 3x3 grid. A caption may
leave out sizes and places, and may state relations instead ("a red star left of a blue circle"). What it states is a
`Description`: `parse` returns it, and `score` compares it with a scene.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from gen_jax.method import UserError, did_you_mean

T = TypeVar("T")

# The first word of each is its name, the others mean the same.
SHAPES = (("circle", "disc"), ("square", "box"), ("triangle",), ("star",), ("cross", "plus"))
COLOURS = (("red",), ("green",), ("blue",), ("yellow",), ("purple", "violet"), ("white",))
SIZES = (("small", "little", "tiny"), ("large", "big"))
PLACES = (  # row by row
    ("at the top left", "in the top left corner", "in the upper left corner"),
    ("at the top", "at the top centre"),
    ("at the top right", "in the top right corner", "in the upper right corner"),
    ("on the left", "on the left side"),
    ("in the middle", "in the centre"),
    ("on the right", "on the right side"),
    ("at the bottom left", "in the bottom left corner", "in the lower left corner"),
    ("at the bottom", "at the bottom centre"),
    ("at the bottom right", "in the bottom right corner", "in the lower right corner"),
)
RELATIONS = (("left of", "to the left of"), ("right of", "to the right of"), ("above", "over"), ("below", "under"))
MOST = 3  # things in a scene
ATTRIBUTES = ("shape", "colour", "size", "place", "relation", "number")


class Thing(NamedTuple):
    """A thing of a scene: positions in SHAPES, COLOURS, SIZES and PLACES; None where a caption does not say."""

    shape: int
    colour: int
    size: int | None
    place: int | None


Scene = tuple[Thing, ...]


class Description(NamedTuple):
    """What a caption states.

    Attributes:
      things: in the order in which it names them.
      relations: (i, relation, j): thing i is in this relation, a position in RELATIONS, to thing j.
    """

    things: Scene
    relations: tuple[tuple[int, int, int], ...] = ()


def holds(relation: int, place: int, other: int) -> bool:
    """Returns whether a thing at `place` is in a relation to one at `other`.

    Example:
      >>> holds(0, place=0, other=2), holds(2, place=0, other=2)  # left of; above
      (True, False)
    """
    (row, column), (other_row, other_column) = divmod(place, 3), divmod(other, 3)
    return (column < other_column, column > other_column, row < other_row, row > other_row)[relation]


def write(scene: Scene, pick: Callable[[int], int], whole: bool = False) -> str:
    """Returns a caption of a scene.

    Args:
      scene: with all sizes and places.
      pick: n -> a number below n, by which words and sentences are chosen.
      whole: whether it states every size and place.

    Example:
      >>> scene = (Thing(3, 1, 0, 3), Thing(0, 0, 1, 8))
      >>> write(scene, lambda n: 0, whole=True)
      'a small green star on the left and a large red circle at the bottom right'
      >>> write(scene, lambda n: n - 1)
      'a picture of a red disc under a green star'
    """

    def one(options: Sequence[T]) -> T:
        return options[pick(len(options))]

    def named(thing: Thing) -> str:
        size = [one(SIZES[thing.size or 0])] if whole or pick(2) == 0 else []
        return " ".join(["a", *size, one(COLOURS[thing.colour]), one(SHAPES[thing.shape])])

    def placed(thing: Thing) -> str:
        return one(PLACES[thing.place or 0])

    def related(a: Thing, b: Thing) -> str:
        return one(RELATIONS[one([r for r in range(len(RELATIONS)) if holds(r, a.place or 0, b.place or 0)])])

    def plainly(*things: Thing) -> str:
        *most, last = (f"{named(thing)} {placed(thing)}" for thing in things)
        return f"{', '.join(most)} and {last}" if most else last

    def reversely(*things: Thing) -> str:
        return ", ".join(f"{placed(thing)} is {named(thing)}" for thing in things)

    def by_relation(a: Thing, b: Thing, *others: Thing) -> str:
        return ", and ".join([f"{named(a)} {related(a, b)} {named(b)}", *(f"{named(c)} {placed(c)}" for c in others)])

    ways = [plainly, reversely] if whole or len(scene) == 1 else [plainly, reversely, by_relation, by_relation]
    start = pick(len(scene))
    sentence = one(ways)(*scene[start:], *scene[:start])
    opened = one(("", "there is ", "a picture of ")) if sentence.startswith("a ") else ""
    return opened + sentence


def _any(table: Sequence[Sequence[str]]) -> str:
    return "|".join(sorted(itertools.chain(*table), key=len, reverse=True))


def _number(table: Sequence[Sequence[str]], words: str | None) -> int | None:
    return next((number for number, same in enumerate(table) if words in same), None)


_THING = re.compile(rf"a (?:({_any(SIZES)}) )?({_any(COLOURS)}) ({_any(SHAPES)})\b")
_BEFORE = re.compile(rf"(?:there is |a picture of )?(?:({_any(PLACES)}) is )?")
_BETWEEN = re.compile(rf"(?: ({_any(PLACES)}))?(?: ({_any(RELATIONS)}) |(?:, and | and |, )(?:({_any(PLACES)}) is )?)")
_AFTER = re.compile(rf"(?: ({_any(PLACES)}))?\.?")
_KNOWN = sorted({*re.findall(r"[a-z]+", _THING.pattern + _BETWEEN.pattern), "there", "picture", "of"} - {"b"})


def parse(caption: str) -> Description:
    """Returns what a caption states; the inverse of `write`, for what it wrote.

    Raises:
      UserError: a word, or a sentence, that the grammar does not have.

    Example:
      >>> parse("at the top is a violet plus, on the right side is a tiny red box").things
      (Thing(shape=4, colour=4, size=None, place=1), Thing(shape=1, colour=0, size=0, place=5))
      >>> parse("a red star left of a blue disc").relations
      ((0, 0, 1),)
    """
    text = " ".join(caption.lower().split())
    for word in re.findall(r"[^\s,.]+", text):
        if word not in _KNOWN:
            raise UserError(f"the caption {caption!r} has the word {word!r}: {did_you_mean(word, _KNOWN)}".rstrip(": "))
    found = list(_THING.finditer(text))
    ends = [0, *(each.end() for each in found)]
    starts = [*(each.start() for each in found), len(text)]
    parts = [text[end:start] for end, start in zip(ends, starts, strict=True)]
    forms = [_BEFORE, *[_BETWEEN] * (len(found) - 1), _AFTER]
    joints = [form.fullmatch(part) for form, part in zip(forms, parts, strict=False)]
    if not 1 <= len(found) <= MOST or not all(joints):
        raise UserError(f"the caption {caption!r} is no sentence of the grammar, such as {_EXAMPLE!r}")
    return _described([each.groups() for each in found], [joint.groups() for joint in joints if joint])


_EXAMPLE = "a small red star at the top left and a blue circle on the right"


def _described(named: list[tuple[str | None, ...]], joints: list[tuple[str | None, ...]]) -> Description:
    """From the words of each thing and those before, between and after them."""
    places: list[str | None] = [None] * len(named)
    relations = []
    places[0] = joints[0][0]
    for number, (after, relation, before) in enumerate(joints[1:-1]):
        places[number], places[number + 1] = places[number] or after, before
        if relation is not None:
            relations.append((number, _number(RELATIONS, relation) or 0, number + 1))
    places[-1] = places[-1] or joints[-1][0]
    things = tuple(
        Thing(
            _number(SHAPES, shape) or 0, _number(COLOURS, colour) or 0, _number(SIZES, size), _number(PLACES, place)
        )
        for (size, colour, shape), place in zip(named, places, strict=True)
    )  # fmt: skip
    return Description(things, tuple(relations))


def score(description: Description, scene: Scene) -> dict[str, tuple[int, int]]:
    """Returns for each of ATTRIBUTES how many of the statements about it are true of a scene, and how many there are.

    Things of the description are taken for those things of the scene for which most statements are true.

    Example:
      >>> told = parse("a red star left of a blue circle")
      >>> score(told, (Thing(3, 0, 0, 8), Thing(0, 2, 0, 0)))["relation"]
      (0, 1)
    """
    slots: list[Thing | None] = [*scene, *[None] * len(description.things)]  # a thing may be missing
    found = (_score(description, which) for which in itertools.permutations(slots, len(description.things)))
    best = max(found, key=lambda right: sum(right.values()))
    stated = {
        "shape": len(description.things),
        "colour": len(description.things),
        "size": sum(thing.size is not None for thing in description.things),
        "place": sum(thing.place is not None for thing in description.things),
        "relation": len(description.relations),
        "number": 1,
    }
    best["number"] = int(len(scene) == len(description.things))
    return {name: (best[name], stated[name]) for name in ATTRIBUTES}


def _score(description: Description, which: Sequence[Thing | None]) -> dict[str, int]:
    right: dict[str, int] = dict.fromkeys(ATTRIBUTES, 0)
    for told, thing in zip(description.things, which, strict=True):
        for name in ("shape", "colour", "size", "place"):
            value = getattr(told, name)
            right[name] += thing is not None and value is not None and getattr(thing, name) == value
    for i, relation, j in description.relations:
        a, b = which[i], which[j]
        right["relation"] += a is not None and b is not None and holds(relation, a.place or 0, b.place or 0)
    return right
