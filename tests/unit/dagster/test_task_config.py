"""The tag orchestrator/config: what it means, and what it says when it is wrong."""

from __future__ import annotations

import json

import pytest

from orchestrator_pkg.task_config import TagError, TaskConfig, parse
from orchestrator_proto import ledger_pb2 as pb

WHOLE = {
    "resources": {"gpus": 2, "gpu_memory_bytes": 8, "memory_bytes": 9, "pools": {"licence": 1}},
    "constraints": {"cloud": ["aws", "gcp"]},
    "priority": 5,
    "mode": "fork",
    "fair_key": "team-a",
}


def read(config: object, **tags: str) -> TaskConfig:
    return parse({"orchestrator/config": json.dumps(config), **tags}, where="step train")


def test_everything_reaches_the_task() -> None:
    spec = pb.TaskSpec(resources=pb.Resources(step_slots=1))
    read(WHOLE).apply_to(spec, with_resources=True)
    assert spec.resources == pb.Resources(
        step_slots=1, gpus=2, gpu_memory_bytes=8, memory_bytes=9, pools={"licence": 1}
    )
    assert [(c.key, list(c.values), c.soft) for c in spec.constraints] == [("cloud", ["aws", "gcp"], False)]
    assert (spec.priority, spec.mode, spec.fair_key) == (5, pb.SLOT_MODE_FORK, "team-a")


def test_a_run_takes_no_resources_for_itself() -> None:
    spec = pb.TaskSpec(resources=pb.Resources(run_slots=1))
    read(WHOLE).apply_to(spec, with_resources=False)
    assert spec.resources == pb.Resources(run_slots=1)
    assert spec.mode == pb.SLOT_MODE_WARM
    assert spec.priority == 5


def test_no_tags_ask_for_nothing() -> None:
    assert parse({}, where="run r") == TaskConfig()


def test_dagster_priority_is_honoured_and_ours_wins() -> None:
    assert parse({"dagster/priority": "-3"}, where="run r").priority == -3
    assert read({"priority": 7}, **{"dagster/priority": "1"}).priority == 7
    assert read({"mode": "warm"}, **{"dagster/priority": "1"}).priority == 1


def test_a_step_wins_over_its_run_key_by_key() -> None:
    run = read({"resources": {"gpus": 1, "pools": {"a": 1}}, "constraints": {"cloud": ["aws"]}, "priority": 3})
    step = read({"resources": {"pools": {"b": 2}}, "priority": 0})
    both = step.over(run)
    assert (both.gpus, dict(both.pools), both.priority) == (1, {"a": 1, "b": 2}, 0)
    assert both.constraints == {"cloud": ("aws",)}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"resourcs": {}}, "did you mean resources?"),
        ({"resources": {"gpu": 1}}, "did you mean resources.gpus?"),
        ({"colour": 1}, "known are resources, constraints, priority, mode, fair_key."),
        ({"resources": {"gpus": -1}}, "resources.gpus is -1; write a whole number from 0."),
        ({"resources": {"gpus": True}}, "resources.gpus is True"),
        ({"resources": {"gpus": 0.5}}, "resources.gpus is 0.5"),
        ({"resources": 3}, "resources is 3; write an object."),
        ({"constraints": {"cloud": []}}, "constraints.cloud is []"),
        ({"constraints": {"cloud": [1]}}, "constraints.cloud is [1]"),
        ({"priority": "high"}, "priority is 'high'; write a whole number."),
        ({"mode": "cold"}, "mode is 'cold'; write warm or fork."),
        ({"fair_key": ""}, "fair_key is ''"),
        ([1], "write a JSON object"),
    ],
)
def test_mistakes_are_named_with_the_cure(config: object, words: str) -> None:
    with pytest.raises(TagError) as caught:
        read(config)
    assert words in str(caught.value)
    assert "step train" in str(caught.value)


def test_what_is_no_json_is_named() -> None:
    with pytest.raises(TagError, match="is no JSON"):
        parse({"orchestrator/config": "{gpus: 1}"}, where="run r")


def test_a_priority_that_is_no_number_is_named() -> None:
    with pytest.raises(TagError, match="dagster/priority of run r is 'urgent'"):
        parse({"dagster/priority": "urgent"}, where="run r")
