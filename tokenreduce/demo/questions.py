"""Questions about a scene, their true answers, and whether sampled frames show the evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tokenreduce.demo.world import COLORS, DIRECTIONS, PARTS, SHAPES, SIDE, STAR, Scene, Star, Thing

# Each kind's ways of asking. {c} {s} name a thing; {o} is "object", "shape" or "thing".
PHRASES: dict[str, tuple[str, ...]] = {
    "color": (
        "What color is the {s}?",
        "What colour is the {s}?",
        "What is the color of the {s}?",
        "Which colour does the {s} have?",
        "Tell me the color of the {s}.",
    ),
    "shape": (
        "What shape is the {c} {o}?",
        "What is the shape of the {c} {o}?",
        "Which shape does the {c} {o} have?",
        "What is the {c} {o}?",
    ),
    "motion": (
        "In which direction does the {c} {s} move?",
        "Which way does the {c} {s} move?",
        "What direction does the {c} {s} go?",
        "How does the {c} {s} move?",
        "Where does the {c} {s} go?",
    ),
    "count": (
        "How many {o}s are there, not counting stars?",
        "How many {o}s appear in the video, not counting stars?",
        "Without the stars, how many {o}s are there in the video?",
        "How many different {o}s can be seen besides stars?",
    ),
    "exist": (
        "Is there a {c} {s} in the video?",
        "Does a {c} {s} appear?",
        "Can you see a {c} {s}?",
        "Is a {c} {s} shown in the video?",
    ),
    "order": (
        "Which appears first, the {c} {s} or the {c2} {s2}?",
        "What comes first: the {c} {s} or the {c2} {s2}?",
        "Which {o} appears earlier, the {c} {s} or the {c2} {s2}?",
    ),
    "needle_color": (
        "What colour is the star that appears briefly?",
        "What color is the star that appears briefly?",
        "What color is the star?",
        "What is the colour of the star that flashes?",
        "Which color does the brief star have?",
    ),
    "needle_when": (
        "When does the {star} appear?",
        "In which part of the video does the {star} appear?",
        "When is the {star} shown?",
        "Does the {star} appear at the beginning, in the middle or at the end?",
    ),
    "needle_exist": (
        "Does a {star} appear in the video?",
        "Is there a {star} at any time?",
        "Does a {star} appear briefly?",
        "Can you see a {star} in the video?",
    ),
    "star_order": (
        "What color is the {nth} star?",
        "What colour is the {nth} star that appears?",
        "What is the color of the {nth} star?",
    ),
}
KINDS = tuple(PHRASES)
NEEDLES = ("needle_color", "needle_when", "needle_exist", "star_order")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
NOUNS = ("object", "shape", "thing")
MOVED = 0.6  # share of a thing's path that the sampled frames must span to show its direction


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its one true answer, and the indices of what the answer depends on.

    `things` and `stars` index the scene's; a negative answer depends on nothing shown.
    """

    kind: str
    text: str
    answer: str
    things: tuple[int, ...] = ()
    stars: tuple[int, ...] = ()


def ask(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Every kind of question that fits the scene, phrased at random, in random order."""
    found = [question for maker in _MAKERS for question in maker(scene, rng)]
    return [found[index] for index in rng.permutation(len(found))]


def answerable(scene: Scene, question: Question, times: Sequence[float]) -> bool:
    """Whether frames at these times (seconds, ascending) show what the answer rests on."""
    things = [scene.things[index] for index in question.things]
    sightings = [_sightings(thing, times) for thing in things]
    sightings += [_sightings(scene.stars[index], times) for index in question.stars]
    if not all(sightings):
        return False
    if question.kind == "motion":
        return _moves(things[0], sightings[0])
    if question.kind == "order":
        return (sightings[0][0] < sightings[1][0]) == (question.answer == _name(things[0])) and (
            sightings[0][0] != sightings[1][0]
        )
    if question.kind == "needle_when":
        return len(times) >= 4
    if question.kind == "star_order":
        return sightings[0][0] != sightings[1][0]
    return True


def vocabulary() -> frozenset[str]:
    """All words of the world's questions and answers, in lower case."""
    fills = [*COLORS, *SHAPES, STAR, *DIRECTIONS, *NUMBERS, *NOUNS, *PARTS, "yes", "no"]
    fills += [*(f"{noun}s" for noun in (*NOUNS, STAR)), "first", "second", "last"]
    words = set(fills)
    for phrases in PHRASES.values():
        for phrase in phrases:
            words |= set(_words(phrase))
    return frozenset(words)


def unknown_words(text: str) -> tuple[str, ...]:
    """The words of a question that the demo model has never read."""
    known = vocabulary()
    return tuple(word for word in _words(text) if word not in known and not word.isdigit())


def _words(text: str) -> list[str]:
    """Lower-case runs of letters and digits, without the {fields} of a phrase."""
    kept, depth = [], 0
    for letter in text.lower():
        depth += (letter == "{") - (letter == "}")
        kept.append(letter if letter.isalnum() and not depth else " ")
    words = "".join(kept).split()
    return [word for word in words if word != "s"]  # the plural of a field


def _sightings(one: Thing | Star, times: Sequence[float]) -> list[float]:
    return [at for at in times if one.visible(at)]


def _moves(thing: Thing, seen: list[float]) -> bool:
    """Still things must be seen twice, moving ones along most of their path."""
    if len(seen) < 2:
        return False
    (x0, y0), (x1, y1) = thing.position(seen[0]), thing.position(seen[-1])
    whole = abs(thing.end[0] - thing.start[0]) + abs(thing.end[1] - thing.start[1])
    return abs(x1 - x0) + abs(y1 - y0) >= min(MOVED * whole, 0.3 * SIDE)


def _name(thing: Thing) -> str:
    return f"{thing.color} {thing.shape}"


def _phrase(rng: np.random.Generator, kind: str, **fields: str) -> str:
    phrases = PHRASES[kind]
    noun = NOUNS[int(rng.integers(len(NOUNS)))]
    return phrases[int(rng.integers(len(phrases)))].format(o=noun, **fields)


def _color(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for index, thing in enumerate(scene.things):
        if sum(other.shape == thing.shape for other in scene.things) == 1:
            yield Question("color", _phrase(rng, "color", s=thing.shape), thing.color, (index,))


def _shape(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    colors = [thing.color for thing in scene.things] + [star.color for star in scene.stars]
    for index, thing in enumerate(scene.things):
        if colors.count(thing.color) == 1:
            yield Question("shape", _phrase(rng, "shape", c=thing.color), thing.shape, (index,))


def _motion(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for index, thing in enumerate(scene.things):
        text = _phrase(rng, "motion", c=thing.color, s=thing.shape)
        yield Question("motion", text, thing.direction, (index,))


def _count(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    count = len(scene.things)
    yield Question("count", _phrase(rng, "count"), NUMBERS[count], tuple(range(count)))


def _exist(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    pairs = [(thing.color, thing.shape) for thing in scene.things]
    index = int(rng.integers(len(pairs)))
    color, shape = pairs[index]
    yield Question("exist", _phrase(rng, "exist", c=color, s=shape), "yes", (index,))
    missing = [(c, s) for c in COLORS for s in SHAPES if (c, s) not in pairs]
    # A hard negative has a colour that is there on another shape, and a shape that is there too.
    colors, shapes = {c for c, _ in pairs}, {s for _, s in pairs}
    hard = [(c, s) for c, s in missing if c in colors and s in shapes]
    half = [(c, s) for c, s in missing if (c in colors) != (s in shapes)]
    draw = rng.random()
    pool = (hard if draw < 0.6 else half if draw < 0.88 else missing) or missing
    color, shape = pool[int(rng.integers(len(pool)))]
    yield Question("exist", _phrase(rng, "exist", c=color, s=shape), "no")


def _order(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    pairs = [
        (a, b)
        for a, one in enumerate(scene.things)
        for b, other in enumerate(scene.things)
        if a != b and abs(one.appears - other.appears) > 0.12 * scene.duration
    ]
    if not pairs:
        return
    for choice in rng.choice(len(pairs), min(2, len(pairs)), replace=False):
        a, b = pairs[int(choice)]
        one, other = scene.things[a], scene.things[b]
        text = _phrase(rng, "order", c=one.color, s=one.shape, c2=other.color, s2=other.shape)
        yield Question("order", text, _name(min(one, other, key=lambda t: t.appears)), (a, b))


def _star(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    colors = [star.color for star in scene.stars]
    absent = [color for color in COLORS if color not in colors]
    other = f"{absent[int(rng.integers(len(absent)))]} {STAR}"
    if not colors:
        name = STAR if rng.random() < 0.6 else other
        yield Question("needle_exist", _phrase(rng, "needle_exist", star=name), "no")
        return
    index = int(rng.integers(len(colors)))
    full = f"{colors[index]} {STAR}"
    name = STAR if len(colors) == 1 and rng.random() < 0.6 else full
    part = scene.stars[index].part
    yield Question("needle_when", _phrase(rng, "needle_when", star=name), part, (), (index,))
    name = STAR if len(colors) == 1 and rng.random() < 0.6 else full
    yield Question("needle_exist", _phrase(rng, "needle_exist", star=name), "yes", (), (index,))
    if rng.random() < 0.4:
        yield Question("needle_exist", _phrase(rng, "needle_exist", star=other), "no")
    if len(colors) == 1:
        yield Question("needle_color", _phrase(rng, "needle_color"), colors[0], (), (0,))
        return
    for nth, place in (("first", 0), (("second", "last")[int(rng.integers(2))], 1)):
        text = _phrase(rng, "star_order", nth=nth)
        yield Question("star_order", text, colors[place], (), (0, 1))


_MAKERS: tuple[Callable[[Scene, np.random.Generator], Iterator[Question]], ...] = (
    _color,
    _shape,
    _motion,
    _count,
    _exist,
    _order,
    _star,
)
