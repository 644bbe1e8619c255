// libFuzzer target: any bytes as a model. Load, read every tensor, import, export: a status or a result,
// never a crash.
//   meson setup build-fuzz -Dfuzz=true -Db_lundef=false (clang); build-fuzz/tests/onnx/fuzz_onnx CORPUS
//   tests/onnx/fixtures
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "graph/onnx/onnx.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
  char path[64];
  int fd = memfd_create("model", 0);
  if (fd < 0 || write(fd, bytes, n) != (ssize_t)n) abort();
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  zg_onnx_model *m = NULL;
  zg_status s = zg_onnx_load(path, &m);
  if (!s) {
    for (uint32_t i = 0; i < zg_onnx_n_tensors(m); i++) {
      const void *p;
      if (zg_type_bytes(&zg_onnx_tensor_at(m, i)->type) < 1 << 20)
        zg_status_free(zg_onnx_tensor_bytes(m, i, &p));
    }
    zg_graph *g = NULL;
    s = zg_onnx_import(m, &(zg_import_options){.default_dim = 2}, &g);
    if (!s) s = zg_graph_verify(g);
    zg_graph_free(g);
    zg_onnx_free(m);
  }
  zg_status_free(s);
  close(fd);
  return 0;
}
