"""Image folders: classes, sizes, laziness and damage."""

from __future__ import annotations

import pickle
import tarfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from edgekd.data import image_folder
from edgekd.data.image_folder import ImageFolder, decode
from edgekd.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EVERY = np.arange(4)


@pytest.fixture
def four(make_images: Callable[..., Path]) -> Path:
    return make_images("dog/b.png", "dog/a.png", "cat/z.png", "cat/deep/y.PNG")


def test_classes_are_the_sorted_folders(four: Path) -> None:
    (four / "dog" / ".DS_Store").write_bytes(b"")
    (four / "dog" / "._b.png").write_bytes(b"")
    (four / "notes.txt").write_text("not an image")
    (four / ".git").mkdir()
    (four / ".git" / "x.png").write_bytes(b"")
    source = ImageFolder(four)
    assert source.classes == ("cat", "dog")
    assert source.labels is not None
    assert source.labels.tolist() == [0, 0, 1, 1]
    assert source.predefined_test is None
    expected = [four / name for name in ("cat/deep/y.PNG", "cat/z.png", "dog/a.png", "dog/b.png")]
    np.testing.assert_array_equal(source.pixels(EVERY), [np.asarray(Image.open(path)) for path in expected])


def test_train_and_test_folders_give_the_test_split(make_images: Callable[..., Path]) -> None:
    source = ImageFolder(make_images("train/a/1.png", "train/b/2.png", "test/b/3.png"))
    assert source.classes == ("a", "b")
    assert source.labels is not None
    assert source.predefined_test is not None
    assert source.labels.tolist() == [1, 0, 1]
    assert source.predefined_test.tolist() == [True, False, False]


def test_the_number_before_the_underscore(make_images: Callable[..., Path]) -> None:
    folder = make_images("n01/0007_a_b.png", "n02/0002_c.png")
    source = ImageFolder(folder, labels="prefix")
    assert source.labels is not None
    assert source.labels.tolist() == [7, 2]
    assert source.classes == tuple("01234567")
    with pytest.raises(DataError, match=r"sample 0 has label 7, which is out of range; expected .* 0 to 4"):
        ImageFolder(folder, labels="prefix", classes=tuple("abcde"))
    (folder / "n01" / "0007_a_b.png").rename(folder / "n01" / "seven_a.png")
    with pytest.raises(DataError, match=r"seven_a\.png: no class number in its name"):
        ImageFolder(folder, labels="prefix")
    (folder / "n01" / "seven_a.png").rename(folder / "n01" / f"{10**30}_a.png")
    with pytest.raises(DataError, match="a class number is out of range: 1000"):
        ImageFolder(folder, labels="prefix")


@pytest.mark.parametrize(
    ("rows", "labels", "classes"),
    [
        (["dog/b.png,3", "cat/z.png,0"], [0, 3], ("0", "1", "2", "3")),
        (["dog/b.png,Hund", "cat/z.png,Katze"], [1, 0], ("Hund", "Katze")),
        (["dog/b.png,1", "cat/z.png,one"], [1, 0], ("1", "one")),
        (["dog/b.png, 1 ", "cat/z.png, 0"], [0, 1], ("0", "1")),
    ],
)
def test_labels_from_a_csv_file(four: Path, rows: list[str], labels: list[int], classes: tuple[str, ...]) -> None:
    (four / "truth.csv").write_text("\n".join(["file,label", *rows]))
    source = ImageFolder(four, labels="truth.csv")
    assert source.labels is not None
    assert (source.labels.tolist(), source.classes) == (labels, classes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\n", r"truth\.csv: expected the columns file,label in its first line, found \['name', 'label'\]"),
        ("", r"found None"),
        ("file,label\n", "it names no images"),
        ("file,label\ndog/x.png,1\n", r"line 2: 'dog/x\.png' is no image in this folder"),
        ("file,label\ndog/a.png,1\ndog/a.png,1\n", r"line 3: 'dog/a\.png' is named a second time"),
        ("file,label\ndog/a.png,\n", r"line 2: no label for 'dog/a\.png'"),
        ("file,label\ndog/a.png\n", r"line 2: no label for 'dog/a\.png'"),
        ("file,label\ndog/a.png,-1\n", "label -1, which is out of range"),
        ("file,label\n\xff", "not a CSV file"),
    ],
)
def test_a_wrong_csv_file(four: Path, text: str, message: str) -> None:
    (four / "truth.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        ImageFolder(four, labels="truth.csv")


def test_no_such_csv_file(four: Path) -> None:
    (four / "truth.csv").write_text("file,label\n")
    with pytest.raises(DataError, match=r"labels = 'truht\.csv': no such CSV.* \(perhaps you meant 'truth\.csv'\?\)"):
        ImageFolder(four, labels="truht.csv")
    with pytest.raises(DataError, match=r"labels = 'prefx'.* \(perhaps you meant 'prefix'\?\)"):
        ImageFolder(four, labels="prefx")


def test_the_models_class_names_rule(four: Path) -> None:
    source = ImageFolder(four, classes=("bird", "cat", "dog"))
    assert source.labels is not None
    assert (source.labels.tolist(), source.classes) == ([1, 1, 2, 2], ("bird", "cat", "dog"))
    renamed = ImageFolder(four, classes=("Katze", "Hund"))
    assert renamed.labels is not None
    assert (renamed.labels.tolist(), renamed.classes) == ([0, 0, 1, 1], ("Katze", "Hund"))
    with pytest.raises(DataError, match=r"2 classes, the model 3.* not know 'cat' \(perhaps you meant 'cats'\?\)"):
        ImageFolder(four, classes=("bird", "cats", "dogs"))


def test_images_without_folders_have_no_labels(make_images: Callable[..., Path]) -> None:
    folder = make_images("b.png", "a.png")
    source = ImageFolder(folder)
    assert source.labels is None
    assert len(source) == 2
    make_images("dog/c.png")
    with pytest.raises(DataError, match=r"2 images in no class folder, such as 'a\.png'; expected <class>/<image>"):
        ImageFolder(folder)


def test_no_folder_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        ImageFolder(tmp_path / "nowhere")
    (tmp_path / "readme.txt").write_text("")
    with pytest.raises(DataError, match="no images; expected <class>/<image>"):
        ImageFolder(tmp_path)


def test_images_come_in_the_size_of_the_first(make_images: Callable[..., Path]) -> None:
    folder = make_images("a/1.png", size=(6, 10))
    make_images("b/2.png", size=(12, 12))
    assert ImageFolder(folder).pixels(np.array([0, 1])).shape == (2, 6, 10, 3)
    assert ImageFolder(folder, size=(4, 4), colour="gray").pixels(np.array([0, 1])).shape == (2, 4, 4, 1)


@pytest.mark.parametrize(
    ("given", "wanted", "scaled"),
    [((8, 12), (4, 4), (4, 6)), ((12, 8), (4, 4), (6, 4)), ((5, 5), (9, 3), (9, 9)), ((3, 7), (3, 5), (3, 7))],
)
def test_the_resize_rule(
    tmp_path: Path, given: tuple[int, int], wanted: tuple[int, int], scaled: tuple[int, int]
) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*given, 3), dtype=np.uint8))
    image.save(tmp_path / "a.png")
    top, left = (scaled[0] - wanted[0]) // 2, (scaled[1] - wanted[1]) // 2
    whole = np.asarray(image.resize(scaled[::-1], Image.Resampling.BICUBIC))
    expected = whole[top : top + wanted[0], left : left + wanted[1]]
    np.testing.assert_array_equal(decode(tmp_path / "a.png", wanted, "RGB"), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "transparent P"])
def test_every_kind_of_image_becomes_the_wanted_mode(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image = Image.new("RGB", (4, 4), (200, 100, 50)).convert(mode.removeprefix("transparent "))
    image.save(path, **({"transparency": bytes(16)} if mode == "transparent P" else {}))
    assert decode(path, (4, 4), "RGB").shape == (4, 4, 3)
    assert decode(path, (4, 4), "L").shape == (4, 4, 1)


def test_a_broken_image_is_named(four: Path) -> None:
    whole = (four / "dog" / "b.png").read_bytes()
    for content, problem in (
        (b"", "not an image of a known format"),
        (b"no image", "not an image of a known format"),
        (whole[:60], "a damaged image: .*truncated"),
        (whole[:-30], "a damaged image: .*truncated"),
        (whole[:60] + bytes(40) + whole[100:], "a damaged image: "),
    ):
        (four / "dog" / "b.png").write_bytes(content)
        with pytest.raises(DataError, match=rf"dog/b\.png: {problem}.*; replace or remove it"):
            ImageFolder(four).pixels(EVERY)
    (four / "dog" / "b.png").unlink()
    source = ImageFolder(four)
    (four / "dog" / "a.png").unlink()
    with pytest.raises(DataError, match=r"dog/a\.png: no such image"):
        source.pixels(np.array([2]))


def test_deep_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="more than 8 bits a channel"):
        decode(tmp_path / "a.png", (4, 4), "L")


@pytest.mark.parametrize(("cache_mb", "reads"), [(0, 6), (1, 3)])
def test_images_are_decoded_when_asked_for_and_kept_if_all_fit(
    four: Path, monkeypatch: pytest.MonkeyPatch, cache_mb: int, reads: int
) -> None:
    decoded: list[str] = []

    def spy(path: Path, size: tuple[int, int], mode: str) -> np.ndarray:
        decoded.append(path.name)
        return decode(path, size, mode)

    source = ImageFolder(four, cache_mb=cache_mb)
    expected = ImageFolder(four).pixels(EVERY)
    monkeypatch.setattr(image_folder, "decode", spy)
    assert not decoded
    for rows in (np.array([2, 0]), np.array([0, 3]), np.array([3, 3])):
        np.testing.assert_array_equal(source.pixels(rows), expected[rows])
    assert len(decoded) == reads


def test_more_than_the_budget_is_not_kept(make_images: Callable[..., Path]) -> None:
    folder = make_images("a/1.png", size=(600, 600))
    assert ImageFolder(folder, cache_mb=1)._cache is None
    assert ImageFolder(folder, cache_mb=2)._cache is not None


def test_decoded_images_do_not_travel_to_workers(four: Path) -> None:
    source = ImageFolder(four, cache_mb=1)
    expected = source.pixels(EVERY)
    copy = pickle.loads(pickle.dumps(source))
    assert "_cache" not in copy.__dict__
    np.testing.assert_array_equal(copy.pixels(EVERY), expected)


def test_the_fingerprint_follows_content_labels_and_names(four: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [ImageFolder(four).fingerprint]
    assert ImageFolder(four, cache_mb=1).fingerprint == found[0]
    (four / "truth.csv").write_text("file,label\ncat/z.png,1\ncat/deep/y.PNG,1\ndog/a.png,1\ndog/b.png,1\n")
    found.append(ImageFolder(four, labels="truth.csv").fingerprint)
    (four / "dog" / "a.png").write_bytes((four / "dog" / "b.png").read_bytes())
    found.append(ImageFolder(four).fingerprint)
    (four / "dog" / "a.png").rename(four / "dog" / "c.png")
    found.append(ImageFolder(four).fingerprint)
    monkeypatch.setattr(image_folder, "HASHED_BYTES", 10)
    found.append(ImageFolder(four).fingerprint)
    (four / "dog" / "c.png").write_bytes((four / "dog" / "b.png").read_bytes()[::-1])
    assert ImageFolder(four, size=(8, 8)).fingerprint == found[-1], "beyond the limit only names and sizes count"
    assert len(set(found)) == 5


def test_real_photographs(imagenet_sample: Path, tmp_path: Path) -> None:
    with tarfile.open(imagenet_sample) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.0 to 3.11.3 have none
        archive.extractall(tmp_path)
    source = ImageFolder(tmp_path / "imagenet-sample", labels="prefix")
    assert source.labels is not None
    assert source.labels.tolist() == list(range(0, 1000, 2))
    assert source.pixels(np.array([0, 499])).shape == (2, 224, 224, 3)


def test_a_size_that_no_device_could_run(four: Path) -> None:
    for size in ((100_000, 100_000), (10**20, 1)):
        with pytest.raises(DataError, match="has more than 67,108,864 values"):
            ImageFolder(four, size=size)


def test_a_loop_of_links_is_named(four: Path) -> None:
    (four / "cat" / "loop").symlink_to(four)
    (four / "self.png").symlink_to(four / "self.png")
    with pytest.raises(DataError, match="loop"):
        ImageFolder(four)
