from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from listening import Heard

from edgekd.data import ArraySamples
from edgekd.data.torch_data import TrainingBatches, Views
from edgekd.distillation import cache
from edgekd.distillation.answer_records import Layout, records_of, restored_logits
from edgekd.distillation.cache import StoredAnswers, store_answers
from edgekd.distillation.teacher import Answers, TorchTeacher
from edgekd.errors import DataError, ModelError, OutputError
from edgekd.models import build
from edgekd.text import share

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CPU = torch.device("cpu")
SAMPLES = ArraySamples(
    {"x": np.random.default_rng(0).normal(size=(53, 1, 8, 8)).astype(np.float32), "labels": np.arange(53) % 5}
)
BATCHES = TrainingBatches(SAMPLES, batch_size=8, seed=3, crop_padding=1, flip=True, views=Views(3, seed=3))
TAPS = ("layer2", "flatten")


class Counting(TorchTeacher):
    """Says how many samples it was asked for, and may be struck dead on the way."""

    def __init__(self, dies_after: int | None = None) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            super().__init__(build("resnet8x0.25", classes=5, shape=(1, 8, 8)))
        self.asked = 0
        self.dies_after = dies_after

    @contextmanager
    def ready(self, device: torch.device, taps: Sequence[str]) -> Iterator[Any]:
        with super().ready(device, taps) as ask:

            def counting(inputs: torch.Tensor, positions: torch.Tensor, epoch: int) -> Answers:
                self.asked += len(inputs)
                if self.dies_after is not None and self.asked > self.dies_after:
                    raise KeyboardInterrupt
                return ask(inputs, positions, epoch)

            yield counting


def store(folder: Path, teacher: TorchTeacher | None = None, **changed: Any) -> StoredAnswers:
    usual: dict[str, Any] = {"identity": {"data": "d", "seed": 3}, "taps": TAPS, "views": 3, "device": CPU}
    return store_answers(folder, teacher or Counting(), BATCHES, **{**usual, **changed})


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD_BYTES", 1)
    monkeypatch.setattr(cache, "BATCH", 10)


def test_an_epoch_gets_the_answers_to_just_its_pixels(tmp_path: Path) -> None:
    stored = store(tmp_path / "c")
    assert len(list((tmp_path / "c").glob("*.npy"))) == 3 * 6
    with Counting().ready(CPU, TAPS) as live, stored.ready(CPU, TAPS) as looked_up:
        for epoch in (0, 1, 2, 4):
            for batch in BATCHES.epoch(epoch):
                expected = live(batch.inputs, batch.positions, epoch)
                found = looked_up(torch.zeros(0), batch.positions, epoch)
                torch.testing.assert_close(found.logits, expected.logits, rtol=2**-11, atol=1e-3)
                for one, other in zip(found.features, expected.features, strict=True):
                    torch.testing.assert_close(one, other, rtol=2**-10, atol=1e-3)


def test_once_filled_the_teacher_never_runs(tmp_path: Path) -> None:
    first = Counting()
    store(tmp_path, first)
    assert first.asked == 3 * 53 + 2  # and the dry run
    again = Counting(dies_after=0)
    store(tmp_path, again)
    assert again.asked == 0


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("dies_after", [2, 30, 77, 160])
def test_a_killed_writer_is_continued_to_the_same_bytes(tmp_path: Path, dies_after: int) -> None:
    store(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path / "killed", Counting(dies_after))
    second = Counting()
    store(tmp_path / "killed", second)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert second.asked <= 3 * 53 - (dies_after - 2) // 10 * 10 + 10


def test_looking_up_maps_no_shard_and_keeps_none_open(tmp_path: Path) -> None:
    stored = store(tmp_path)
    with stored.ready(CPU, TAPS) as looked_up:
        for batch in BATCHES.epoch(1):
            looked_up(torch.zeros(0), batch.positions, 1)
        in_use = Path("/proc/self/maps").read_text()
        in_use += "".join(str(link.resolve()) for link in Path("/proc/self/fd").iterdir())
    assert str(tmp_path) not in in_use


@pytest.mark.parametrize("left", [None, 40, 200])
def test_a_shard_that_is_lost_during_the_training_is_named(tmp_path: Path, left: int | None) -> None:
    stored = store(tmp_path)
    shard = tmp_path / "0001-000000000.npy"
    with stored.ready(CPU, TAPS) as looked_up:
        looked_up(torch.zeros(0), torch.arange(10), 1)
        shard.unlink() if left is None else shard.write_bytes(shard.read_bytes()[:left])
        with pytest.raises(DataError, match=r"0001-000000000\.npy: (no such shard|the file has become shorter)"):
            looked_up(torch.zeros(0), torch.arange(10), 1)


def test_a_damaged_shard_is_filled_anew(tmp_path: Path) -> None:
    store(tmp_path)
    before = contents(tmp_path)
    shards = sorted(tmp_path.glob("*.npy"))
    shards[0].write_bytes(shards[0].read_bytes()[:-1])
    shards[5].write_bytes(b"")
    shards[7].unlink()
    second = Counting()
    store(tmp_path, second)
    assert contents(tmp_path) == before
    assert second.asked == 10 + 3 + 10


def test_a_flipped_bit_in_a_shard_is_noticed_and_asked_again(tmp_path: Path) -> None:
    store(tmp_path)
    before = contents(tmp_path)
    shard = tmp_path / "0001-000000000.npy"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    stored = store(tmp_path)
    shard.write_bytes(content)
    with (
        stored.ready(CPU, TAPS) as looked_up,
        pytest.raises(DataError, match=r"000000\.npy: missing or damaged"),
    ):
        looked_up(torch.zeros(0), torch.arange(10), 1)
    second = Counting()
    store(tmp_path, second)
    assert contents(tmp_path) == before
    assert second.asked == 10


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"identity": {"data": "other", "seed": 3}}, "data"),
        ({"identity": {"data": "d", "seed": 4}}, "seed"),
        ({"identity": {"data": "d", "seed": 3, "versions": {"torch": "9"}}}, "versions"),
        ({"taps": ("layer2", "layer1")}, "taps"),
        ({"views": 2}, "views"),
        ({"top_k": 2}, "top_k"),
        ({"teacher": TorchTeacher(torch.nn.Flatten(), "another")}, "teacher"),
    ],
)
def test_answers_to_other_questions_are_refused(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    store(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(DataError, match=rf"other questions \({named} differ\); delete this folder"):
        store(tmp_path, **changed)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "header",
    [None, "{", "null", "[" * 100_000, '{"schema": "edgekd.cache/1"}', '{"schema": "edgekd.cache/1", "seal": ""}'],
    ids=["none", "cut", "null", "deep", "bare", "unsealed"],
)
def test_a_folder_without_a_sound_header_is_refused(tmp_path: Path, header: str | None) -> None:
    store(tmp_path)
    path = tmp_path / "header.json"
    path.unlink() if header is None else path.write_text(header)
    with pytest.raises(DataError, match="no header of stored answers"):
        store(tmp_path)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("layout", "samples", 20),
        ("layout", "views", 0),
        ("layout", "rows", 0),
        ("layout", "classes", 6),
        ("layout", "features", [["a"]]),
        ("identity", "taps", None),
        ("identity", "data", "d "),
    ],
)
def test_an_edited_header_is_refused(tmp_path: Path, part: str, key: str, value: Any) -> None:
    store(tmp_path)
    path = tmp_path / "header.json"
    header = json.loads(path.read_text())
    header[part][key] = value
    path.write_text(json.dumps(header))
    with pytest.raises(DataError, match=r"header\.json: (no header|this header .* was edited)"):
        store(tmp_path)


def test_a_class_that_is_none_is_refused(tmp_path: Path) -> None:
    stored = store(tmp_path, top_k=2)
    shard = tmp_path / "0000-000000000.npy"
    records = np.load(shard)
    records["classes"][3] = 60_000
    np.save(shard, records)
    with stored.ready(CPU, TAPS) as looked_up, pytest.raises(DataError, match="names class 60000 of 5; delete"):
        looked_up(torch.zeros(0), torch.arange(5), 0)


def test_the_header_says_what_is_stored_and_nothing_of_this_machine(tmp_path: Path) -> None:
    store(tmp_path / "c", top_k=2)
    text = (tmp_path / "c" / "header.json").read_text()
    header = json.loads(text)
    assert header["schema"] == "edgekd.cache/1"
    assert header["identity"] == {
        "data": "d", "seed": 3, "teacher": Counting().fingerprint, "taps": list(TAPS), "views": 3, "top_k": 2,
    }  # fmt: skip
    assert header["layout"]["features"] == [[8, 4, 4], [16]]
    assert str(tmp_path) not in text


def layout(classes: int, top_k: int | None = None) -> Layout:
    return Layout(samples=1, views=1, classes=classes, top_k=top_k, features=(), rows=1)


def random_logits(seed: int, scale: float, classes: int = 20) -> torch.Tensor:
    return torch.randn(16, classes, generator=torch.Generator().manual_seed(seed)) * scale


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 1000), st.floats(0.25, 20))
def test_the_stated_bound_of_float16_holds(seed: int, scale: float, temperature: float) -> None:
    logits = random_logits(seed, scale)
    stored = torch.from_numpy(restored_logits(records_of(Answers(logits, ()), layout(20)), layout(20)))
    assert ((stored - logits).abs() <= 2**-11 * logits.abs() + 2**-25).all()
    true, found = (torch.log_softmax(values.double() / temperature, dim=1) for values in (logits, stored))
    bound = 2 * (2**-11 * logits.abs() + 2**-25).amax(dim=1, keepdim=True) / temperature
    assert ((true - found).abs() <= bound.double() + 1e-12).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 20), st.floats(1, 20), st.integers(1, 19))
def test_the_stated_bound_of_top_k_holds(seed: int, scale: float, temperature: float, top_k: int) -> None:
    logits = random_logits(seed, scale)
    kept = layout(20, top_k)
    stored = torch.from_numpy(restored_logits(records_of(Answers(logits, ()), kept), kept))
    true, found = (torch.softmax(values.double() / temperature, dim=1) for values in (logits, stored))
    variation = (true - found).abs().sum(dim=1) / 2
    order = logits.argsort(dim=1, descending=True, stable=True)
    tail_mass = found.gather(1, order[:, top_k:]).sum(dim=1)
    rounding = 2 * (2**-11 * logits.abs() + 2**-20).amax(dim=1) / temperature
    assert (variation <= tail_mass + rounding).all()
    # at temperature 1 the largest classes keep their probabilities
    at_1 = (torch.softmax(values.double(), dim=1).gather(1, order[:, :top_k]) for values in (logits, stored))
    torch.testing.assert_close(*at_1, rtol=1e-2 * max(1, scale), atol=1e-3)


def test_the_tail_mass_is_measured(tmp_path: Path) -> None:
    stored = store(tmp_path, top_k=2)
    masses = []
    for view in range(3):
        records = stored.records(np.arange(53), view)
        found = torch.softmax(torch.from_numpy(restored_logits(records, stored.layout)) / 2, dim=1)
        masses.append(1 - found.gather(1, torch.from_numpy(records["classes"].astype(np.int64))).sum(dim=1))
    mean, largest = stored.tail_mass(2.0)
    assert mean == pytest.approx(float(torch.cat(masses).mean()), rel=1e-3)
    assert largest == pytest.approx(float(torch.cat(masses).max()), rel=1e-3)


def test_what_top_k_leaves_out_is_told(tmp_path: Path) -> None:
    heard = Heard()
    stored = store(tmp_path, top_k=2, temperatures=[1.0, 4.0], progress=heard)
    texts = [
        f"{share(mean)} on average and {share(largest)} at most at temperature {temperature:g}"
        for temperature in (1.0, 4.0)
        for mean, largest in [stored.tail_mass(temperature)]
    ]
    told = (
        f"teacher cache: 2 of 5 logits are stored; the others share {', '.join(texts)}. No stored answer is further "
        "than that from the teacher's (total variation)"
    )
    assert heard.notes[-1] == told
    again = Heard()
    store(tmp_path, top_k=2, temperatures=[1.0, 4.0], progress=again)
    assert again.notes[-1] == told
    whole = Heard()
    assert store(tmp_path / "whole", progress=whole).tail_mass(1.0) == (0, 0)
    assert len(whole.notes) == 1


def test_what_float16_cannot_hold_is_refused() -> None:
    for value in (1e5, float("nan"), float("inf")):
        with pytest.raises(ModelError, match="the teacher's logits reach"):
            records_of(Answers(torch.tensor([[value, 0.0]]), ()), layout(2))


def test_a_size_that_does_not_fit_is_refused_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    teacher = Counting()
    with pytest.raises(OutputError, match=r"need 0 MB, 0 MB are free; lower distill\.cache\.views"):
        store(tmp_path, teacher)
    assert teacher.asked == 2
    assert not list(tmp_path.glob("*.npy"))


def test_the_size_is_said_before_it_starts(tmp_path: Path) -> None:
    notes: list[str] = []

    class Listener:
        @contextmanager
        def task(self, title: str, total: int, done: int = 0) -> Iterator[Any]:
            notes.append(f"{title}: {done} of {total}")
            yield type("Task", (), {"advance": lambda self, units=1, note=None: None})()

        def note(self, message: str) -> None:
            notes.append(message)

    store(tmp_path, progress=Listener(), taps=())
    size = 3 * 53 * 10
    assert notes == [
        f"teacher cache: 53 samples x 3 views of 10 bytes, {size / 1e6:.1f} MB; {size / 1e6:.1f} MB of it to write",
        "ask the teacher: 0 of 159",
    ]
    assert sum(path.stat().st_size for path in tmp_path.glob("*.npy")) == size + 18 * (128 + 4)


@pytest.mark.parametrize("taps", [(), ("flatten",), ("flatten", "layer2"), ("flatten", "flatten")])
def test_fewer_features_than_the_stored_ones_are_looked_up(tmp_path: Path, taps: tuple[str, ...]) -> None:
    store(tmp_path)
    teacher = Counting()
    fewer = store(tmp_path, teacher, taps=taps)
    assert teacher.asked == 0
    batch = next(BATCHES.epoch(1))
    with teacher.ready(CPU, taps) as live, fewer.ready(CPU, taps) as looked_up:
        expected = live(batch.inputs, batch.positions, 1)
        found = looked_up(torch.zeros(0), batch.positions, 1)
    torch.testing.assert_close(found.logits, expected.logits, rtol=2**-11, atol=1e-3)
    assert len(found.features) == len(taps)
    for one, other in zip(found.features, expected.features, strict=True):
        torch.testing.assert_close(one, other, rtol=2**-10, atol=1e-3)


def test_what_is_missing_is_filled_with_all_features_that_were_asked_for(tmp_path: Path) -> None:
    store(tmp_path)
    before = contents(tmp_path)
    next(iter(sorted(tmp_path.glob("*.npy")))).unlink()
    store(tmp_path, taps=())
    assert contents(tmp_path) == before


def test_other_features_than_the_stored_ones_cannot_be_had(tmp_path: Path) -> None:
    stored = store(tmp_path)
    with pytest.raises(DataError, match="holds the features"):
        stored.ready(CPU, ("layer1",)).__enter__()
