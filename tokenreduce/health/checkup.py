"""All looks, in their order: what cannot hurt in this process, the rest in two helpers at once."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tokenreduce.health import packages
from tokenreduce.health.finding import Asked, Finding, Look, of_error
from tokenreduce.health.helping import Failed, Helper

LIMIT_SECONDS = 30.0
"""For one look. Most take well under a second, on a busy machine some seconds."""
SLOW_TIMES = 4
"""As often as long for a look that is slow where nothing is wrong: the first import of torch with
CUDA reads gigabytes of libraries, and kernels are compiled one after another."""

_FIRST: tuple[tuple[str, Look], ...] = (
    ("python", packages.python),
    ("packages", packages.packages),
)
_LAST: tuple[tuple[str, Look], ...] = (("extras", packages.extras),)
_HEALTH = "tokenreduce.health"


@dataclass(frozen=True)
class Away:
    """A look that a helper takes. after: those without which there is nothing to see; device:
    whether a failure is the device's; slow: it imports or compiles much."""

    name: str
    order: str
    after: tuple[str, ...] = ()
    device: bool = False
    slow: bool = False


_ON_TORCH = ("torch", "device")
ON_DEVICE: tuple[Away, ...] = (
    Away("torch", f"{_HEALTH}.device:torch_itself", device=True, slow=True),
    Away("device", f"{_HEALTH}.device:device", ("torch",), device=True, slow=True),
    Away("memory", f"{_HEALTH}.device:memory", _ON_TORCH, device=True),
    Away("bfloat16", f"{_HEALTH}.device:half_precision", _ON_TORCH),
    Away("bitsandbytes", f"{_HEALTH}.device:quantisation", _ON_TORCH, slow=True),
    Away("triton", f"{_HEALTH}.device:triton", _ON_TORCH, slow=True),
    Away("model", f"{_HEALTH}.places:model"),
)
ON_FILES: tuple[Away, ...] = (
    Away("pyav", f"{_HEALTH}.decoding:pyav"),
    Away("decoding", f"{_HEALTH}.decoding:a_clip", ("pyav",)),
    Away("decord", f"{_HEALTH}.decoding:decord"),
    Away("cache", f"{_HEALTH}.places:cache"),
)


def examine(asked: Asked, limit_seconds: float = LIMIT_SECONDS) -> Generator[Finding]:
    """Findings as they are made, in the order of the looks. limit_seconds: for each look that could
    hang, SLOW_TIMES that for slow ones, after which it is a problem. Downloads nothing and leaves
    no process behind."""
    work = [(looks, Helper(asked, limit_seconds)) for looks in (ON_DEVICE, ON_FILES)]
    with ThreadPoolExecutor(len(work)) as threads:
        # Begun before the first is shown: they take seconds, and the rest nothing.
        begun = [threads.submit(_taken, looks, helper) for looks, helper in work]
        try:
            yield from _taken_here(_FIRST, asked)
            for one in begun:
                yield from one.result()
            yield from _taken_here(_LAST, asked)
        finally:  # nobody waits for what nobody will read
            for _, helper in work:
                helper.close()


def exit_code(findings: Sequence[Finding]) -> int:
    """As of asking: 5 where the device or its memory would not do, 2 where something else keeps
    questions from being answered, else 0; warnings do not count."""
    problems = [one for one in findings if one.state == "problem"]
    if any(one.device for one in problems):
        return 5
    return 2 if problems else 0


def _taken_here(looks: Sequence[tuple[str, Look]], asked: Asked) -> Iterator[Finding]:
    for name, look in looks:
        try:
            yield from look(asked)
        except Exception as error:  # of a broken installation: metadata that cannot be read
            yield of_error(name, error)


def _taken(looks: Sequence[Away], helper: Helper) -> list[Finding]:
    """One after the other; ends the helper."""
    found: list[Finding] = []
    failed: dict[str, bool] = {}
    with helper:
        for away in looks:
            made = _one(away, helper, failed)
            failed[away.name] = any(one.state == "problem" for one in made)
            found += made
    return found


def _one(away: Away, helper: Helper, failed: Mapping[str, bool]) -> list[Finding]:
    for before in away.after:
        if failed.get(before):
            return [Finding(away.name, "warning", f"not looked at, because of {before}")]
    try:
        return helper.look(away.order, SLOW_TIMES if away.slow else 1)
    except Failed as failure:
        return [Finding(away.name, "problem", str(failure), away.device)]
