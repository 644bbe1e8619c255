// Test values of the onnx package: TensorProto, SequenceProto and OptionalProto files.
#pragma once
#include "graph/onnx/onnx.pb-c.h"
#include "graph/type.h"

// One tensor, or those of a sequence. n == 0 and not is_sequence: an empty optional.
typedef struct { uint32_t n; zg_tensor *at; bool is_sequence; } zg_list_of_tensors;

// Reads a file whose content has the type given (a TensorProto unless it says sequence or optional). Memory is never freed: for
// programs that end soon. ZG_UNSUPPORTED for strings, 8-bit floats, complex numbers and kin.
zg_status zg_read_test_value(const char *path, const Onnx__TypeProto *type, zg_list_of_tensors *out);
