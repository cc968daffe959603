from __future__ import annotations

import copy
import re
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgekd.errors import RecipeError
from edgekd.recipe import DistillSettings, Recipe, recipe_schema
from edgekd.recipe_file import load_recipe, parse_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

GOOD: dict[str, Any] = {
    "name": "d",
    "data": {"source": "digits"},
    "teacher": {"model": "resnet20"},
    "student": {"model": "resnet8"},
}


def changed(key: str, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    table = document
    *sections, last = key.split(".")
    for section in sections:
        table = table.setdefault(section, {})
    table[last] = value
    return document


def write(folder: Path, text: str) -> Path:
    path = folder / "r.toml"
    path.write_text(text)
    return path


MINIMAL = 'name = "d"\ndata.source = "digits"\nteacher.model = "resnet20"\nstudent.model = "resnet8"\n'


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("data.tset", 0.1, "unknown key 'data.tset' (perhaps you meant 'test'?)"),
        ("techer", {}, "unknown key 'techer' (perhaps you meant 'teacher'?)"),
        ("distill.temprature", 4.0, "unknown key 'distill.temprature' (perhaps you meant 'temperature'?)"),
        ("data.test", 1.5, "data.test = 1.5: must be a share of the samples between 0 and 1, or a whole number"),
        ("data.test", True, "data.test = true: must be a share"),
        ("data.source", "idxx", 'data.source = "idxx": must be one of: digits, idx, image-folder, npz'),
        ("data", {}, "the key 'data.source' is missing"),
        (
            "data.transfer",
            {"source": "rest", "sample": 3},
            "unknown key 'data.transfer.sample' (perhaps you meant 'samples'?)",
        ),
        ("data.transfer", {"source": "reste"}, "data.transfer.source = \"reste\": input should be 'rest', "),
        ("data.transfer", {"source": "rest", "path": "/"}, "data.transfer: the source 'rest' has no path"),
        ("data.transfer", {"source": "npz"}, "data.transfer: the key 'path' is missing: where the samples of"),
        (
            "data.transfer",
            {"source": "npz", "path": "/"},
            "data.transfer.path = '/': this is a folder; expected a file",
        ),
        ("data", 3, "data = 3: input should be an object"),
        ("teacher", {}, "teacher: the key 'model' is missing, or 'onnx'"),
        ("teacher.model", 3, "teacher.model = 3: input should be a valid string"),
        ("teacher.onnx", "/", "teacher: give a model or an onnx file, not both"),
        ("teacher.contract", "/", "teacher: contract is for an onnx file"),
        ("teacher", {"onnx": "/nowhere.onnx"}, "teacher.onnx = '/nowhere.onnx': no such file"),
        ("teacher", {"onnx": "/", "checkpoint": "/"}, "teacher: an onnx file has its weights inside"),
        ("distill.terms", [{"kind": "dkdd"}], 'distill.terms.0.kind = "dkdd": must be one of: ce, kd, dkd'),
        ("distill.terms", [{"kind": "dkdd"}], "(perhaps you meant 'dkd'?)"),
        ("distill.terms", [{"kind": "kd"}, {}], "the key 'distill.terms.1.kind' is missing"),
        (
            "distill.terms",
            [{"kind": "kd", "temprature": 4.0}],
            "unknown key 'distill.terms.0.temprature' (perhaps you meant 'temperature'?); known here: kind, start",
        ),
        ("distill.terms", [{"kind": "ce", "temperature": 4.0}], "unknown key 'distill.terms.0.temperature'; known"),
        ("distill.terms", [{"kind": "kd", "weight": -1.0}], "distill.terms.0.weight = -1.0: input should be"),
        (
            "distill.terms",
            [{"kind": "kd", "start": 0.5, "stop": 0.5}],
            "distill.terms.0: start = 0.5 must be below stop = 0.5",
        ),
        ("distill.terms", [{"kind": "kd", "start": 0.5}], "distill: no term counts from 0 of the training on"),
        ("distill.terms", [{"kind": "kd", "stop": 0.5}], "distill: no term counts from 0.5 of the training on"),
        ("distill.terms", [{"kind": "kd", "weight": 0.0}], "distill: no term counts from 0 of the training on"),
        (
            "distill.terms",
            [{"kind": "hint"}],
            "distill: the term 'hint' compares features: name them with taps.pairs",
        ),
        (
            "distill",
            {"terms": [{"kind": "sp", "pairs": [1]}], "taps": {"pairs": [["a", "b"]]}},
            "distill: the term 'sp' asks for pair 1, counted from 0; taps.pairs has 1",
        ),
        (
            "distill",
            {"terms": [{"kind": "kd"}], "alpha": 0.5, "temperature": 2.0},
            "distill: alpha and temperature belong to the terms where terms are given",
        ),
        (
            "distill.taps",
            {"pair": []},
            "unknown key 'distill.taps.pair' (perhaps you meant 'pairs'?); known here: pairs",
        ),
        ("distill.taps.pairs", [["a"]], "distill.taps.pairs.0"),
        ("distill.cache", {"view": 2}, "unknown key 'distill.cache.view' (perhaps you meant 'views'?)"),
        (
            "distill.confidence.threshold",
            2.0,
            "distill.confidence.threshold = 2.0: input should be less than or equal",
        ),
        ("distill.temperature", "4", 'distill.temperature = "4": input should be a valid number'),
        ("distill.temperature", 0.0, "distill.temperature = 0.0: input should be greater than or equal to 0.01"),
        ("distill.temperature", 1e300, "distill.temperature = 1e+300: input should be less than or equal to 1000"),
        ("distill.temperature", 1e-300, "distill.temperature = 1e-300: input should be greater than or equal to"),
        ("teacher.weight_decay", 1e300, "teacher.weight_decay = 1e+300: input should be less than or equal to 10"),
        ("distill.epochs", 10**400, "distill.epochs: input should be an integer of at most 64 bits"),
        ("data.train", 2**40, "data.train = 1099511627776: input should be less than or equal to 2147483647"),
        ("data.test", 2**40, "data.test = 1099511627776: must be a share"),
        (
            "student.arguments",
            {"a": [1.0, float("inf")]},
            "student.arguments.a.1 = Infinity: input should be a finite",
        ),
        ("student.arguments", {"a": {"b": float("nan")}}, "student.arguments.a.b = NaN: input should be a finite"),
        ("student.arguments", {"a": date(2020, 1, 2)}, "student.arguments.a = 2020-01-02: input should be text"),
        ("data", {"source": "idx", "path": "/" + "x" * 5000}, "no such file"),
        ("distill.epochs", 3.0, "distill.epochs = 3.0: input should be a valid integer"),
        ("distill.alpha", float("nan"), "distill.alpha = NaN: input should be a finite number"),
        ("distill.optimizer", "adam", "distill.optimizer = \"adam\": input should be 'sgd' or 'adamw'"),
        ("bench.repeats", 3, "bench.repeats = 3: input should be a multiple of 2"),
        ("export.opset", 16, "export.opset = 16: input should be greater than or equal to 17"),
        ("name", "../x", 'name = "../x": string should match pattern'),
        ("data", {"source": "npz", "path": "/nowhere/x.npz"}, "data.path = '/nowhere/x.npz': no such file"),
        ("data", {"source": "npz", "path": "/"}, "data.path = '/': this is a folder; expected a file"),
        ("data", {"source": "idx", "path": __file__}, "this is a file; expected a folder"),
        ("teacher.checkpoint", ".", "teacher.checkpoint = '.': this is a folder; expected a file"),
        ("teacher.checkpoint", "x" * 300, "no such file or folder"),
        ("data", {"source": "idx", "path": "/", "mean": ["a"]}, 'data.mean.0 = "a": input should be a valid number'),
        ("data", {"source": "digits", "test": 0.6, "validation": 0.4}, "together leave nothing to train on"),
    ],
)
def test_what_is_wrong_is_named(key: str, value: Any, expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(changed(key, value), "r.toml")
    assert str(caught.value).startswith("r.toml: ")
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_every_problem_gets_its_own_line() -> None:
    document = changed("distill.alpha", 2.0) | {"seed": -1}
    with pytest.raises(RecipeError) as caught:
        parse_recipe(document)
    assert len(str(caught.value).splitlines()) == 2


def test_settings_are_frozen() -> None:
    recipe = parse_recipe(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]


def test_a_missing_file_and_broken_toml(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent\.toml: no such recipe"):
        load_recipe(tmp_path / "absent.toml")
    with pytest.raises(RecipeError, match="not a TOML file"):
        load_recipe(write(tmp_path, "name = "))
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not a TOML file"):
        load_recipe(tmp_path / "r.toml")


def test_overrides_take_toml_values_and_plain_text(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    recipe = load_recipe(path, ["quantize.samples=64", "student.model=mlp-64", "distill.control=false", "seed = 7"])
    assert recipe.quantize.samples == 64
    assert recipe.student.model == "mlp-64"
    assert recipe.distill.control is False
    assert recipe.seed == 7


@pytest.mark.parametrize("override", ["quantize.samples", "=3", "a..b=3", "name.x=3"])
def test_a_malformed_override(tmp_path: Path, override: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        load_recipe(write(tmp_path, MINIMAL), [override])


def test_an_override_is_checked_like_the_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"unknown key 'quantize.sample' \(perhaps you meant 'samples'\?\)"):
        load_recipe(write(tmp_path, MINIMAL), ["quantize.sample=64"])


def test_paths_are_relative_to_the_recipe_and_overrides_to_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.npz").touch()
    (tmp_path / "b.npz").touch()
    text = MINIMAL.replace('data.source = "digits"', 'data = {source = "npz", path = "a.npz"}')
    path = write(tmp_path / "here", text)
    monkeypatch.chdir(tmp_path)
    assert load_recipe(path).data.path == tmp_path / "here" / "a.npz"  # type: ignore[union-attr]
    assert load_recipe(path, ["data.path=b.npz"]).data.path == tmp_path / "b.npz"  # type: ignore[union-attr]
    monkeypatch.setenv("SOMEWHERE", str(tmp_path))
    assert load_recipe(path, ["data.path=$SOMEWHERE/b.npz"]).data.path.name == "b.npz"  # type: ignore[union-attr]
    with pytest.raises(RecipeError, match="environment variable is not set"):
        load_recipe(path, ["data.path=$NOT_SET_ANYWHERE/b.npz"])


def test_effective_settings_hold_no_path_and_nothing_that_only_changes_speed(tmp_path: Path) -> None:
    (tmp_path / "a.npz").touch()
    recipe = parse_recipe(changed("data", {"source": "npz", "path": str(tmp_path / "a.npz")}))
    sections = recipe.effective_sections()
    assert str(tmp_path) not in str(sections)
    assert "workers" not in sections["distill"]
    assert sections["distill"]["temperature"] == 4.0
    assert sections["data"]["validation"] == 0.1


def test_every_number_of_a_recipe_has_a_lowest_and_a_highest_value() -> None:
    def numbers(schema: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(schema, dict):
            if schema.get("type") in ("number", "integer"):
                yield where, schema
            for key, value in schema.items():
                yield from numbers(value, f"{where}.{key}")
        elif isinstance(schema, list):
            for value in schema:
                yield from numbers(value, where)

    found = list(numbers(recipe_schema(), ""))
    assert len(found) > 20
    for where, schema in found:
        # a part of the samples is checked by a function, which the schema cannot show
        if not re.search(r"properties\.(test|validation|calibration)", where):
            assert schema.keys() & {"minimum", "exclusiveMinimum"}, where
            assert schema.keys() & {"maximum", "exclusiveMaximum"}, where


def test_settings_made_in_python_fail_with_one_message_too() -> None:
    with pytest.raises(RecipeError, match=r"^DistillSettings: temperature = -1\.0: input should be greater"):
        DistillSettings(temperature=-1.0)
    with pytest.raises(RecipeError, match=r"^DistillSettings: temprature = 4\.0: extra inputs"):
        DistillSettings(temprature=4.0)  # type: ignore[call-arg,unused-ignore]


def test_a_factorys_arguments_are_left_as_they_are(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL), ["student.arguments.stem.path=weights.bin"])
    assert recipe.student.arguments == {"stem": {"path": "weights.bin"}}


def test_a_recipe_knows_its_folder(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, MINIMAL)).folder == tmp_path.resolve()
    assert parse_recipe(GOOD).folder is None


@pytest.mark.parametrize("text", ["seed = " + "9" * 5000, "seed = " + "[" * 9000])
def test_toml_that_python_cannot_hold(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match="not a TOML file"):
        load_recipe(write(tmp_path, text))
    with pytest.raises(RecipeError, match="seed"):
        load_recipe(write(tmp_path, MINIMAL), [text])


def test_the_schema_describes_every_section() -> None:
    schema = recipe_schema()
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert "squ" in schema["$defs"]["DistillSettings"]["properties"]["temperature"]["description"]


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("recipes/*.toml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_is_sound(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = load_recipe(path, [f"data.path={tmp_path}"] if 'source = "digits"' not in path.read_text() else [])
    assert recipe.name == path.stem


def test_the_loss_is_kd_and_cross_entropy_by_default() -> None:
    kd, ce = parse_recipe(changed("distill", {"alpha": 0.7, "temperature": 3.0})).distill.loss_terms()
    assert (kd.kind, kd.weight, kd.temperature) == ("kd", 0.7, 3.0)  # type: ignore[union-attr]
    assert (ce.kind, ce.weight) == ("ce", 1 - 0.7)
    assert kd.weight_at(0.9) == 0.7


def test_alpha_and_temperature_have_schedules() -> None:
    settings = {"alpha": 0.8, "alpha_end": 0.4, "temperature": 8.0, "temperature_end": 2.0}
    kd, ce = parse_recipe(changed("distill", settings)).distill.loss_terms()
    for share, alpha, temperature in ((0.0, 0.8, 8.0), (0.5, 0.6, 5.0), (1.0, 0.4, 2.0)):
        assert kd.weight_at(share) == pytest.approx(alpha)
        assert ce.weight_at(share) == pytest.approx(1 - alpha)
        assert kd.temperature_at(share) == pytest.approx(temperature)  # type: ignore[union-attr]


def test_a_terms_schedule_runs_through_its_own_time() -> None:
    term = {"kind": "kd", "weight": 1.0, "weight_end": 0.0, "start": 0.5}
    kd, ce = parse_recipe(changed("distill.terms", [term, {"kind": "ce"}])).distill.loss_terms()
    assert [kd.counts(share) for share in (0.0, 0.49, 0.5, 0.99)] == [False, False, True, True]
    assert [kd.weight_at(share) for share in (0.5, 0.75)] == [1.0, 0.5]
    assert ce.counts(0.0)


def test_a_caches_folder_changes_no_result(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + 'distill.cache = {views = 2, path = "answers"}\n')
    recipe = load_recipe(path)
    assert recipe.distill.cache is not None
    assert recipe.distill.cache.path == tmp_path / "answers"
    assert recipe.effective_sections()["distill"]["cache"] == {"views": 2, "seed": 0, "top_k": None}
