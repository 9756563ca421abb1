"""The toy world is deterministic, bounded, and draws what its scenes say."""

from __future__ import annotations

import numpy as np
import pytest

from tokenreduce.demo import scenes, world
from tokenreduce.demo.world import COLORS, PARTS, SIDE, STAR, Look, Scene, Star, Thing

KEYS = [(scenes.HELD_OUT, number) for number in range(60)]
PLAIN = Look(key=(0,), grey=0.3, gain=1.0, offset=(0.0, 0.0, 0.0), softness=0.7, noise=0.0)


def alone(shape: str, color: str = "red") -> Scene:
    if shape == STAR:
        return Scene(10.0, (), (Star(color, 10.0, (32.0, 32.0), 0.0, 5.0, "beginning"),), PLAIN)
    thing = Thing(shape, color, 10.0, (32.0, 32.0), (32.0, 32.0), "still", 0.0, 5.0, 0.0, 1.0)
    return Scene(10.0, (thing,), (), PLAIN)


@pytest.mark.parametrize("key", KEYS[:5])
def test_a_key_always_gives_the_same_scene_and_pixels(key: tuple[int, int]) -> None:
    one, two = scenes.sample(key), scenes.sample(key)
    assert one == two
    times = [0.0, one.duration / 2]
    assert np.array_equal(world.render(one, times), world.render(two, times))


def test_streams_never_share_a_scene() -> None:
    drawn = {scenes.sample((stream, 5)) for stream in (1, 2, 3)}
    assert len(drawn) == 3


@pytest.mark.parametrize("key", KEYS)
def test_things_stay_inside_the_frame_and_stars_are_brief(key: tuple[int, int]) -> None:
    scene = scenes.sample(key)
    assert 1 <= len(scene.things) <= 6
    assert 8.0 <= scene.duration <= 60.0
    for thing in scene.things:
        for place in (thing.start, thing.end):
            assert all(thing.radius <= value <= SIDE - thing.radius for value in place)
        assert thing.appears <= thing.departs <= thing.arrives <= scene.duration + 1e-6
    for star in scene.stars:
        share = (star.vanishes - star.appears) / scene.duration
        assert 0.02 <= share <= 0.07
        low, high = PARTS[star.part]
        assert low <= (star.appears + star.vanishes) / 2 / scene.duration <= high
    pairs = [(thing.shape, thing.color) for thing in scene.things]
    assert len(set(pairs)) == len(pairs)


def test_things_that_are_seen_together_do_not_cover_each_other() -> None:
    overlaps = checks = 0
    for key in KEYS:
        scene = scenes.sample(key)
        for moment in np.linspace(0, scene.duration, 20):
            shown = [thing for thing in scene.things if thing.visible(float(moment))]
            for index, one in enumerate(shown):
                for other in shown[index + 1 :]:
                    a, b = one.position(float(moment)), other.position(float(moment))
                    checks += 1
                    overlaps += np.hypot(a[0] - b[0], a[1] - b[1]) < 0.8 * (
                        one.radius + other.radius
                    )
    assert overlaps <= 0.01 * checks


@pytest.mark.parametrize("shape", [*world.SHAPES, STAR])
@pytest.mark.parametrize("color", list(COLORS))
def test_the_middle_of_a_shape_has_its_colour(shape: str, color: str) -> None:
    frame = world.Renderer(alone(shape, color), 96).frame(1.0)
    assert np.abs(frame[48, 48] / 255.0 - COLORS[color]).max() < 0.01


@pytest.mark.parametrize("shape", [*world.SHAPES, STAR])
def test_a_shape_is_gone_when_it_has_vanished(shape: str) -> None:
    scene = alone(shape)
    with_it, without = world.render(scene, [1.0, 6.0])
    assert not np.array_equal(with_it, without)
    empty = Scene(10.0, (), (), PLAIN)
    assert np.array_equal(without, world.render(empty, [6.0])[0])


@pytest.mark.parametrize("shape", [*world.SHAPES, STAR])
def test_a_shape_covers_the_same_part_at_every_size(shape: str) -> None:
    covered = []
    for size in (96, 384):
        _, _, cover = world.patch(shape, (32.0, 32.0), 10.0, size, 0.7)
        covered.append(cover.sum() * (SIDE / size) ** 2)
    assert covered[0] == pytest.approx(covered[1], rel=0.03)
    # Between a thin star and a full square of the same radius, in square units.
    assert 80 < covered[0] < 330


def test_a_moving_thing_goes_its_way_and_no_other() -> None:
    for key in KEYS:
        for thing in scenes.sample(key).things:
            dx, dy = thing.end[0] - thing.start[0], thing.end[1] - thing.start[1]
            going = {
                "left": dx < 0 and dy == 0,
                "right": dx > 0 and dy == 0,
                "up": dy < 0 and dx == 0,
                "down": dy > 0 and dx == 0,
                "still": dx == dy == 0,
            }
            assert going[thing.direction]


def test_frames_are_uint8_rgb_of_the_asked_size() -> None:
    frames = world.render(scenes.sample(KEYS[0]), [0.0, 1.0, 2.0], 40)
    assert frames.shape == (3, 40, 40, 3)
    assert frames.dtype == np.uint8


def test_snapping_puts_every_star_into_a_sampled_frame() -> None:
    missed = shown = 0
    for number in range(80):
        duration = 20.0
        times = np.linspace(0, duration - 0.1, 32)
        scene = scenes.sample((scenes.HELD_OUT, number), duration=duration, snap=list(times))
        for star in scene.stars:
            hit = any(star.visible(float(at)) for at in times)
            shown += hit
            missed += not hit
    assert missed == 0
    assert shown > 40
