"""Which onnxruntime reads which model: the table held against the release that is installed."""

from __future__ import annotations

from itertools import pairwise

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as state

from edgekd.errors import ModelError
from edgekd.graph.operators import Operator, count_operators, opsets
from edgekd.onnx_versions import (
    CONTRIB,
    NEWEST,
    RELEASES,
    late_operators,
    least_onnxruntime,
    version_key,
)
from edgekd.runtime import open_model

NO_LIMIT = 2**31 - 1


def model(
    *nodes: onnx.NodeProto, ir_version: int = 8, functions: list[onnx.FunctionProto] | None = None, **versions: int
) -> onnx.ModelProto:
    """Return nodes that read x and give y, float32 of one element; domains by name, `_` for `.`, "standard" for ""."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph(nodes or [helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    domains = {"standard": 17} | versions
    imports = [
        helper.make_opsetid("" if name == "standard" else name.replace("_", "."), version)
        for name, version in domains.items()
    ]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=functions or [])


def opens(one: onnx.ModelProto) -> bool:
    try:
        open_model(one.SerializeToString())
    except ModelError:
        return False
    return True


def installed() -> tuple[int, ...]:
    return version_key(onnxruntime.__version__)


def row_of_installed() -> int:
    return max(number for number, release in enumerate(RELEASES) if version_key(release.version) <= installed())


def test_the_table_grows() -> None:
    for older, newer in pairwise(RELEASES):
        assert version_key(older.version) < version_key(newer.version)
        assert older.ir_version <= newer.ir_version
        assert older.opset <= newer.opset
        assert older.ml <= newer.ml


def test_the_installed_release_opens_what_the_table_says_and_nothing_newer() -> None:
    known = RELEASES[row_of_installed()]
    assert opens(model(ir_version=known.ir_version))
    assert opens(model(standard=known.opset))
    assert opens(model(ai_onnx_ml=known.ml))
    if version_key(onnxruntime.__version__)[:2] == version_key(NEWEST)[:2]:
        assert not opens(model(ir_version=known.ir_version + 1))
        assert not opens(model(standard=known.opset + 1))
        assert not opens(model(ai_onnx_ml=known.ml + 1))


def test_the_operators_of_com_microsoft_are_those_of_the_installed_release() -> None:
    kernels = {kernel.op_name for kernel in state.get_all_opkernel_def() if kernel.domain == CONTRIB}
    needs = {name: least_onnxruntime(model(helper.make_node(name, ["x"], ["y"], domain=CONTRIB))) for name in kernels}
    older = {name for name, version in needs.items() if version is None or version_key(version) > installed()}
    assert version_key(NEWEST)[:2] != installed()[:2] or not older
    assert len(kernels) > 70


def test_operators_said_to_have_no_kernel_have_none() -> None:
    """For every standard operator of the newest opset: what the table says, and what the installed release lists."""
    ranges: dict[str, list[tuple[int, int]]] = {}
    for kernel in state.get_all_opkernel_def():
        if kernel.domain == "":
            ranges.setdefault(kernel.op_name, []).append(tuple(kernel.version_range))
    wrong = []
    for opset in range(13, RELEASES[row_of_installed()].opset + 1):
        for schema in {onnx.defs.get_schema(name, opset) for name in ranges if known(name, opset)}:
            if schema.has_function or schema.has_context_dependent_function or schema.name == "Constant":
                continue
            since = schema.since_version
            there = any(low == since or (low < since <= high != NO_LIMIT) for low, high in ranges[schema.name])
            least = least_onnxruntime(model(helper.make_node(schema.name, ["x"], ["y"]), standard=opset))
            told = least is not None and version_key(least) <= installed()
            if there != told:
                wrong.append((schema.name, since, there, least))
    assert not wrong


def known(name: str, opset: int) -> bool:
    try:
        return not onnx.defs.get_schema(name, opset).deprecated
    except onnx.defs.SchemaError:
        return False


@pytest.mark.parametrize(
    ("versions", "least"),
    [
        ({"ir_version": 8, "standard": 13}, "1.10.0"),
        ({"ir_version": 8, "standard": 17}, "1.12.0"),
        ({"ir_version": 9, "standard": 17}, "1.15.0"),
        ({"ir_version": 10, "standard": 17}, "1.18.0"),
        ({"ir_version": 8, "standard": 22}, "1.21.0"),
        ({"ir_version": 8, "standard": 17, "ai_onnx_ml": 4}, "1.17.0"),
        ({"ir_version": 99}, None),
        ({"standard": 99}, None),
    ],
)
def test_the_oldest_release_by_versions(versions: dict[str, int], least: str | None) -> None:
    assert least_onnxruntime(model(**versions)) == least


def test_the_oldest_release_by_operators() -> None:
    def least(name: str, domain: str = "", opset: int = 17) -> str | None:
        return least_onnxruntime(model(helper.make_node(name, ["x"], ["y"], domain=domain), standard=opset))

    assert least("QuickGelu", CONTRIB) == "1.16.0"
    assert least("MatMulNBits", CONTRIB) == "1.17.0"
    assert least("NoSuchOperator", CONTRIB) is None
    assert least("QLinearMatMul") == "1.12.0"
    assert least("QLinearMatMul", opset=21) == "1.20.0"
    assert least("RoiAlign", opset=21) == "1.18.0"
    assert least("RoiAlign", opset=22) is None
    assert least("Anything", "my.domain") == "1.12.0"


def test_what_has_no_kernel_is_named_by_its_version() -> None:
    one = model(helper.make_node("RoiAlign", ["x"], ["y"]), standard=25)
    assert late_operators(one) == ["RoiAlign(22)"]
    assert late_operators(model()) == []


def test_operators_are_found_in_sub_graphs_and_functions() -> None:
    branch = model(helper.make_node("Relu", ["x"], ["y"])).graph
    chosen = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    body = helper.make_function(
        *("my.own", "Twice", ["x"], ["y"], [helper.make_node("Gelu", ["x"], ["y"])]),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    one = model(chosen, helper.make_node("Twice", ["x"], ["y"], domain="my.own"), functions=[body], my_own=1)
    assert count_operators(one) == {
        Operator("", "If", 17): 1,
        Operator("", "Relu", 17): 2,
        Operator("", "Gelu", 20): 1,
    }
    assert opsets(one) == {"": 20, "my.own": 1}


def test_versions_are_compared_as_numbers() -> None:
    assert version_key("1.9.0") < version_key("1.10.0") < version_key("1.10.1")
    assert version_key("1.33.0.dev20260101") == (1, 33, 0)
    assert version_key("1.33.0rc1") == (1, 33)
