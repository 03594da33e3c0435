"""Every simulator with a defect is caught by the check that it belongs to, which says what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pytest

from ppx_inference.conformance import wire
from ppx_inference.conformance.checks import CHECKS, judge, unstarted
from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level, Subject
from ppx_server.errors import PPXError

FAIL, WARN = Level.FAIL, Level.WARN
NUM_TRACES = 80
NEVER_FAIL = {"wire", "wire/sockets", "names", "speed"}
"""These inform, or are the name of a group."""


class Defect(NamedTuple):
    """A simulator and what the kit says of it.

    Attributes:
        kind: `model`, `client` or `hand` (see `defects/__main__.py`), or `cpp`.
        name: Which.
        check: The finding that names the defect.
        level: How it counts.
        remedy: What to do about it, a regular expression.
        timeout: Seconds to wait for answers, some of which never come.
    """

    kind: str
    name: str
    check: str
    level: Level
    remedy: str
    timeout: float = 20.0


CONVERSATION = (
    Defect("hand", "nameless", "wire/handshake", WARN, "a name"),
    Defect("hand", "greets_once", "wire/handshake", FAIL, "also a second one", 1.0),
    Defect("hand", "never_finishes", "wire/run", FAIL, "end with RunResult"),
    Defect("hand", "empty_address", "wire/run", FAIL, "an address"),
    Defect("hand", "nan_parameter", "wire/run", FAIL, "in their domain"),
    Defect("hand", "new_family", "wire/run", FAIL, "only to controllers that announce"),
    Defect("hand", "tells_errors", "wire/run", FAIL, "only to controllers that announce"),
    Defect("hand", "out_of_turn", "wire/run", FAIL, "end with RunResult"),
    Defect("hand", "wrong_shapes", "wire/run", FAIL, "end with RunResult"),
    Defect("hand", "shape_without_data", "wire/run", FAIL, "end with RunResult"),
    Defect("hand", "dies_of_garbage", "wire/garbage", WARN, "check every offset"),
    Defect("hand", "waits_for_its_controller", "wire/vanishing", WARN, "let its Handshake", 1.0),
    Defect("hand", "takes_anything", "wire/values", WARN, "refuse values"),
    Defect("client", "extension_words_to_all", "wire/handshake", WARN, "only to controllers that announce"),
    Defect("client", "unknown_extension", "wire/handshake", WARN, "announce of"),
    Defect("client", "marks_to_all", "wire/run", FAIL, "only to controllers that announce"),
    Defect("client", "open_marks", "wire/marks", WARN, "left early"),
    Defect("client", "single_precision_sent", "wire/float64", WARN, "as doubles"),
    Defect("client", "single_precision_read", "wire/float64", WARN, "as doubles"),
    Defect(
        "client", "handshake_in_mid_trace_is_refused", "wire/new_handshake", FAIL, "abandon the trace", 1.0
    ),
    Defect("client", "dies_of_a_second_controller", "wire/two_controllers", FAIL, "bind a ROUTER"),
    Defect("client", "mixes_controllers_up", "wire/two_controllers", FAIL, "bind a ROUTER", 1.0),
    Defect("client", "dies_of_bad_messages", "wire/garbage", FAIL, "check every offset"),
    Defect("client", "dies_of_bad_messages", "wire/mutations", FAIL, "check every offset"),
    Defect("client", "dies_of_bad_messages", "wire/oversized", FAIL, "go on"),
    Defect("client", "dies_of_bad_messages", "wire/out_of_turn", FAIL, "go on"),
    Defect("client", "silent_on_bad_messages", "wire/out_of_turn", FAIL, "answer messages", 1.0),
    Defect("client", "answers_without_envelope", "wire/envelope", WARN, "ignore"),
    Defect("client", "takes_any_value", "wire/values", FAIL, "refuse values"),
)
BATCHES = (
    Defect("client", "refuses_batches", "wire/columns", FAIL, "BatchResult"),
    Defect("client", "missing_taken_for_zero", "wire/observations", FAIL, "draw what was not measured"),
    Defect("client", "one_trace_missing", "wire/columns", FAIL, "BatchResult"),
    Defect("client", "wrong_density_of_draws", "wire/columns", FAIL, "densities"),
    Defect("client", "nan_density", "wire/columns", FAIL, "Density"),
    Defect("client", "observations_without_values", "wire/columns", FAIL, "send what was drawn"),
    Defect("client", "visits_across_traces", "wire/columns", FAIL, "count the visits"),
    Defect("client", "addresses_told_again", "wire/columns", FAIL, "without gaps"),
    Defect("client", "addresses_told_once", "wire/independence", FAIL, "define an address"),
    Defect("client", "one_session_for_all", "wire/independence", FAIL, "define an address"),
    Defect("client", "another_generator", "wire/numbers", FAIL, "Philox"),
    Defect("client", "short_seed", "wire/numbers", FAIL, "Philox"),
    Defect("client", "short_index", "wire/numbers", FAIL, "Philox"),
    Defect("client", "arrays_take_one_number", "wire/numbers", FAIL, "all scalar draws count"),
    Defect("client", "reversed_quantile", "wire/numbers", FAIL, "table of families"),
    Defect("client", "wrong_order_of_traces", "wire/independence", FAIL, "seed, index and script"),
    Defect("client", "depends_on_the_batch", "wire/independence", FAIL, "seed, index and script"),
    Defect("model", "counter", "wire/independence", FAIL, "keep nothing"),
    Defect("client", "newest_first", "wire/order", FAIL, "in the order they came"),
    Defect("client", "ignores_scripts", "wire/scripts", FAIL, "forced"),
    Defect("client", "ignores_visits_of_scripts", "wire/scripts", FAIL, "visit"),
    Defect("client", "unflagged", "wire/scripts", FAIL, "flag 2"),
    Defect("client", "never_asks", "wire/asking", FAIL, "status 2"),
    Defect("client", "dies_of_senseless_batches", "wire/malformed", FAIL, "as a whole"),
    Defect("client", "forgets_observations", "wire/observations", FAIL, "the set last sent"),
    Defect("client", "ignores_observations", "wire/observations", FAIL, "take observations|`missing`"),
    Defect(
        "client", "fails_where_values_are_missing", "wire/observations", FAIL, "draw what was not measured"
    ),
    Defect("client", "ignores_patterns", "wire/uncontrolled", FAIL, "patterns of the Handshake"),
    Defect("client", "takes_any_choice", "wire/impossible_choices", WARN, "kind Choice"),
    Defect("client", "forgetful", "wire/sessions", FAIL, "for each sender"),
    Defect("client", "serves_strangers", "wire/sessions", FAIL, "for each sender"),
)
JUDGED = (
    Defect("model", "hidden_randomness", "same seed", FAIL, "every random number"),
    Defect("model", "hidden_in_the_likelihood", "same seed", FAIL, "every random number"),
    Defect("model", "time_dependent", "same seed", FAIL, "left over does not come from PPX"),
    Defect("model", "counter", "same seed", FAIL, "left over"),
    Defect("model", "cache", "same seed", FAIL, "left over"),
    Defect("model", "carried_over", "same seed", FAIL, "left over"),
    Defect("client", "rounds_choices", "replay", FAIL, ""),
    Defect("model", "pointer_per_run", "addresses", FAIL, "pointers"),
    Defect("model", "value_in_name", "addresses", FAIL, "counters"),
    Defect("model", "loop_counter", "addresses", WARN, "counters"),
    Defect("model", "unmarked_rejection", "rejection loops", WARN, "mark it"),
    Defect("model", "no_draws", "draws", FAIL, "replace the random number calls"),
    Defect("model", "no_controlled_draws", "draws", FAIL, "control=False"),
    Defect("model", "no_observations", "observations", FAIL, "observe, with a name"),
    Defect("model", "unnamed_observation", "observations", FAIL, "with a name"),
    Defect("model", "varying_observations", "observations", WARN, "traces"),
    Defect("model", "varying_shape", "observations", FAIL, "one shape"),
    Defect("model", "raises_sometimes", "traces", FAIL, "ppx replay|see one"),
    Defect("model", "raises_always", "traces", FAIL, "ppx replay|see one"),
    Defect("model", "nan_parameter", "traces", FAIL, "ppx replay|see one"),
    Defect("model", "nan_result", "values", WARN, "NaN"),
    Defect("client", "takes_any_choice", "support", FAIL, "not finite"),
    Defect("model", "noise", "lengths", WARN, "--uncontrolled u .*control=False"),
    Defect(
        "model", "noise_of_many_addresses", "lengths", WARN, r"--uncontrolled 'u\[\[\]\*\]' .*control=False"
    ),
    Defect("model", "no_influence", "influence", WARN, "seeded with a constant"),
    Defect(
        "model", "amplifies_rounding", "both ways", WARN, "amplifies rounding: branch on whole-number draws"
    ),
    Defect("client", "wrong_density_of_draws", "log_prob", FAIL, "correct the density"),
    Defect("client", "wrong_density_of_observations", "log_prob", FAIL, "correct the density"),
    Defect("client", "ignores_observations", "observed values", FAIL, "value given"),
    Defect("client", "another_generator", "both ways", FAIL, "Philox"),
    Defect("client", "observations_from_the_draws", "both ways", FAIL, "Philox"),
)
STARTED = (
    Defect("model", "pointer", "restart", FAIL, "pointer"),
    Defect("model", "hash_order", "restart", FAIL, "process"),
    Defect("model", "process_id", "restart", FAIL, "process"),
    Defect("model", "temporary_folder_in_name", "restart", FAIL, "process"),
    Defect("model", "folder_in_name", "restart", FAIL, "working directory"),
    Defect("model", "relative_file", "other folder", FAIL, "read by a relative path.*--cwd"),
    Defect("model", "relative_file_of_steps", "other folder", FAIL, "read by a relative path.*--cwd"),
    Defect("model", "shared_file", "side by side", FAIL, "fixed name .* --workers 1"),
    Defect("client", "takes_a_fixed_port", "side by side", FAIL, "a port.* of its own"),
    Defect("model", "warned_of", "warnings", WARN, "frozen"),
    Defect("model", "warned_of_and_hidden", "same seed", FAIL, "what the client says"),
    Defect("model", "dies_of_values", "support", WARN, "other controllers"),
    Defect("client", "density_outside_the_support", "support", FAIL, "-inf outside"),
    Defect("model", "memory_leak", "leaks", FAIL, "release"),
    Defect("model", "file_leak", "leaks", FAIL, "release"),
    Defect("model", "thread_leak", "leaks", FAIL, "release"),
    Defect("model", "dies_after_some_runs", "leaks", FAIL, ""),
    Defect("model", "very_long", "lengths", WARN, ""),
    Defect("client", "deaf_to_shutdown", "wire/shutdown", FAIL, "end with exit code 0"),
    Defect("client", "ends_badly", "wire/shutdown", FAIL, "end with exit code 0"),
    Defect("hand", "mute", "handshake", FAIL, "PPX_BIND", 2.0),
    Defect("hand", "greets_with_reset", "handshake", FAIL, "answer the Handshake"),
    Defect("hand", "greets_with_garbage", "handshake", FAIL, "answer the Handshake"),
    Defect("client", "no_envelope", "handshake", FAIL, "answer the Handshake"),
)

IN_CPP = (
    Defect("cpp", "hidden_randomness", "same seed", FAIL, "every random number"),
    Defect("cpp", "seeded_once", "same seed", FAIL, "every random number"),
    Defect("cpp", "counter", "same seed", FAIL, "left over"),
    Defect("cpp", "uninitialised", "same seed", FAIL, "left over"),
    Defect("cpp", "pointer", "restart", FAIL, "pointer"),
    Defect("cpp", "loop_counter", "addresses", WARN, "counters"),
    Defect("cpp", "unmarked_rejection", "rejection loops", WARN, "rejection_scope"),
    Defect("cpp", "no_observations", "observations", FAIL, "observe, with a name"),
    Defect("cpp", "unnamed_observation", "observations", FAIL, "with a name"),
    Defect("cpp", "memory_leak", "leaks", FAIL, "release"),
    Defect("cpp", "thread_leak", "leaks", FAIL, "release"),
    Defect("cpp", "dies_of_values", "support", WARN, "other controllers"),
    Defect("cpp", "frozen", "generators", WARN, "frozen"),
    Defect("cpp", "swallows_everything", "wire/vanishing", FAIL, "abandon the trace"),
)


def name(defect: Defect) -> str:
    return f"{defect.name}-{defect.check}"


def subject(timeout: float = 20.0, **where: Any) -> Subject:
    return Subject(timeout=timeout, num_traces=NUM_TRACES, seconds=30.0, runs=400, **where)


def expect(found: Iterable[Finding], defect: Defect) -> None:
    """Asserts that the kit has found the defect and says what to do."""
    (finding,) = (finding for finding in found if finding.check == defect.check)
    assert finding.level is defect.level, finding
    assert re.search(defect.remedy, finding.remedy), finding
    assert finding.remedy
    assert finding.detail


def judged(subject: Subject, check: str) -> Iterator[Finding]:
    """What the check of a finding says."""
    if "/" in check:
        yield from wire.checks(subject, [part for part in wire.PARTS if f"wire/{part.name}" == check])
        return
    try:
        with Evidence(subject) as evidence:
            yield from judge(evidence, [one for one in CHECKS if one.name == check])
    except PPXError as error:
        yield unstarted(error)


@pytest.mark.parametrize("defect", [*CONVERSATION, *BATCHES, *JUDGED], ids=name)
def test_a_defect_is_caught(defect: Defect, served_defect: Callable[..., Any]) -> None:
    with served_defect(defect.kind, defect.name) as address:
        expect(judged(subject(defect.timeout, address=address), defect.check), defect)


@pytest.mark.slow
@pytest.mark.parametrize("defect", [*STARTED, *IN_CPP], ids=name)
def test_a_defect_of_the_process_is_caught(defect: Defect, defect_command: Callable[..., Any]) -> None:
    command = defect_command(defect.kind, defect.name)
    expect(judged(subject(defect.timeout, command=command), defect.check), defect)


TWINS = (
    ("uncontrolled_noise", "lengths"),
    ("uncontrolled_arrays", "lengths"),
    ("path", "lengths"),
    ("noise", "influence"),
    ("few_digits", "both ways"),
)
STARTED_TWINS = (
    ("own_file", "side by side"),
    ("own_file", "other folder"),
    ("own_file", "warnings"),
    ("endless_outside_the_support", "support"),
)


def level(subject: Subject, check: str) -> Level:
    (finding,) = judged(subject, check)
    return finding.level


@pytest.mark.parametrize(("name", "check"), TWINS, ids=str)
def test_a_sound_twin_is_left_alone(name: str, check: str, served_defect: Callable[..., Any]) -> None:
    with served_defect("model", name) as address:
        assert level(subject(address=address), check) is Level.PASS


@pytest.mark.slow
@pytest.mark.parametrize(("name", "check"), STARTED_TWINS, ids=str)
def test_a_sound_twin_that_is_started_is_left_alone(
    name: str, check: str, defect_command: Callable[..., Any]
) -> None:
    assert level(subject(command=defect_command("model", name)), check) is Level.PASS


def failures(findings: Iterable[Finding]) -> list[str]:
    return [f.check for f in findings if f.level in (FAIL, WARN)]


def test_a_model_that_always_raises_is_told_once(served_defect: Callable[..., Any]) -> None:
    with served_defect("model", "raises_always") as address, Evidence(subject(address=address)) as evidence:
        found = list(judge(evidence))
    assert failures(found) == ["traces"]
    told = next(f.detail for f in found if f.check == "traces")
    assert "FileNotFoundError: there is no table of cross sections (models.py:" in told
    assert {f.detail for f in found if f.level is Level.SKIP} == {
        "no trace runs through: see traces",
        "only for a simulator that is started by a command",
    }


@pytest.mark.slow
def test_what_follows_from_a_crash_is_skipped(defect_command: Callable[..., Any]) -> None:
    command = defect_command("model", "crashes_sometimes")
    with Evidence(Subject(command=command, timeout=20.0, num_traces=20, seconds=20.0)) as evidence:
        found = list(judge(evidence))
    assert failures(found) == ["traces"]
    assert "fsanitize" in next(f.remedy for f in found if f.check == "traces")
    skipped = {f.check: f.detail for f in found if f.level is Level.SKIP}
    assert skipped["wire"] == skipped["same seed"] == "its process crashes in some traces: see traces"


@pytest.mark.slow
def test_where_only_one_process_can_run_the_others_are_not_waited_for(
    defect_command: Callable[..., Any],
) -> None:
    command = defect_command("client", "takes_a_fixed_port")
    with Evidence(subject(command=command)) as evidence:
        found = list(judge(evidence))
    assert failures(found) == ["side by side"]
    assert "in use" in next(f.detail for f in found if f.check == "side by side")


@pytest.mark.slow
def test_what_follows_from_rounding_is_told_once(defect_command: Callable[..., Any]) -> None:
    with Evidence(subject(command=defect_command("model", "amplifies_rounding"))) as evidence:
        assert failures(judge(evidence)) == ["both ways"]


@pytest.mark.parametrize(
    ("kind", "name"), [("model", "sound"), ("model", "sound_marked"), ("hand", "simulator")], ids=str
)
def test_sound_simulators_pass(kind: str, name: str, served_defect: Callable[..., Any]) -> None:
    with served_defect(kind, name) as address, Evidence(subject(address=address)) as evidence:
        assert [f for f in judge(evidence) if f.level in (FAIL, WARN)] == []


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("model", "sound"), ("model", "sound_marked"), ("cpp", "sound")])
def test_sound_processes_pass(kind: str, name: str, defect_command: Callable[..., Any]) -> None:
    with Evidence(subject(command=defect_command(kind, name))) as evidence:
        # The C++ program has all defects, among them calls of rand().
        expected = {"wire/marks", "generators"} if kind == "cpp" else {"wire/marks"}
        assert [f for f in judge(evidence) if f.level is not Level.PASS and f.check not in expected] == []


def test_every_check_has_its_defect() -> None:
    """No check is there that has never been seen to fail."""
    caught = {defect.check for defect in (*CONVERSATION, *BATCHES, *JUDGED, *STARTED, *IN_CPP)}
    named = {f"wire/{part.name}" for part in wire.PARTS} | {check.name for check in CHECKS}
    assert named - caught == NEVER_FAIL
