"""What distillation gains in accuracy: CIFAR-10, a student of 8 layers, every method with the same pixels.

    EDGEKD_DATA=FOLDER python benchmarks/distill/accuracy.py --teacher TEACHER.onnx

FOLDER holds cifar10-imagefolder.tar.gz. Runs are written to results-accuracy.json beside this file one by one, those
that are there already are kept, and a killed run continues from its checkpoint in the folder --work: the command can
be stopped and started at will. At the end it prints the tables of the README.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cifar
import numpy as np
import torch
from judgement import RESULTS, accuracies, compare, print_table
from methods import METHODS, TEACHER_TAPS, Pairs, Terms

import edgekd
from edgekd.artifact import library_versions, locked_folder, sha256_file, write_json
from edgekd.data.torch_data import tensor_batches
from edgekd.distillation.engine import stored_answers
from edgekd.distillation.state import Checkpoints
from edgekd.distillation.training import Augmentation
from edgekd.metrics import top1
from edgekd.models import build
from edgekd.recipe import DistillSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgekd.data.samples import Samples
    from edgekd.data.splits import Splits

STUDENT = "resnet8"
TRAINING = (
    *("epochs", "keep", "batch_size", "optimizer", "learning_rate", "momentum", "weight_decay", "warmup"),
    "label_smoothing",
)  # what all methods have in common
SEEDS, MORE_SEEDS = (0, 1, 2), (3, 4)  # of every method; of the control and the winner besides
LEARNING_RATE = 0.05  # of CRD's code for batches of 64; the rest are edgekd's defaults
AUGMENTATION = Augmentation(crop_padding=4, flip=True)


def settings(terms: Terms, pairs: Pairs, epochs: int) -> DistillSettings:
    """Return how a student is trained; besides the terms it is the same for all methods, the control included."""
    chosen: dict[str, Any] = {
        "epochs": epochs,
        "learning_rate": LEARNING_RATE,
        "keep": "last",
        "cache": {"views": epochs},
        "terms": terms,
        "taps": {"pairs": pairs},
    }
    return DistillSettings.model_validate_json(json.dumps(chosen))


class Lines:
    """A listener that prints a line every minute."""

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Lines]:
        """Report a task."""
        self.title, self.total, self.done, self.said = title, total, done, time.monotonic()
        yield self

    def advance(self, units: int = 1, note: str | None = None) -> None:
        """Note that units are done."""
        self.done += units
        if time.monotonic() - self.said >= 60:
            self.said = time.monotonic()
            print(f"{self.title}: {self.done} of {self.total}  {note or ''}", flush=True)

    def note(self, message: str) -> None:
        """Print a message."""
        print(message, flush=True)


class Study:
    """The runs that are done, in a file, and how to make another one."""

    def __init__(self, teacher: Path, splits: Splits, work: Path, results: Path, epochs: int) -> None:
        self._teacher = cifar.teacher(teacher, splits)
        self._splits, self._work, self._results = splits, work, results
        self._epochs = epochs
        self._answers = work / "answers"
        training = settings(*METHODS["control"], epochs).effective()
        self._protocol = {
            "student": STUDENT,
            "teacher_sha256": sha256_file(teacher),
            "train": len(splits.train),
            "train_sha256": splits.train.fingerprint,
            "test": len(splits.test),
            "training": {key: training[key] for key in TRAINING},
            "views": epochs,
            "augmentation": {"crop_padding": AUGMENTATION.crop_padding, "flip": AUGMENTATION.flip},
        }
        self._content: dict[str, Any] = {"teacher_top1": None, "runs": []}
        if results.exists():
            self._content = json.loads(results.read_bytes())
            if self._content["protocol"] != self._protocol:
                raise SystemExit(f"{results}: holds runs of another protocol; name another file with --results")

    def prepare(self) -> None:
        """Ask the teacher about the test split, and store its answers to all that the trainings will ask."""
        if self._content["teacher_top1"] is None:
            answers = self._teacher_on_test()
            self._content["teacher_top1"] = round(top1(answers, self._splits.test.labels), 4)
        all_taps = tuple(("layer3", tap) for tap in TEACHER_TAPS)
        every = settings(({"kind": "hint"},), all_taps, self._epochs)
        stored_answers(self._teacher, self._splits.train, every, AUGMENTATION, self._answers, progress=Lines())

    def run(self, method: str, seed: int) -> None:
        """Train and judge one student, unless that is done."""
        if seed in (run["seed"] for run in self._content["runs"] if run["method"] == method):
            return
        chosen = settings(*METHODS[method], self._epochs)
        key = json.dumps([method, seed, chosen.effective(), self._protocol], sort_keys=True)
        torch.manual_seed(seed)
        student = build(STUDENT, classes=10, shape=self._splits.contract.shape)
        start, cpu = time.monotonic(), time.process_time()
        trained = edgekd.distill(
            student,
            self._teacher,
            self._splits.train,
            self._splits.validation,
            settings=chosen,
            augmentation=AUGMENTATION,
            seed=seed,
            checkpoints=Checkpoints(path=self._work / "checkpoint.pt", key=key, every_s=60),
            cache_folder=self._answers,
            title=f"{method}, seed {seed}",
            progress=Lines(),
        )
        seconds, cpu = time.monotonic() - start, time.process_time() - cpu
        logits = outputs(trained.module, self._splits.test)
        run = {
            "method": method,
            "seed": seed,
            "test_top1": round(top1(logits, self._splits.test.labels), 4),
            "train_loss": trained.history[-1].loss,
            "seconds": round(seconds),
            "cpu_seconds": round(cpu),
            "threads": torch.get_num_threads(),
        }
        self._content["runs"].append(run)
        self._write()
        print(json.dumps(run), flush=True)

    def winner(self) -> str:
        """Return the method with the highest mean over the seeds that all have."""
        means = {
            method: np.mean([run["test_top1"] for run in self._content["runs"]
                             if run["method"] == method and run["seed"] in SEEDS])
            for method in METHODS if method != "control"
        }  # fmt: skip
        return max(means, key=lambda method: means[method])

    def _write(self) -> None:
        write_json(
            self._results,
            {
                "schema": "edgekd.benchmark/1",
                "study": "distill-accuracy",
                "protocol": self._protocol,
                "teacher_top1": self._content["teacher_top1"],
                "versions": library_versions(["numpy", "onnxruntime", "scipy", "torch"]),
                "methods": compare(accuracies(self._content["runs"])),
                "runs": self._content["runs"],
            },
        )

    def _teacher_on_test(self) -> np.ndarray:
        with self._teacher.ready(torch.device("cpu"), ()) as ask:
            found = [ask(batch.inputs, batch.positions, 0).logits for batch in tensor_batches(self._splits.test, 250)]
        return torch.cat(found).numpy()


@torch.no_grad()
def outputs(module: torch.nn.Module, samples: Samples) -> np.ndarray:
    """Return a network's logits for all samples."""
    return torch.cat([module(batch.inputs) for batch in tensor_batches(samples, 250)]).numpy()


def main() -> None:
    """Run what is missing, seed by seed, so that the table is balanced whenever it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--teacher", type=Path, required=True, help="ONNX file: RGB / 255, 10 classes in sorted order"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/distill-study"), help="images, answers, checkpoint")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--train", type=int, default=20_000, help="training images")
    parser.add_argument("--epochs", type=int, default=12)
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    with locked_folder(chosen.work):
        splits = cifar.images(chosen.work, chosen.train)
        study = Study(chosen.teacher, splits, chosen.work, chosen.results, chosen.epochs)
        study.prepare()
        for seed in SEEDS:
            for method in METHODS:
                study.run(method, seed)
        for seed in MORE_SEEDS:
            for method in ("control", study.winner()):
                study.run(method, seed)
        print_table(json.loads(chosen.results.read_bytes())["runs"])


if __name__ == "__main__":
    main()
