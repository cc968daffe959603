/* What Android's onnxruntime has and a desktop's has not. */
void *OrtSessionOptionsAppendExecutionProvider_Nnapi(void *options, unsigned flags) { return 0; }
