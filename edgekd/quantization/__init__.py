"""From an fp32 ONNX file to an INT8 one for a given target."""
