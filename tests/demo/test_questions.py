"""Answers are true, and `answerable` says what sampled frames can show."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from tokenreduce.demo import questions, scenes
from tokenreduce.demo.questions import Question
from tokenreduce.demo.world import COLORS, SHAPES, Look, Scene, Star, Thing

LOOK = Look(key=(0,), grey=0.3, gain=1.0, offset=(0.0, 0.0, 0.0), softness=0.7, noise=0.0)


def thing(
    shape: str, color: str, direction: str, appears: float, vanishes: float, dx: float = 0.0
) -> Thing:
    return Thing(
        shape, color, 9.0, (20.0, 20.0), (20.0 + dx, 20.0), direction, appears, vanishes, 2.0, 8.0
    )


SCENE = Scene(
    10.0,
    (
        thing("circle", "red", "right", 0.0, 11.0, 30.0),
        thing("square", "blue", "still", 4.0, 11.0),
    ),
    (Star("yellow", 9.0, (50.0, 50.0), 4.8, 5.2, "middle"),),
    LOOK,
)
MANY = [scenes.sample((scenes.HELD_OUT, number)) for number in range(150)]


def every(kind: str) -> list[Question]:
    rng = np.random.default_rng(0)
    return [q for scene in MANY for q in questions.ask(scene, rng) if q.kind == kind]


def one(kind: str) -> Question:
    asked = questions.ask(SCENE, np.random.default_rng(1))
    return next(q for q in asked if q.kind == kind)


def test_the_answers_of_a_known_scene() -> None:
    asked = questions.ask(SCENE, np.random.default_rng(0))
    truth = {(q.kind, q.things, q.stars): q.answer for q in asked}
    assert truth["color", (0,), ()] == "red"
    assert truth["shape", (1,), ()] == "square"
    assert truth["motion", (0,), ()] == "right"
    assert truth["motion", (1,), ()] == "still"
    assert truth["count", (0, 1), ()] == "two"
    assert truth["needle_color", (), (0,)] == "yellow"
    assert truth["needle_when", (), (0,)] == "middle"
    assert truth["needle_exist", (), (0,)] == "yes"
    assert {a for (kind, *_), a in truth.items() if kind == "order"} == {"red circle"}


def test_yes_and_no_are_told_from_the_text() -> None:
    for scene in MANY:
        pairs = {f"{t.color} {t.shape}" for t in scene.things}
        for question in questions.ask(scene, np.random.default_rng(3)):
            if question.kind == "exist":
                named = re.search(rf"({'|'.join(COLORS)}) ({'|'.join(SHAPES)})", question.text)
                assert named is not None
                assert (question.answer == "yes") == (named.group() in pairs)
            if question.kind == "needle_exist":
                colors = re.findall("|".join(COLORS), question.text)
                held = [s for s in scene.stars if not colors or s.color in colors]
                assert (question.answer == "yes") == bool(held)


@pytest.mark.parametrize("kind", questions.KINDS)
def test_every_kind_is_asked_in_every_way_and_answers_are_balanced(kind: str) -> None:
    asked = every(kind)
    # Fillings differ, so compare what is left of the phrases without them.
    ways = {re.sub(r"\{\w+\}", "", phrase)[:12] for phrase in questions.PHRASES[kind]}
    assert len(ways) >= 2
    answers = Counter(question.answer for question in asked)
    assert len(answers) >= 2
    assert max(answers.values()) <= 0.7 * len(asked)


@pytest.mark.parametrize(
    ("kind", "times", "shown"),
    [
        ("color", [1.0], True),
        ("motion", [1.0], False),
        ("motion", [0.0, 9.0], True),
        ("motion", [0.0, 3.0], False),
        ("count", [1.0], False),
        ("count", [1.0, 5.0], True),
        ("order", [5.0, 9.0], False),
        ("order", [1.0, 5.0], True),
        ("needle_color", [0.0, 4.0, 8.0], False),
        ("needle_color", [0.0, 5.0, 9.0], True),
        ("needle_when", [0.0, 5.0, 9.0], False),
        ("needle_when", [0.0, 3.0, 5.0, 9.0], True),
        ("needle_exist", [0.0, 4.7, 5.2], False),
    ],
)
def test_answerable(kind: str, times: list[float], shown: bool) -> None:
    question = one(kind)
    if kind in ("motion", "color"):  # of the circle, where `one` may have found the square's
        question = Question(kind, "", "", (0,))
    if kind == "needle_exist":
        question = Question("needle_exist", "", "yes", (), (0,))
    assert questions.answerable(SCENE, question, times) is shown


def test_what_is_not_there_needs_no_evidence() -> None:
    assert questions.answerable(SCENE, Question("exist", "", "no"), [0.0])


def test_more_frames_never_show_less() -> None:
    """A finer sampling that contains the coarser one."""
    rng = np.random.default_rng(5)
    for scene in MANY[:60]:
        for question in questions.ask(scene, rng):
            fine = np.linspace(0, scene.duration - 0.1, 33)
            coarse = questions.answerable(scene, question, list(fine[::4]))
            if coarse and question.kind != "motion":
                assert questions.answerable(scene, question, list(fine))


def test_both_spellings_of_colour_are_asked() -> None:
    text = " ".join(question.text for question in every("color") + every("needle_color"))
    assert "color" in text
    assert "colour" in text
    assert "What colour is the star that appears briefly?" in text


def test_unknown_words() -> None:
    assert questions.unknown_words("What colour is the star that appears briefly?") == ()
    assert questions.unknown_words("What colour is the DOG, please?") == ("dog", "please")
    assert questions.unknown_words("¿Qué?") == ("qué",)
    rng = np.random.default_rng(0)
    for scene in MANY[:40]:
        for question in questions.ask(scene, rng):
            assert questions.unknown_words(question.text) == ()
            assert questions.unknown_words(question.answer) == ()
