// Waiting for the device, and looking after NCCL meanwhile. A collective that other ranks never come to does not end and is no error of
// this rank's device: what tells it are the other ranks (the host's communicator knows who died), NCCL's own asynchronous errors, and
// the clock. NCCL is then aborted, which ends its kernels, and the status names the collective: the number of the step that began last
// stands in device memory.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cuda/device_priv.h"

enum { BURST = 64, NAP_US = 50 };   // queries between naps
#define LOOK_S 0.01                 // between two looks at the other ranks

static double patience_s(void) {
  const char *v = getenv("ZG_CUDA_TIMEOUT");
  return v && atof(v) > 0 ? atof(v) : 1800;
}

static int query(zg_cu_handle event, zg_cu_handle stream) {
  return event ? zg__cuda.cuEventQuery(event) : zg__cuda.cuStreamQuery(stream);
}

// The collective that began last, by the word in device memory; 0: none, or the device does not answer.
static uint32_t last_begun(zg__cuda_program *p) {
  uint32_t *word = (uint32_t *)p->stage;
  *word = 0;
  if (zg__cuda.cuMemcpyDtoHAsync_v2(word, p->state + ZG__PROGRESS_AT, sizeof *word, p->aside)) return 0;
  for (double t0 = zg_time_s(); zg_time_s() - t0 < 5; usleep(NAP_US))
    if (zg__cuda.cuStreamQuery(p->aside) != ZG_CU_NOT_READY) return *word;
  return 0;
}

static zg_status name_collective(zg__cuda_program *p, zg_status why) {
  const zg_sched *s = p->base.sched;
  const uint32_t step = last_begun(p);
  if (step == 0 || step > s->steps.n) return why;
  const zg_step *q = &s->steps.at[step - 1];
  const uint32_t buf = q->kind == ZG_STEP_REDUCE_SCATTER ? q->b : q->a;
  return zg_status_prefix(why, "%s of \"%s\" (step %u) on rank %u of %u: ", zg_comm_kind_name(zg_comm_kind_of(q)), s->bufs.at[buf].name,
                          step - 1, s->rank, s->world);
}

static zg_status look(zg__cuda_program *p, double since) {
  zg_status status = zg__collective_check(&p->groups);
  if (!status) status = zg_comm_check(p->comm);
  if (!status && zg_time_s() - since > patience_s())
    status = zg_error(ZG_CANCELLED, "no end after %.0f s (ZG_CUDA_TIMEOUT)", patience_s());
  return status;
}

zg_status zg__cuda_wait(zg__cuda_program *p, zg_cu_handle event, zg_cu_handle stream) {
  if (!p->comm || p->comm->world < 2)
    return event ? ZG_CUDA(cuEventSynchronize, event) : ZG_CUDA(cuStreamSynchronize, stream);
  const double since = zg_time_s();
  double looked = since;
  for (;;) {
    int r = ZG_CU_NOT_READY;
    for (int i = 0; i < BURST && r == ZG_CU_NOT_READY; i++) r = query(event, stream);
    if (r != ZG_CU_NOT_READY) return zg__cuda_status(r, event ? "cuEventQuery" : "cuStreamQuery");
    usleep(NAP_US);
    const double now = zg_time_s();
    if (now - looked < LOOK_S) continue;
    looked = now;
    zg_status bad = look(p, since);
    if (!bad) continue;
    bad = name_collective(p, bad);
    zg__collective_abort(&p->groups);
    return bad;
  }
}
