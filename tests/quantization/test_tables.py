from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekd import quantize
from edgekd.quantization.tables import quantize_tables, table_lookups
from edgekd.runtime import open_model


def embedding(extra: str = "", opset: int = 18) -> onnx.ModelProto:
    """Return a look-up of rows of very different columns, and a product."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}]> g (int64[N, 5] ids) => (float[N, 5, 3] y) {{
            [look] e = Gather <axis = 0> (table, ids)
            {extra}
            [product] y = MatMul(e, w)
        }}"""
    )
    rng = np.random.default_rng(0)
    table = rng.normal(size=(50, 50)) * np.logspace(-2, 2, 50)
    for name, value in (("table", table), ("w", rng.normal(size=(50, 3)))):
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def columns() -> onnx.ModelProto:
    """Return a look-up along the other axis."""
    model = embedding()
    model.graph.node[0].attribute[0].i = 1
    return model


def test_a_table_is_stored_in_8_bits_with_a_scale_for_each_column() -> None:
    model = embedding()
    table = numpy_helper.to_array(model.graph.initializer[0])
    model.graph.output.append(onnx.helper.make_tensor_value_info("e", onnx.TensorProto.FLOAT, ["N", 5, 50]))
    lookups = table_lookups(model)
    assert lookups == {"look": "table"}
    quantize_tables(model, lookups)
    onnx.checker.check_model(model, full_check=True)
    assert numpy_helper.to_array(model.graph.initializer[0]).dtype == np.int8
    ids = np.arange(50).reshape(10, 5)
    found = open_model(model.SerializeToString()).run({"ids": ids}, ["e"])[0].reshape(50, 50)
    steps = np.abs(table).max(axis=0) / 127
    assert (np.abs(found - table) <= 0.5001 * steps).all()


@pytest.mark.parametrize(
    "model",
    [
        columns(),
        embedding("[other] t = MatMul(table, w)"),
        embedding(opset=12),
    ],
    ids=["columns", "read elsewhere", "old opset"],
)
def test_other_tables_are_left_alone(model: onnx.ModelProto) -> None:
    assert table_lookups(model) == {}


def test_the_file_holds_the_table_in_8_bits_on_a_cpu_that_needs_7_elsewhere() -> None:
    ids = np.random.default_rng(1).integers(0, 50, (30, 5))
    content = quantize(embedding().SerializeToString(), {"ids": ids}, None, target="x86-avx2").content
    values = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(content).graph.initializer
    }
    assert values["table"].dtype == np.int8
    assert (np.abs(values["table"].astype(int)).max(axis=0) == 127).all()
