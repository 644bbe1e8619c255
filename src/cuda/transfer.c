// Bytes between host and device, without waiting where that can be avoided.
//   write   through a pinned ring of two halves, each large enough for what a training step is fed: the host fills one while the device
//           still has the other, and waits only where it is two steps ahead
//   fetch   a result into a pinned slot, behind the work given so far; `take` waits for that slot's event alone
//   copy    COPY steps: device, pinned host memory, and the disk space through host functions on the stream
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "cuda/device_priv.h"

static zg_cu_handle compute_of(const zg__cuda_program *p) { return p->stream[ZG_STREAM_COMPUTE]; }

// ---- memory of transfers ------------------------------------------------------------------------------------------

static uint64_t fed_bytes(const zg_sched *s) {
  uint64_t n = 0;
  for (size_t i = 1; i < s->bufs.n; i++)
    if (s->bufs.at[i].role == ZG_BUF_INPUT) n += zg_round_up(s->bufs.at[i].bytes, ZG_BUF_ALIGN);
  return n;
}

zg_status zg__cuda_transfer_init(zg__cuda_program *p) {
  p->ring.half = zg_round_up(ZG_MAX(fed_bytes(p->base.sched), (uint64_t)ZG__STAGE_BYTES), 4096);
  ZG_TRY(ZG_CUDA(cuMemHostAlloc, (void **)&p->ring.at, 2 * p->ring.half, 0));
  ZG_TRY(ZG_CUDA(cuMemHostAlloc, (void **)&p->stage, ZG__STAGE_BYTES, 0));
  for (int i = 0; i < 2; i++) ZG_TRY(ZG_CUDA(cuEventCreate, &p->ring.left[i], ZG_CU_EVENT_NO_TIMING));
  return NULL;
}

void zg__cuda_transfer_fini(zg__cuda_program *p) {
  for (int i = 0; i < 2; i++)
    if (p->ring.left[i]) zg__cuda.cuEventDestroy_v2(p->ring.left[i]);
  if (p->ring.at) zg__cuda.cuMemFreeHost(p->ring.at);
  if (p->stage) zg__cuda.cuMemFreeHost(p->stage);
  for (size_t i = 0; i < p->fetches.n; i++)
    if (p->fetches.at[i].ready) zg__cuda.cuEventDestroy_v2(p->fetches.at[i].ready);
  for (size_t i = 0; i < p->fetch_chunks.n; i++) zg__cuda.cuMemFreeHost(p->fetch_chunks.at[i]);
  zg_vec_fini(&p->fetches);
  zg_vec_fini(&p->fetch_chunks);
}

// ---- to the device ------------------------------------------------------------------------------------------------

// Goes over to the other half, whose copies were queued before those of this one.
static zg_status turn_ring(zg__cuda_program *p) {
  zg__ring *r = &p->ring;
  ZG_TRY(ZG_CUDA(cuEventRecord, r->left[r->current], compute_of(p)));
  r->current ^= 1;
  r->used = 0;
  return zg__cuda_wait(p, r->left[r->current], NULL);
}

zg_status zg__cuda_put(zg__cuda_program *p, zg_cu_ptr to, const void *src, uint64_t n) {
  zg__ring *r = &p->ring;
  if (p->capturing)
    return zg_error(ZG_UNSUPPORTED, "%llu bytes from the host in the middle of a segment", (unsigned long long)n);
  for (uint64_t done = 0; done < n;) {
    if (r->used == r->half || (done == 0 && n <= r->half && n > r->half - r->used)) ZG_TRY(turn_ring(p));
    const uint64_t m = ZG_MIN(n - done, r->half - r->used);
    uint8_t *from = r->at + r->current * r->half + r->used;
    memcpy(from, (const uint8_t *)src + done, m);
    ZG_TRY(ZG_CUDA(cuMemcpyHtoDAsync_v2, to + done, from, m, compute_of(p)));
    r->used = ZG_MIN(r->half, zg_round_up(r->used + m, ZG_BUF_ALIGN));
    done += m;
  }
  return NULL;
}

// Between the disk space's file and memory; errno of what failed, or 0.
static int move_bytes(int fd, bool write, uint64_t at, uint8_t *bytes, uint64_t n) {
  for (uint64_t done = 0; done < n;) {
    const ssize_t m = write ? pwrite(fd, bytes + done, n - done, (off_t)(at + done)) : pread(fd, bytes + done, n - done, (off_t)(at + done));
    if (m < 0 && errno == EINTR) continue;
    if (m <= 0) return m ? errno : EIO;
    done += (uint64_t)m;
  }
  return 0;
}

// Host and disk spaces are the host's own to read and write once the device is done with them.
static zg_status disk_bytes(zg__cuda_program *p, bool write, uint64_t at, uint8_t *bytes, uint64_t n) {
  const int why = move_bytes(p->disk, write, at, bytes, n);
  if (!why) return NULL;
  return zg_error(ZG_IO, "%s: %s offloaded tensors: %s", p->base.sched->disk_path, write ? "writing" : "reading", strerror(why));
}

static zg_status write_locked(zg__cuda_program *p, const zg_buf *b, uint32_t buf, uint64_t at, const void *src, uint64_t n) {
  ZG_TRY(zg__cuda_enter(p));
  if (b->space == ZG_SPACE_DEVICE) return zg__cuda_put(p, zg__cuda_address(p, buf) + at, src, n);
  ZG_TRY(zg__cuda_wait(p, NULL, compute_of(p)));
  if (b->space == ZG_SPACE_DISK) return disk_bytes(p, true, b->offset + at, (uint8_t *)(uintptr_t)src, n);
  memcpy(p->host + b->offset + at, src, n);
  return NULL;
}

zg_status zg__cuda_write(zg_program *base, uint32_t buf, uint64_t at, const void *src, uint64_t n) {
  zg__cuda_program *p = zg__cuda_program_of(base);
  ZG_TRY(zg_program_check_range(base, buf, at, n));
  pthread_mutex_lock(&p->lock);
  zg_status status = write_locked(p, &base->sched->bufs.at[buf], buf, at, src, n);
  pthread_mutex_unlock(&p->lock);
  return status;
}

// ---- from the device ----------------------------------------------------------------------------------------------

// The error record as it came with a result, and what host functions found.
static zg_status check_record(zg__cuda_program *p, const uint8_t *bytes) {
  int64_t record[4];
  const int disk = atomic_load(&p->disk_failure);
  if (disk)
    return zg_error(ZG_IO, "%s: offloaded tensors: %s", p->base.sched->disk_path, strerror(disk));
  memcpy(record, bytes, sizeof record);
  if (!(int32_t)record[0]) return NULL;
  ZG_TRY(ZG_CUDA(cuMemsetD8Async, p->state + ZG__ERROR_AT, 0, sizeof record, compute_of(p)));
  const uint64_t k = (uint64_t)record[1];
  return zg_error(ZG_INVALID, "%s: index %lld is out of range for a dimension of %lld",
                  k < p->base.sched->kernels.n ? p->base.sched->kernels.at[k].label : "a kernel",
                  (long long)record[2], (long long)record[3]);
}

static zg_status read_device(zg__cuda_program *p, zg_cu_ptr from, uint8_t *dst, uint64_t n) {
  enum { ROOM = ZG__STAGE_BYTES - 64 };
  uint64_t done = 0;
  do {
    const uint64_t m = ZG_MIN(n - done, (uint64_t)ROOM);
    if (m) ZG_TRY(ZG_CUDA(cuMemcpyDtoHAsync_v2, p->stage, from + done, m, compute_of(p)));
    ZG_TRY(ZG_CUDA(cuMemcpyDtoHAsync_v2, p->stage + ROOM, p->state + ZG__ERROR_AT, ZG__ERROR_BYTES, compute_of(p)));
    ZG_TRY(zg__cuda_wait(p, NULL, compute_of(p)));
    ZG_TRY(check_record(p, p->stage + ROOM));
    if (m) memcpy(dst + done, p->stage, m);
    done += m;
  } while (done < n);
  return NULL;
}

static zg_status read_locked(zg__cuda_program *p, const zg_buf *b, uint32_t buf, uint64_t at, uint8_t *dst, uint64_t n) {
  ZG_TRY(zg__cuda_enter(p));
  if (b->space == ZG_SPACE_DEVICE) return read_device(p, zg__cuda_address(p, buf) + at, dst, n);
  ZG_TRY(read_device(p, 0, NULL, 0));   // the device is done, and well
  if (b->space == ZG_SPACE_DISK) return disk_bytes(p, false, b->offset + at, dst, n);
  memcpy(dst, p->host + b->offset + at, n);
  return NULL;
}

zg_status zg__cuda_read(zg_program *base, uint32_t buf, uint64_t at, void *dst, uint64_t n) {
  zg__cuda_program *p = zg__cuda_program_of(base);
  ZG_TRY(zg_program_check_range(base, buf, at, n));
  pthread_mutex_lock(&p->lock);
  zg_status status = read_locked(p, &base->sched->bufs.at[buf], buf, at, dst, n);
  pthread_mutex_unlock(&p->lock);
  return status;
}

// A slot that nobody waits for; more of them where all are in use, which settles within the first update.
static zg_status free_slot(zg__cuda_program *p, uint32_t *out) {
  uint8_t *chunk = NULL;
  for (size_t i = 0; i < p->fetches.n; i++)
    if (p->fetches.at[i].taken) {
      *out = (uint32_t)i;
      return NULL;
    }
  *out = (uint32_t)p->fetches.n;
  ZG_TRY(ZG_CUDA(cuMemHostAlloc, (void **)&chunk, ZG__FETCH_CHUNK * ZG__FETCH_SLOT, 0));
  zg_vec_push(&p->fetch_chunks, chunk);
  for (int i = 0; i < ZG__FETCH_CHUNK; i++) {
    zg__fetch f = {.at = chunk + i * ZG__FETCH_SLOT, .taken = true};
    ZG_TRY(ZG_CUDA(cuEventCreate, &f.ready, ZG_CU_EVENT_NO_TIMING));
    zg_vec_push(&p->fetches, f);
  }
  return NULL;
}

static zg_status fetch_locked(zg__cuda_program *p, uint32_t buf, uint64_t at, uint64_t n, uint32_t *out) {
  ZG_TRY(zg__cuda_enter(p));
  ZG_TRY(free_slot(p, out));
  zg__fetch *f = &p->fetches.at[*out];
  f->n = n;
  ZG_TRY(ZG_CUDA(cuMemcpyDtoHAsync_v2, f->at, zg__cuda_address(p, buf) + at, n, compute_of(p)));
  ZG_TRY(ZG_CUDA(cuMemcpyDtoHAsync_v2, f->at + ZG__FETCH_BYTES, p->state + ZG__ERROR_AT, ZG__ERROR_BYTES, compute_of(p)));
  ZG_TRY(ZG_CUDA(cuEventRecord, f->ready, compute_of(p)));
  f->taken = false;
  return NULL;
}

zg_status zg__cuda_fetch(zg_program *base, uint32_t buf, uint64_t at, uint64_t n, uint32_t *out_ticket) {
  zg__cuda_program *p = zg__cuda_program_of(base);
  ZG_TRY(zg_program_check_range(base, buf, at, n));
  if (n == 0 || n > ZG__FETCH_BYTES || base->sched->bufs.at[buf].space != ZG_SPACE_DEVICE)
    return zg_error(ZG_INTERNAL, "buffer \"%s\": %llu bytes of it cannot be fetched", base->sched->bufs.at[buf].name,
                    (unsigned long long)n);
  pthread_mutex_lock(&p->lock);
  zg_status status = fetch_locked(p, buf, at, n, out_ticket);
  pthread_mutex_unlock(&p->lock);
  return status;
}

zg_status zg__cuda_take(zg_program *base, uint32_t ticket, void *dst) {
  zg__cuda_program *p = zg__cuda_program_of(base);
  pthread_mutex_lock(&p->lock);   // fetches may move while another thread asks for one
  ZG_ASSERT(ticket < p->fetches.n && !p->fetches.at[ticket].taken);
  zg__fetch *f = &p->fetches.at[ticket];
  zg_status status = zg__cuda_enter(p);
  if (!status) status = zg__cuda_wait(p, f->ready, NULL);
  if (!status) status = check_record(p, f->at + ZG__FETCH_BYTES);
  if (!status) memcpy(dst, f->at, f->n);
  f->taken = true;
  pthread_mutex_unlock(&p->lock);
  return status;
}

// ---- between spaces -----------------------------------------------------------------------------------------------

static void do_disk_job(void *arg) {
  const zg__disk_job *j = arg;
  int none = 0;
  const int why = move_bytes(j->fd, j->write, j->at, j->bounce, j->n);
  if (why) atomic_compare_exchange_strong(j->failure, &none, why);
}

// The pieces of a step's transfer, made when it first runs. A host function must not call the driver: it only moves file <-> bounce.
static zg__disk_job *jobs_of(zg__cuda_program *p, const zg_step *s, bool write, uint64_t disk_at, uint64_t n) {
  zg__disk_job **slot = &p->jobs[s - p->base.sched->steps.at];
  if (*slot) return *slot;
  const uint64_t pieces = (n + ZG__STAGE_BYTES - 1) / ZG__STAGE_BYTES;
  *slot = ZG_NEW_N(&p->mem, zg__disk_job, pieces + 1);
  for (uint64_t i = 0; i < pieces; i++) {
    const uint64_t at = i * ZG__STAGE_BYTES;
    (*slot)[i] = (zg__disk_job){.fd = p->disk, .write = write, .bounce = p->bounce[s->stream], .at = disk_at + at,
                                .n = ZG_MIN(n - at, (uint64_t)ZG__STAGE_BYTES), .failure = &p->disk_failure};
  }
  return *slot;
}

static zg_status copy_disk(zg__cuda_program *p, const zg_step *s, bool write, uint64_t disk_at, zg_cu_ptr device, uint64_t n) {
  zg__disk_job *j = jobs_of(p, s, write, disk_at, n);
  zg_cu_handle on = p->stream[s->stream];
  for (uint64_t done = 0; done < n; done += j->n, j++) {
    if (write) ZG_TRY(ZG_CUDA(cuMemcpyDtoHAsync_v2, j->bounce, device + done, j->n, on));
    ZG_TRY(ZG_CUDA(cuLaunchHostFunc, on, do_disk_job, j));
    if (!write) ZG_TRY(ZG_CUDA(cuMemcpyHtoDAsync_v2, device + done, j->bounce, j->n, on));
  }
  return NULL;
}

static zg_status copy_locked(zg__cuda_program *p, const zg_step *s, uint64_t to_at, uint64_t from_at, uint64_t n) {
  const zg_buf *a = &p->base.sched->bufs.at[s->a], *b = &p->base.sched->bufs.at[s->b];
  zg_cu_handle on = p->stream[s->stream];
  ZG_TRY(zg__cuda_enter(p));
  if (a->space != ZG_SPACE_DEVICE && b->space != ZG_SPACE_DEVICE)
    return zg_error(ZG_UNSUPPORTED, "copy of buffer \"%s\" to \"%s\": neither is in device memory", b->name, a->name);
  const zg_cu_ptr to = zg__cuda_address(p, s->a) + to_at, from = zg__cuda_address(p, s->b) + from_at;
  if (b->space == ZG_SPACE_HOST) return ZG_CUDA(cuMemcpyHtoDAsync_v2, to, p->host + b->offset + from_at, n, on);
  if (a->space == ZG_SPACE_HOST) return ZG_CUDA(cuMemcpyDtoHAsync_v2, p->host + a->offset + to_at, from, n, on);
  if (b->space == ZG_SPACE_DISK) return copy_disk(p, s, false, b->offset + from_at, to, n);
  if (a->space == ZG_SPACE_DISK) return copy_disk(p, s, true, a->offset + to_at, from, n);
  return ZG_CUDA(cuMemcpyDtoDAsync_v2, to, from, n, on);
}

zg_status zg__cuda_copy(zg_program *base, const zg_step *s, uint64_t to_at, uint64_t from_at, uint64_t n) {
  zg__cuda_program *p = zg__cuda_program_of(base);
  pthread_mutex_lock(&p->lock);
  zg_status status = copy_locked(p, s, to_at, from_at, n);
  pthread_mutex_unlock(&p->lock);
  return status;
}
