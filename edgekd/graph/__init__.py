"""ONNX passes, one a file. Each changes a model in place and says what it requires, ensures and returns."""
