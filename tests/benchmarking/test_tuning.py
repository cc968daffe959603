"""The search for a session's settings, on a device that is a table of latencies; and the file it is kept in."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from edgekd.benchmarking import blocks, runner, tuning
from edgekd.benchmarking.bench import bench
from edgekd.benchmarking.blocks import Repetition, Tried
from edgekd.benchmarking.conditions import Span
from edgekd.benchmarking.plan import Session
from edgekd.benchmarking.results import BenchResult, read_result
from edgekd.benchmarking.session_file import DEFAULT, LEVELS, Setting, read_session, session_file
from edgekd.benchmarking.tuned import Candidate, Step, Tuning
from edgekd.benchmarking.tuning import alternatives, thread_counts, tune
from edgekd.drivers import Facts
from edgekd.drivers.local import LocalDriver
from edgekd.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from conftest import MakeModel

    from edgekd.benchmarking.plan import Plan
    from edgekd.drivers import Driver
    from edgekd.progress import Progress

    Search = Callable[..., tuple[Tuning, BenchResult]]

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarking.md"
FACTS = Facts(
    target="x86-avx2",
    cpu_model="a CPU",
    logical_cores=4,
    governor="unavailable",
    load_average=0.0,
    busy_cpu_s=0.0,
)
STEADY_BYTES = 100_000_000


@pytest.fixture(autouse=True)
def never_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other work spoils is not measured again: no figure is looked at here."""
    monkeypatch.setattr(blocks, "RETAKES", 0)


class Table:
    """Stands for the measurement: what a block of each setting takes, and which titles were measured."""

    def __init__(self, latency_ms: Callable[[Setting, str], float], saved_without_arena: int = 0) -> None:
        self.latency_ms = latency_ms
        self.saved = saved_without_arena
        self.titles: list[str] = []
        self.settings: dict[str, list[Setting]] = {}

    def measure(
        self, driver: Driver, plan: Plan, tried: Mapping[str, Tried], progress: Progress, *, title: str
    ) -> tuple[list[Repetition], int]:
        self.titles.append(title)
        settings = [Setting(threads=entry.threads, session=entry.session) for entry in plan.entries]
        self.settings[title] = settings
        span = Span(before=FACTS, after=FACTS, own_cpu_s=0.0, elapsed_s=1.0)
        return [
            Repetition(blocks=[self._block(setting, title, number) for setting in settings], span=span)
            for number in range(plan.repeats)
        ], 0

    def _block(self, setting: Setting, title: str, number: int) -> dict[str, Any]:
        drift = 1 + 0.002 * (number % 3)  # of the machine: the same for all in one repetition
        steady = STEADY_BYTES - (0 if setting.session.arena else self.saved)
        return {
            "samples_ms": [self.latency_ms(setting, title) * drift] * 5,
            "memory_bytes": {"steady": steady, "peak": STEADY_BYTES},
            "resident_bytes": {"pss": None},
            "inputs": {},
            "load_ms": 1.0,
            "first_run_ms": 1.0,
            "warm_up": {"steady": True},
            "onnxruntime": "1.32.0",
        }


@pytest.fixture
def tuned_with(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> Search:
    def search(table: Table, **arguments: Any) -> tuple[Tuning, BenchResult]:
        model = make_model()
        monkeypatch.setattr(tuning, "measure", table.measure)
        monkeypatch.setattr(tuning, "rehearse", lambda *_: {str(model): Tried(place=str(model), block={})})
        monkeypatch.setattr(LocalDriver, "probe", lambda _: FACTS)
        result = tune(model, **arguments)
        assert result.tuning is not None
        return result.tuning, result

    return search


def by_threads(times: Mapping[int, float]) -> Callable[[Setting, str], float]:
    return lambda setting, _: times[setting.threads]


def test_a_faster_setting_wins_once_it_was_measured_anew(tmp_path: Path, tuned_with: Search) -> None:
    """Two threads are the best of threads, and faster still where they sleep."""

    def latency_ms(setting: Setting, _: str) -> float:
        waits = 1.0 if setting.session.spinning else 0.8
        return {0: 10.0, 1: 12.0, 2: 6.0, 4: 8.0}[setting.threads] * waits

    table = Table(latency_ms)
    found, result = tuned_with(table)
    assert table.titles == [
        *("tune: threads", "tune: optimization", "tune: spinning", "tune: arena", "tune: against the default")
    ]
    assert found.improved
    assert found.session == DEFAULT.to_json() | {"intra_op_num_threads": 2, "intra_op_spinning": False}
    assert found.default == DEFAULT.to_json()
    assert found.ratio is not None
    assert (found.ratio.median, found.ratio.verdict, found.ratio.pairs) == (
        pytest.approx(0.48),
        "faster",
        tuning.LAST_REPEATS,
    )
    threads = found.steps[0]
    assert [candidate.session["intra_op_num_threads"] for candidate in threads.candidates] == [0, 1, 2, 4]
    assert [candidate.taken for candidate in threads.candidates] == [False, False, True, False]
    assert threads.candidates[0].ratio is None
    assert [row.threads for row in result.models] == [0, 2]  # the last comparison is the result
    written = tmp_path / "result.json"
    written.write_text(json.dumps(result.to_json(), allow_nan=False))
    assert read_result(written) == result


def test_what_was_only_lucky_is_not_kept(tuned_with: Search) -> None:
    """One thread looks faster in the search, and is not when it is measured against the default anew."""
    lucky = Table(lambda setting, title: 5.0 if setting.threads == 1 and "against" not in title else 10.0)
    found, _ = tuned_with(lucky)
    assert (found.improved, found.session) == (False, DEFAULT.to_json())
    assert found.ratio is not None
    assert found.ratio.verdict == "none"
    assert found.steps[0].candidates[1].taken


def test_where_nothing_is_faster_the_default_is_as_good(tuned_with: Search) -> None:
    table = Table(lambda setting, _: 10.0 if setting == DEFAULT else 10.01)
    found, result = tuned_with(table)
    assert (found.improved, found.session, found.ratio) == (False, DEFAULT.to_json(), None)
    assert "tune: against the default" not in table.titles
    assert result.models[0].threads == 0
    assert all(step.candidates[0].taken for step in found.steps)


@pytest.mark.parametrize(
    ("saved", "slowdown", "told"),
    [(20_000_000, 1.0, 20_000_000), (20_000_000, 1.5, None), (500_000, 1.0, None), (-5, 1.0, None)],
    ids=["saves", "slower", "too little", "more"],
)
def test_memory_without_the_arena_at_equal_speed(
    tuned_with: Search, saved: int, slowdown: float, told: int | None
) -> None:
    table = Table(lambda setting, _: 10.0 * (1.0 if setting.session.arena else slowdown), saved_without_arena=saved)
    found, _ = tuned_with(table)
    assert found.arena_off_saves_bytes == told
    arena = found.steps[-1]
    assert (arena.varied, arena.candidates[1].steady_bytes) == ("arena", STEADY_BYTES - saved)


def test_only_the_threads_asked_for_are_tried(tuned_with: Search) -> None:
    table = Table(by_threads({0: 10.0, 3: 5.0}))
    found, _ = tuned_with(table, threads=(3,))
    assert [setting.threads for setting in table.settings["tune: threads"]] == [0, 3]
    assert found.session["intra_op_num_threads"] == 3


def test_alternatives() -> None:
    one = Setting(threads=1)
    assert alternatives("spinning", one, ()) == []  # one thread never waits
    assert [other.session.spinning for other in alternatives("spinning", DEFAULT, ())] == [False]
    assert [other.threads for other in alternatives("threads", DEFAULT, (1, 2))] == [1, 2]
    assert [other.session.optimization for other in alternatives("optimization", one, ())] == ["extended", "basic"]
    assert [other.session.arena for other in alternatives("arena", one, ())] == [False]


@pytest.mark.parametrize(("cores", "counts"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))])
def test_numbers_of_threads_to_try(cores: int, counts: tuple[int, ...]) -> None:
    assert thread_counts(cores) == counts


def test_an_emulated_device_cannot_be_tuned_for(make_model: MakeModel) -> None:
    with pytest.raises(UsageError, match="qemu-cortex-a53 is emulated: it has no time of its own to tune for"):
        tune(make_model(), device="qemu-cortex-a53")


def test_the_verb_on_this_machine(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real sessions in fresh processes; which of them is the faster is not this test's to say."""
    monkeypatch.setattr(tuning, "VARIED", ("arena",))
    monkeypatch.setattr(tuning, "REPEATS", 2)
    monkeypatch.setattr(tuning, "LAST_REPEATS", 2)
    result = tune(make_model(), duration_s=0.01)
    assert result.tuning is not None
    (step,) = result.tuning.steps
    assert [candidate.session["enable_cpu_mem_arena"] for candidate in step.candidates] == [True, False]
    assert all(candidate.p50_ms > 0 for candidate in step.candidates)


SETTING = Setting(threads=2, session=Session(arena=False, spinning=False, optimization="extended"))


@pytest.fixture
def only_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalDriver, "emulated", True)


@pytest.mark.usefixtures("only_tried")
def test_a_session_file_says_what_it_was_given(tmp_path: Path, make_model: MakeModel) -> None:
    path = tmp_path / "session.json"
    path.write_text(json.dumps(session_file(SETTING.to_json(), device="local", model="m.onnx", sha256="0" * 64)))
    assert json.loads(path.read_text())["schema"] == "edgekd.session/1"
    assert read_session(path) == SETTING
    (model,) = bench([make_model()], session=path, runs=2, repeats=2).models
    assert model.threads == 2
    assert model.session == {"arena": False, "spinning": False, "optimization": "extended"}


@pytest.mark.usefixtures("only_tried")
def test_a_setting_that_is_left_out_is_onnxruntimes_own(tmp_path: Path, make_model: MakeModel) -> None:
    path = tmp_path / "session.json"
    path.write_text('{"schema": "edgekd.session/1", "session": {}}')
    assert read_session(path) == DEFAULT
    (model,) = bench([make_model()], session=path, runs=2, repeats=2).models
    assert model.threads == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no", "not a JSON file"),
        ("[]", "found schema None"),
        ('{"schema": "edgekd.bench/1"}', "found schema 'edgekd.bench/1'"),
        ('{"schema": "edgekd.session/1"}', "session: expected an object with intra_op_num_threads"),
        ({"intra_op_num_thread": 2}, "unknown key 'intra_op_num_thread' .perhaps you meant 'intra_op_num_threads'"),
        ({"intra_op_num_threads": -1}, "expected 0 to 256, found -1"),
        ({"intra_op_num_threads": 257}, "expected 0 to 256, found 257"),
        ({"intra_op_num_threads": True}, "session.intra_op_num_threads: expected a whole number, found True"),
        ({"intra_op_spinning": 1}, "session.intra_op_spinning: expected true or false, found 1"),
        ({"graph_optimization_level": "most"}, "expected one of all, extended, basic, none, found 'most'"),
    ],
)
def test_a_damaged_session_file(tmp_path: Path, content: str | dict[str, Any], message: str) -> None:
    path = tmp_path / "session.json"
    text = content if isinstance(content, str) else json.dumps({"schema": "edgekd.session/1", "session": content})
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_session(path)
    assert str(caught.value).startswith(str(path))


def test_a_session_file_that_is_not_there() -> None:
    with pytest.raises(DataError, match="no such session file"):
        read_session("absent.json")


def opened_with(**session: Any) -> SimpleNamespace:
    """What a session is opened with, by an onnxruntime that only listens."""
    options = SimpleNamespace(entries={})
    options.add_session_config_entry = options.entries.__setitem__
    levels = SimpleNamespace(
        **{name: name for name in ("ORT_ENABLE_ALL", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_BASIC", "ORT_DISABLE_ALL")}
    )
    runtime = SimpleNamespace(
        SessionOptions=lambda: options, GraphOptimizationLevel=levels, InferenceSession=lambda *_, **__: None
    )
    runner.open_session(runtime, "m.onnx", SETTING.threads, session or None)
    return options


def test_the_runner_sets_what_the_setting_says() -> None:
    own, changed = opened_with(), opened_with(arena=False, spinning=False, optimization="extended")
    assert (own.enable_cpu_mem_arena, own.graph_optimization_level, own.entries) == (True, "ORT_ENABLE_ALL", {})
    assert (changed.intra_op_num_threads, changed.enable_cpu_mem_arena) == (2, False)
    assert changed.graph_optimization_level == "ORT_ENABLE_EXTENDED"
    assert changed.entries == {"session.intra_op.allow_spinning": "0"}


def test_every_level_is_one_of_the_runners() -> None:
    assert tuple(runner.LEVELS) == LEVELS


@pytest.mark.parametrize("key", [field.name for kind in (Tuning, Step, Candidate) for field in fields(kind)])
def test_every_key_of_a_search_is_documented(key: str) -> None:
    section = DOCUMENT.read_text().partition("## Tuning a session")[2].partition("\n## ")[0]
    assert f"`{key}`" in section
    assert all(f"`{name}`" in section for name in DEFAULT.to_json())
