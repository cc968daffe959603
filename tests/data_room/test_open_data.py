"""What `--data` takes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgekd.data import ArraySamples, Contract, open_data, open_splits
from edgekd.errors import DataError, RecipeError, UsageError
from edgekd.recipe_file import load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

X = np.arange(24, dtype=np.float32).reshape(6, 4)
IDS = np.arange(12, dtype=np.int64).reshape(6, 2)
CONTRACT = Contract(
    layout="NHWC", shape=(4, 4, 3), colour="BGR", mean=(0.1, 0.2, 0.3), std=(1, 2, 3), labels=("a", "b"), input="x"
)


@pytest.fixture
def recipe(tmp_path: Path, idx_folder: Callable[..., Path]) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(
        f"""
        name = "small"
        seed = 5
        data = {{ source = "idx", path = "{idx_folder().name}" }}
        teacher = {{ model = "mlp" }}
        student = {{ model = "mlp" }}
        """
    )
    return path


def test_an_npz_file_gives_the_inputs_and_leaves_the_rest(make_npz: Callable[..., Path]) -> None:
    path = make_npz(ids=IDS, x=X, labels=np.arange(6), extra=np.zeros(3), odd=np.array([None]))
    samples = open_data(path, inputs=["x", "ids"])
    batch = samples.batch([2, 0])
    assert {name: values.dtype.name for name, values in batch.items()} == {"ids": "int64", "x": "float32"}
    np.testing.assert_array_equal(batch["x"], X[[2, 0]])
    assert samples.labels is not None
    assert samples.labels.tolist() == list(range(6))
    assert samples.name == str(path)
    assert open_data(str(path), inputs=["ids"]).batch([0]).keys() == {"ids"}


def test_mappings_and_samples(make_npz: Callable[..., Path]) -> None:
    arrays = {"x": X, "y": IDS, "labels": np.arange(6)}
    samples = open_data(arrays, inputs=["x"])
    assert samples.batch([0]).keys() == {"x"}
    assert open_data(arrays, inputs=()).batch([0]).keys() == {"x", "y"}
    assert open_data(samples, inputs=["z"]) is samples
    with np.load(make_npz(**arrays)) as archive:
        assert open_data(archive, inputs=["x"]).fingerprint == samples.fingerprint
    with pytest.raises(UsageError, match=r"expected FILE\.npz, a folder .* found ndarray"):
        open_data(X, inputs=["x"])  # type: ignore[arg-type]


def test_an_array_is_missing(make_npz: Callable[..., Path]) -> None:
    message = (
        r"no array for the model's input 'image' \(perhaps you meant 'images'\?\); the model takes: mask, image; "
        r"found: images, mask, labels. Name each array like an input"
    )
    arrays = {"images": X, "mask": X, "labels": np.arange(6)}
    with pytest.raises(DataError, match=rf"data\.npz: {message}"):
        open_data(make_npz(**arrays), inputs=["mask", "image"])
    with pytest.raises(DataError, match=rf"data: {message}"):
        open_data(arrays, inputs=["mask", "image"])


def test_labels_beyond_the_models_classes(make_npz: Callable[..., Path], make_images: Callable[..., Path]) -> None:
    arrays = {"x": X, "labels": np.arange(6)}
    for data in (arrays, make_npz(**arrays)):
        with pytest.raises(
            DataError, match="sample 2 has label 2, which is out of range; expected class indices from 0 to 1"
        ):
            open_data(data, inputs=["x"], contract=CONTRACT)
    with pytest.raises(DataError, match="sample 0 has label 2, which is out of range"):
        open_data(make_images("2_a.png"), inputs=["x"], contract=CONTRACT, labels="prefix")


def test_nothing_there_or_of_no_known_kind(tmp_path: Path, recipe: Path) -> None:
    with pytest.raises(DataError, match=r"none\.npz: no such file or folder; expected FILE\.npz, a folder of images"):
        open_data(tmp_path / "none.npz", inputs=["x"])
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(DataError, match=r"a\.csv: not a kind of data that is known here"):
        open_data(tmp_path / "a.csv", inputs=["x"])
    with pytest.raises(UsageError, match=r"say which split of this recipe: .*small\.toml#test; one of train, "):
        open_data(recipe, inputs=["x"])


def test_a_folder_is_prepared_as_the_contract_says(make_images: Callable[..., Path]) -> None:
    folder = make_images("a/1.png", "b/2.png", "b/3.png", size=(4, 4))
    samples = open_data(folder, inputs=["pixels"], contract=CONTRACT)
    raw = np.concatenate([np.random.default_rng(seed).integers(0, 256, (1, 4, 4, 3), np.uint8) for seed in range(3)])
    expected = (raw[..., ::-1] / 255 - [0.1, 0.2, 0.3]) / [1, 2, 3]
    np.testing.assert_allclose(samples.batch([0, 1, 2])["pixels"], expected, atol=1e-6)
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 1]
    other = open_data(folder, inputs=["pixels"], contract=replace(CONTRACT, std=(1, 1, 1)))
    assert other.fingerprint != samples.fingerprint
    assert open_data(folder, inputs=["x"], contract=CONTRACT).fingerprint == samples.fingerprint


def test_a_folder_without_classes_can_calibrate(make_images: Callable[..., Path]) -> None:
    samples = open_data(make_images("1.png", "2.png"), inputs=["x"], contract=CONTRACT)
    assert (len(samples), samples.labels) == (2, None)


@pytest.mark.parametrize("contract", [None, Contract(layout="as-is", shape=(3,))])
def test_a_folder_needs_a_contract(make_images: Callable[..., Path], contract: Contract | None) -> None:
    with pytest.raises(DataError, match=r"needs the model's input contract .*give one with --contract FILE\.json"):
        open_data(make_images("a/1.png"), inputs=["x"], contract=contract)


def test_a_folder_for_a_model_of_two_inputs(make_images: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"gives one array, the model takes 2: x, y; use an \.npz file"):
        open_data(make_images("a/1.png"), inputs=["x", "y"], contract=CONTRACT)


def test_train_and_test_are_not_mixed(make_images: Callable[..., Path]) -> None:
    folder = make_images("train/a/1.png", "test/a/2.png", "test/b/3.png")
    with pytest.raises(DataError, match=r"holds train/ and test/; say which, such as .*images/test"):
        open_data(folder, inputs=["x"], contract=CONTRACT)
    assert len(open_data(folder / "test", inputs=["x"], contract=CONTRACT)) == 2


def test_a_recipes_split(recipe: Path) -> None:
    own = open_splits(load_recipe(recipe).data, 5)
    samples = open_data(f"{recipe}#test", inputs=["pixels"])
    np.testing.assert_array_equal(samples.batch([3, 1])["pixels"], own.test.batch([3, 1])["input"])
    assert samples.name == f"{recipe}#test"
    assert samples.fingerprint == own.test.fingerprint
    np.testing.assert_array_equal(samples.labels, own.test.labels)
    model = replace(own.contract, mean=(0.0,), std=(1.0,), input="x")
    theirs = open_data(f"{recipe}#validation", inputs=["x"], contract=model).batch([0])["x"]
    assert 0 <= theirs.min() < theirs.max() <= 1, "the model's own contract rules"


def test_a_split_that_does_not_fit(recipe: Path) -> None:
    with pytest.raises(
        UsageError, match=r"#tset: no such split \(perhaps you meant 'test'\?\); expected one of train, "
    ):
        open_data(f"{recipe}#tset", inputs=["x"])
    with pytest.raises(DataError, match=r"images of 6x5 with 1 channels, but the model takes 4x4 with 3"):
        open_data(f"{recipe}#test", inputs=["x"], contract=CONTRACT)
    with pytest.raises(RecipeError, match=r"none\.toml: no such recipe"):
        open_data(f"{recipe.parent}/none.toml#test", inputs=["x"])


def test_samples_of_images_take_the_models_name(recipe: Path) -> None:
    test = open_splits(load_recipe(recipe).data, 5).test
    assert open_data(test, inputs=["x"]).batch([0]).keys() == {"x"}
    assert open_data(test, inputs=()).batch([0]).keys() == {"input"}
    arrays = ArraySamples({"a": X})
    assert open_data(arrays, inputs=["x"]) is arrays
