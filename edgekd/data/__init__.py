"""From files to samples: sources, disjoint splits and the input contract. numpy and pillow only.

`edgekd.data.torch_data` turns them into tensors and is imported by whoever trains.
"""

from __future__ import annotations

from edgekd.data.contract import Contract, card_contract, contract_of_metadata, read_contract
from edgekd.data.opening import DataLike, open_data
from edgekd.data.samples import ArraySamples, ImageSamples, Samples, batches
from edgekd.data.splits import SPLIT_NAMES, Splits, open_splits, stratified_split

__all__ = [
    "ArraySamples",
    "Contract",
    "DataLike",
    "ImageSamples",
    "SPLIT_NAMES",
    "Samples",
    "Splits",
    "batches",
    "card_contract",
    "contract_of_metadata",
    "open_data",
    "open_splits",
    "read_contract",
    "stratified_split",
]
