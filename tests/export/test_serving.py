"""Which version each target serves, and the way back."""

import pytest

from rfserve.export.errors import RepositoryError, VersionNotFound
from rfserve.export.serving import Event, Serving
from rfserve.export.spec.precision import FP16, FP32, INT8

BOTH = ("cpu", "gpu")


def after(*steps: tuple) -> Serving:
    """A history: ("publish", 1, "fp32"), ("promote", 1, "cpu", …), ("rollback", 1, "cpu", …), ("retire", 1)."""
    state = Serving()
    for action, version, *rest in steps:
        note, targets = (rest[0] if rest else FP32, ()) if action == "publish" else ("", tuple(rest) or BOTH)
        state = state.with_event(Event(action=action, version=version, note=note, targets=targets))
    return state


def published(state: Serving) -> dict[int, str]:
    found = {e.version: e.note for e in state.events if e.action == "publish"}
    return {v: note for v, note in found.items() if v not in state.noted("retire")}


P1, P2, P3 = (("publish", v) for v in (1, 2, 3))


@pytest.mark.parametrize(
    ("steps", "previous"),
    [
        # By the rule of the newest, nobody ever promoted anything.
        ([P1, P2], 1),
        ([P1, P2, P3], 2),
        ([P1, P2, ("promote", 2)], 1),
        ([P1, P2, P3, ("promote", 1), ("promote", 3)], 1),
        ([P1, P2, P3, ("promote", 3), ("promote", 1)], 3),
        # Twice the same is one change.
        ([P1, ("promote", 1), P2, ("promote", 2), ("promote", 2)], 1),
        # What was rolled back is no way back.
        ([P1, P2, P3, ("promote", 3), ("rollback", 2)], 1),
        ([P1, P2, ("promote", 1), ("promote", 2), ("promote", 1), ("rollback", 2)], 1),
        ([P1, P2, P3, *(("promote", v) for v in (1, 2, 1, 3)), ("rollback", 1)], 2),
        # A pinned version stays when another is published.
        ([P1, ("promote", 1), P2, P3, ("promote", 3)], 1),
        # What was retired is passed over.
        ([P1, P2, P3, ("promote", 3), ("retire", 2)], 1),
        # Never served, but older: the last resort, unless it was rolled back.
        ([P1, P2, ("promote", 2), P3, ("promote", 3), ("retire", 2)], 1),
    ],
)
def test_previous_is_what_was_served_before(steps, previous):
    state = after(*steps)
    assert state.previous("cpu", published(state)) == previous


@pytest.mark.parametrize(
    "steps",
    [
        [P1],
        [P1, ("promote", 1)],
        [P1, P2, ("promote", 2), ("rollback", 1)],
        [P2, P3, ("promote", 2), ("retire", 3)],
        # 2 was rolled back: it must not come back as "an older one" when what was served since is retired.
        [P1, P2, P3, ("promote", 2), ("rollback", 1), ("promote", 3), ("retire", 1)],
    ],
)
def test_previous_is_refused_when_nothing_is_left(steps):
    state = after(*steps)
    with pytest.raises(VersionNotFound, match=r"cpu serves version \d, and nothing it served before is left; promote"):
        state.previous("cpu", published(state))


def test_previous_is_told_for_each_target():
    state = after(P1, ("publish", 2, INT8), ("publish", 3, FP16), ("publish", 4), ("promote", 4, "gpu"))
    assert {t: state.served(t, published(state)) for t in BOTH} == {"cpu": 4, "gpu": 4}
    assert {t: state.previous(t, published(state)) for t in BOTH} == {"cpu": 2, "gpu": 3}


def test_previous_without_a_history_is_the_newest_older_one_that_suits():
    assert Serving(promoted={"cpu": 4}).previous("cpu", {1: FP32, 2: INT8, 3: FP16, 4: FP32, 5: FP32}) == 2


@pytest.mark.parametrize(
    ("steps", "targets"),
    [
        ([P1, P2], BOTH),
        ([P1, P2, ("promote", 1, "cpu")], ("cpu",)),
        ([P1, ("publish", 2, INT8)], ("cpu",)),
        ([P1, P2, ("promote", 1, "cpu"), ("promote", 1, "gpu")], ("gpu",)),
        # A rollback undoes the latest change, and then the one before is the latest.
        ([P1, P2, ("promote", 1, "cpu"), ("promote", 1, "gpu"), ("rollback", 2, "gpu")], ("cpu",)),
        ([P1, P2, ("retire", 1)], BOTH),
    ],
)
def test_last_changed_are_the_targets_of_the_latest_change(steps, targets):
    assert after(*steps).last_changed() == targets


@pytest.mark.parametrize(
    ("precisions", "cpu", "gpu"),
    [
        ({}, None, None),
        ({1: FP32}, 1, 1),
        ({1: FP32, 2: INT8}, 2, 1),
        ({1: FP32, 2: FP16}, 1, 2),
        # Nothing suits: better that than nothing.
        ({1: INT8}, 1, 1),
        # Triton would find the version whose manifest cannot be read.
        ({1: FP32, 2: "unreadable"}, 1, 1),
    ],
)
def test_newest_version_that_suits_is_served_without_a_promotion(precisions, cpu, gpu):
    assert (Serving().served("cpu", precisions), Serving().served("gpu", precisions)) == (cpu, gpu)


@pytest.mark.parametrize(
    ("promoted", "precisions", "policy"),
    [
        ({}, {1: FP32, 2: FP32}, None),
        ({}, {1: FP32, 2: FP16}, 1),
        ({}, {1: FP32, 2: "unreadable"}, 1),
        ({"cpu": 2}, {1: FP32, 2: FP32}, 2),
        ({"gpu": 1}, {1: FP32, 2: FP32}, None),
    ],
)
def test_configuration_names_a_version_where_the_newest_is_not_meant(promoted, precisions, policy):
    assert Serving(promoted=promoted).policy("cpu", precisions) == policy


def test_promoted_version_that_is_gone_is_refused():
    with pytest.raises(VersionNotFound, match=r"version 7 is promoted for cpu but not published; it has \[1\]"):
        Serving(promoted={"cpu": 7}).served("cpu", {1: FP32})


def test_undone_promotion_leaves_what_was_promoted_before_and_no_event():
    before = after(P1, P2, ("promote", 1, "cpu"))
    event = Event(action="promote", version=2, targets=BOTH)
    assert before.with_event(event).undone(event, before) == before


def test_undone_promotion_leaves_what_others_did_meanwhile():
    before = after(P1, P2, P3)
    event = Event(action="promote", version=2, targets=BOTH)
    others = Event(action="promote", version=3, targets=("gpu",))
    undone = before.with_event(event).with_event(others).undone(event, before)
    assert undone.promoted == {"gpu": 3}
    assert undone.events == (*before.events, others)


def test_missed_events_are_noted_where_their_time_puts_them():
    early, late, missed = (
        Event(action="publish", version=v, at_utc=f"2026-01-0{day}T00:00:00+00:00")
        for v, day in ((1, 1), (3, 3), (2, 2))
    )
    assert Serving(events=(early, late)).with_missed([missed]).events == (early, missed, late)


def test_state_is_read_back_as_it_was_written():
    state = after(P1, P2, ("promote", 1, "cpu"), ("rollback", 2, "cpu"), ("retire", 1)).on_cores("cpu", 8)
    assert Serving.from_json(state.to_json()) == state
    assert Serving.from_json('{"promoted": {}, "events": []}') == Serving()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"promoted": {}}', '{"promoted": {"cpu": "x"}, "events": []}', '{"promoted": 1, "events": []}']
)
def test_damaged_state_is_refused(text):
    with pytest.raises(RepositoryError, match=r"serving\.json is damaged"):
        Serving.from_json(text)


def test_unknown_target_and_action_are_refused():
    with pytest.raises(RepositoryError, match=r"got targets \['tpu'\]"):
        Serving.from_json('{"promoted": {"tpu": 1}, "events": []}')
    with pytest.raises(RepositoryError, match="got action 'delete'"):
        Event(action="delete", version=1)
