// Private to graph/onnx and its tests.
#pragma once
#include "graph/onnx/onnx.h"

// zg_onnx_export with the size, in bytes, above which weights go to external data (zg_onnx_export: protobuf's
// 2 GB).
zg_status zg__onnx_export(zg_onnx_model *m, const zg_onnx_replacement *r, uint32_t n, const char *path,
                          uint64_t limit);
