"""Every number of every class of settings has bounds, every text a kind; both are obeyed."""

from __future__ import annotations

import dataclasses
import math
import typing

import pytest

from userdp.analysis.audit import options as audit
from userdp.analysis.benchmark import cases
from userdp.analysis.comparison.jobs import Comparison
from userdp.server.mechanisms.registry import MECHANISMS
from userdp.sim.common.bounds import Between, Kind
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import command_options, hydra_compose, optimizer, refusal, settings

FREE = {"strategy.options", "optimizer", "data.options", "runtime.options"}  # of other classes


def fields(kind, prefix=""):
    """(dotted name, type with its metadata), nested classes walked."""
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if typing.get_origin(hint) is typing.ClassVar:
            continue
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
        if dataclasses.is_dataclass(inner):
            yield from fields(inner, f"{prefix}{name}.")
        elif prefix + name not in FREE:
            yield prefix + name, hint


def mechanism_fields():
    for name in MECHANISMS:
        hints = typing.get_type_hints(MECHANISMS.find(name), include_extras=True)
        for option in MECHANISMS.find(name).options():
            yield f"{name}.{option}", hints[option]


ALL = [
    *fields(settings.Settings),
    *fields(audit.Options, "audit."),
    *fields(cases.Options, "bench "),
    *fields(Comparison, "compare."),
    *mechanism_fields(),
    *((f"optimizer.{name}", kind) for name, kind in optimizer._KINDS.items()),
]


def parts(hint, metadata=()):
    """(plain type, all metadata around it) of each alternative and item of a type."""
    if typing.get_origin(hint) is typing.Annotated:
        inner, *more = typing.get_args(hint)
        yield from parts(inner, (*metadata, *more))
    elif typing.get_origin(hint) is typing.Literal or hint in (bool, type(None), ...):
        return
    elif inner := typing.get_args(hint):
        for part in inner:
            yield from parts(part, metadata)
    else:
        yield hint, metadata


def bounds_missing(hint):
    """The plain types of a field that say nothing of their bounds or kind."""
    wanted = {int: Between, float: Between, str: Kind}
    return [
        kind
        for kind, metadata in parts(hint)
        if kind not in wanted or not any(isinstance(one, wanted[kind]) for one in metadata)
    ]


@pytest.mark.parametrize(("name", "hint"), ALL, ids=[name for name, _ in ALL])
def test_every_field_says_what_it_takes(name, hint):
    assert bounds_missing(hint) == []


def test_the_walk_finds_fields_that_say_nothing():
    assert bounds_missing(int | None) == [int]
    assert bounds_missing(tuple[str, ...]) == [str]
    assert bounds_missing(typing.Annotated[float, Kind("path")]) == [float]
    assert len(ALL) > 110


def test_bounds_are_finite_and_in_order():
    found = [one for _, hint in ALL for _, metadata in parts(hint) for one in metadata]
    ranges = [one for one in found if isinstance(one, Between)]
    assert len(ranges) > 60
    for one in ranges:
        assert math.isfinite(one.low)
        assert math.isfinite(one.high)
        assert one.low < one.high
        assert not any(map(one.holds, (math.nan, math.inf, -math.inf, 1e300)))
        assert one.holds(one.low) != one.above
        assert one.holds(one.high) != one.below


@pytest.mark.parametrize("text", ["", " ", "a\x1b[31m", "a\x00b", "\ud800"])
def test_no_kind_of_text_takes_nothing_or_what_a_terminal_obeys(text):
    for kind in ("path", "name", "column", "code", "choice"):
        assert Kind(kind).fault(text) is not None
        assert Kind(kind).fault("A name, spelled out: é") is None
    assert Kind("column").fault("user\nid") is None
    assert (Kind("text").fault(text) is None) == (not text.strip())
    assert Kind("text").fault("two\nlines") is None
    assert Kind("path").fault("user\nid") is not None


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ("engine.max_lanes=1e30", "engine.max_lanes=1e+30"),
        ("model.lora.alpha=inf", "model.lora.alpha=inf: should be above 0 and at most 1,000,000"),
        ("seed=99999999999999999999", "seed=9"),
        ("rounds=1000000000", "rounds=1000000000: should be at least 1 and at most 1,000,000"),
        ("optimizer.lr=fast", "optimizer.lr=fast: should be a valid number"),
        ("optimizer.lr=1e308", "optimizer.lr=1e+308: should be at least 0"),
        ("+optimizer.weight_decay=true", "optimizer.weight_decay=True"),
        ("strategy.cohort_max=true", "strategy.cohort_max=True"),
        ("output=", "output=: should be a path, not empty"),
        ("data=null", "data=null"),
        ("optimizer=[1]", "optimizer=[1]"),
        ("rounds=1,2", "rounds=1,2: several values"),
        ("rounds=range(1,3)", "rounds=range(1,3): several values"),
        ("rounds=${nope}", "rounds=${nope}: cannot be resolved"),
        ("cohort=${oc.env:USERDP_NOT_SET}", "cohort=${oc.env:USERDP_NOT_SET}: cannot"),
        ("model.lora.r=${.r}", "model.lora.r=${.r}: cannot be resolved"),
        ("model.lora.targets='('", "model.lora.targets=("),
        ("hydra.run.dir=x", "hydra.run.dir=x: not obeyed here"),
        ("hydra.job.chdir=true", "hydra.job.chdir=true: not obeyed here"),
        ("plan.ks=[]", "plan.ks=[]"),
        ("resume=", "resume=: should be a path"),
    ],
)
def test_a_wrong_value_is_told_by_its_field(item, told):
    with pytest.raises(ConfigurationError) as caught:
        hydra_compose.settings([item])
    assert str(caught.value).startswith(told)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("item", ["hydra.run.dir=x", "hydra.mode=RUN", "hydra.job.chdir=true"])
def test_a_sweep_ignores_no_override_of_hydra(item):
    with pytest.raises(ConfigurationError, match=item.partition("=")[0]):
        hydra_compose.jobs(["seed=1,2", item])


def test_a_sweeps_folder_may_refer_to_time_and_to_hydra():
    for key in ("output", "++output", "hydra.sweep.dir"):
        folder = hydra_compose.sweep_folder(
            ["seed=1,2", "rounds=7", f"{key}=a/${{hydra:job.name}}_${{now:%Y}}_${{rounds}}"]
        )
        assert folder is not None
        assert folder.startswith("a/userdp_20")
        assert folder.endswith("_7")
    assert hydra_compose.sweep_folder(["seed=1,2"]) is None
    assert hydra_compose.without_place(["++output=x", "hydra.sweep.dir=y", "rounds=1"]) == [
        "rounds=1"
    ]


def test_options_of_a_command_are_told_by_their_names():
    made = command_options.parsed(audit.Options, ["trials=400", "false_alarms=1e-3"], "audit.")
    assert (made.trials, made.false_alarms) == (400, 1e-3)
    for word in ("trials=nan", "trials='400'", "trials=", "trials=[1]", "seed=1.5", "trials=${"):
        with pytest.raises(ConfigurationError, match=r"^audit\.(trials|seed)="):
            command_options.parsed(audit.Options, [word], "audit.")
    with pytest.raises(ConfigurationError, match=r"^bench\.batch=: should have a value"):
        command_options.parsed(cases.Options, ["batch="], "bench.")  # and null is written out


def test_a_long_value_is_not_repeated_in_full():
    with pytest.raises(ConfigurationError) as caught:
        refusal.checked(Comparison, {"strategies": "x" * 9000}, "compare.")
    assert len(str(caught.value)) < 400
