"""A run settled before anything is decoded, and what a caller may set; knows no preset.

How a Plan comes about stands in `tokenreduce.plan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from tokenreduce.budget import NewlineKeep
from tokenreduce.models.base import Prune, Sampling
from tokenreduce.models.vision import Within
from tokenreduce.moments import Moment
from tokenreduce.paradigm import Method
from tokenreduce.seen import Need
from tokenreduce.solving import eased, entering, mean
from tokenreduce.video.types import DecoderName, Seek


@dataclass(frozen=True)
class Overrides:
    """What a caller sets over the preset; None leaves it to the preset or the model.

    method  another than the preset's, by name (`recipes.recipe_names`)
    budget  visual tokens entering the LLM, newlines included     keep  share of the raw count
    mean_budget  instead of the two: visual tokens a layer of the LLM works on, on average
    frames  how many to sample                                    time_text  the time instruction
    fps     frames a second to sample instead, at most max_frames of them
    start, end  of the range that is looked at, as `moments.parse` reads them
    skip_duplicates  "auto", "off", or the levels of 255 below which two frames are alike
    """

    budget: int | None = None
    keep: float | Fraction | None = None
    mean_budget: int | None = None
    method: str | None = None
    frames: int | None = None
    seek: Seek | None = None
    decoder: DecoderName | None = None
    newlines: NewlineKeep | None = None
    time_text: bool | None = None
    fps: float | None = None
    max_frames: int | None = None
    start: Moment | str | float | None = None
    end: Moment | str | float | None = None
    skip_duplicates: str | float | None = None

    @property
    def of_videos(self) -> tuple[str, ...]:
        """Names of the settings given that mean nothing for pictures."""
        range_ = ("frames", "fps", "max_frames", "start", "end")
        names = (*range_, "seek", "decoder", "skip_duplicates", "time_text")
        return tuple(name for name in names if getattr(self, name) not in (None, False))


@dataclass(frozen=True)
class Plan:
    """Settled, but for what depends on how many frames there are: `keep` is a share of them, and
    `mean_budget` is met by the tokens that enter, or by the schedules where nothing acts before.

    frames  of a video, or how many pictures       raw     tokens of as many, nothing reduced
    fps     frames are sampled by the second, `most` of them at most; how many that makes is known
            with the video (`plan.of_video`), as are `start_seconds` and `stop_seconds`
    skip    levels of 255 below which a frame repeats the last; None looks at every frame
    fills_in  a frame that repeats another takes its features, so that time keeps its place in the
            sequence; else it is left out, as where there are more frames than tokens
    merge   acts at `merge_site` after the tower   within  acts inside it, until a count that the
                                                           budget decides; one of the two at most
    """

    preset: str
    label: str
    frames: int
    raw: int
    seek: Seek
    decoder: DecoderName
    budget: int | None
    keep: Fraction
    mean_budget: int | None
    depth: int
    newlines: NewlineKeep
    time_text: bool
    merge: Method | None
    merge_site: Literal["frames", "clip"]
    within: Within | None
    prunes: tuple[Prune, ...]
    sampling: Sampling
    pictures: bool = False
    fps: float | None = None
    most: int | None = None
    start: Moment | None = None
    end: Moment | None = None
    skip: float | None = None
    fills_in: bool = False
    start_seconds: float = 0.0
    stop_seconds: float | None = None

    @property
    def looks_at(self) -> tuple[object, ...]:
        """Plans that agree in this look at the same frames."""
        asked = (self.frames, self.fps, self.most, self.start, self.end)
        return (*asked, self.seek, self.decoder, self.skip)

    @property
    def what(self) -> str:
        """What is looked at, in words."""
        kind = "picture" if self.pictures else "frame"
        return kind if self.frames == 1 else kind + "s"

    @property
    def less(self) -> str:
        """How to look at fewer of them."""
        return "fewer pictures" if self.pictures else "fewer --frames"

    @property
    def enters_whole(self) -> bool:
        """Nothing acts before the LLM."""
        return self.merge is None and self.within is None

    @property
    def needs(self) -> frozenset[Need]:
        """What is asked of the tower's last layer."""
        return frozenset() if self.merge is None else self.merge.needs

    def budget_for(self, raw: int) -> int:
        """Visual tokens that may enter the LLM of `raw` that there are; at least 1."""
        if self.budget is not None:
            return self.budget
        if self.mean_budget is not None and not self.enters_whole:
            schedules = [prune.schedule for prune in self.prunes]
            return entering(self.mean_budget, schedules, self.depth, raw)
        return max(1, int(raw * self.keep))

    def prunes_for(self, visual: int) -> tuple[Prune, ...]:
        """What acts inside the LLM when `visual` tokens enter it. Raises SettingError where the
        mean budget cannot be reached.

        Where all there are enter and the mean is still below its budget, less is removed later.
        """
        if self.mean_budget is None or not self.prunes:
            return self.prunes
        if not self.enters_whole and self._mean(self.prunes, visual + 1) > self.mean_budget:
            return self.prunes  # with one token more it would be too much
        found = eased(
            self.prunes, self.mean_budget, self.depth, visual, name=self.label, less=self.less
        )
        gentler = self._mean(found, visual) > self._mean(self.prunes, visual)
        return found if self.enters_whole or gentler else self.prunes

    def short_of_mean(self, visual: int, prunes: Sequence[Prune]) -> str | None:
        """Of a mean budget that `visual` tokens and `prunes` miss by more than one token a layer,
        what a user should know."""
        if self.mean_budget is None:
            return None
        reached = self._mean(prunes, visual)
        if self.mean_budget - reached <= 1:
            return None
        return (
            f"a mean budget of {self.mean_budget:,} is not reached: {visual:,} visual tokens enter "
            f"the LLM, and its layers work on {float(reached):,.1f} on average"
        )

    def _mean(self, prunes: Sequence[Prune], visual: int) -> Fraction:
        return mean([prune.schedule for prune in prunes], self.depth, visual)
