// In place of dnnl*.c where zgraph is built without oneDNN's headers: there is no such library then, and
// callers that ask get the same answer as on a machine without it.
#include "cpu/dnnl.h"

zg_status zg_dnnl_load(void) {
  return zg_error(ZG_NOT_FOUND,
                  "this zgraph was built without oneDNN's headers (version 2.x, oneapi/dnnl/dnnl.h)");
}
bool zg_dnnl_team(zg_team *out) { return *out = (zg_team){0}, false; }
const char *zg_dnnl_text(void) { return ""; }
zg_status zg_dnnl_prepare(const zg_kernel *k, int threads, zg_dnnl_op **out) {
  (void)k, (void)threads;
  *out = NULL;
  return zg_dnnl_load();
}
uint64_t zg_dnnl_scratch_bytes(const zg_dnnl_op *op) { return (void)op, 0; }
zg_status zg_dnnl_run(zg_dnnl_op *op, void *const *args, void *scratch) {
  return (void)op, (void)args, (void)scratch, zg_dnnl_load();
}
void zg_dnnl_free(zg_dnnl_op *op) { (void)op; }
