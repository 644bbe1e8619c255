// Files: whole-file mappings and reads, atomic replacement, directories. Every message names the path and the
// system's reason.
#include "base/base.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define io_error(path, what) io_error_at((path), (what), errno)
static zg_status io_error_at(const char *path, const char *what, int err) {
  char text[128];
  const char *reason = strerror_r(err, text, sizeof text);  // GNU form: may not use `text`
  return zg_error(err == ENOENT || err == ENOTDIR ? ZG_NOT_FOUND : ZG_IO, "%s: cannot %s: %s", path, what,
                  reason);
}

static zg_status open_to_read(const char *path, int *out_fd, struct stat *out_stat) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return io_error(path, "open");
  zg_status status = NULL;
  if (fstat(fd, out_stat)) status = io_error(path, "stat");
  else if (S_ISDIR(out_stat->st_mode)) status = zg_error(ZG_INVALID, "%s: is a directory, want a file", path);
  if (status) close(fd);
  else *out_fd = fd;
  return status;
}

zg_status zg_file_map_open(const char *path, zg_file_map *out) {
  *out = (zg_file_map){0};
  int fd = -1;
  struct stat st;
  ZG_TRY(open_to_read(path, &fd, &st));
  zg_status status = NULL;
  if (!S_ISREG(st.st_mode)) {
    status = zg_error(ZG_INVALID, "%s: is not a regular file, so it cannot be mapped", path);
  } else if (st.st_size > 0) {
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) status = io_error(path, "map");
    else out->bytes = (zg_bytes){p, (uint64_t)st.st_size};
  }
  close(fd);
  return status;
}

void zg_file_map_close(zg_file_map *m) {
  if (m->bytes.n) munmap((void *)(uintptr_t)m->bytes.at, m->bytes.n);
  *m = (zg_file_map){0};
}

void zg_file_map_forget(zg_bytes part) {
  const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)part.at;
  const uintptr_t from = zg_round_up(at, page), to = (at + part.n) / page * page;
  if (from < to) madvise((void *)from, to - from, MADV_DONTNEED);  // private and read-only: nothing is lost
}

zg_status zg_file_read(const char *path, zg_str *out) {
  int fd = -1;
  struct stat st;
  ZG_TRY(open_to_read(path, &fd, &st));
  zg_str_put(out, "", 0);  // NUL-terminated also when the file is empty
  zg_status status = NULL;
  size_t step =
      st.st_size > 0 ? (size_t)st.st_size + 1 : 1 << 16;  // + 1: the read that sees the end needs no growth
  for (;;) {
    zg__vec_grow((void **)&out->at, &out->cap, out->n + step + 1, 1);
    ssize_t got = read(fd, out->at + out->n, step);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) status = io_error(path, "read");
    if (got <= 0) break;
    out->n += (size_t)got;
    if ((size_t)got == step) step = 1 << 16;
  }
  out->at[out->n] = 0;
  close(fd);
  return status;
}

// ---- writing --------------------------------------------------------------------------------------------

static zg_status write_all(int fd, const char *path, const void *bytes, size_t n) {
  const char *p = bytes;
  while (n) {
    ssize_t put = write(fd, p, ZG_MIN(n, (size_t)1 << 30));  // Linux writes at most 2 GiB at once
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return io_error(path, "write");
    p += put;
    n -= (size_t)put;
  }
  return NULL;
}

// A pipe or /dev/stdout cannot be replaced by a new file: write into it.
static zg_status write_special(const char *path, const void *bytes, size_t n) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return io_error(path, "open");
  zg_status status = write_all(fd, path, bytes, n);
  if (close(fd) && !status) status = io_error(path, "close");
  return status;
}

static void parent_of(const char *path, zg_str *out) {
  const char *slash = strrchr(path, '/');
  if (!slash) zg_str_put(out, ".", 1);
  else if (slash == path) zg_str_put(out, "/", 1);
  else zg_str_put(out, path, (size_t)(slash - path));
}

zg_status zg_file_write_atomic(const char *path, const void *bytes, size_t n) {
  static atomic_uint serial;
  struct stat st;
  bool exists = !stat(path, &st);
  if (exists && S_ISDIR(st.st_mode)) return zg_error(ZG_INVALID, "%s: is a directory, want a file", path);
  if (exists && !S_ISREG(st.st_mode)) return write_special(path, bytes, n);
  zg_str tmp = {0}, dir = {0};
  zg_str_add(&tmp, "%s.tmp.%d.%u", path, (int)getpid(), atomic_fetch_add(&serial, 1u));
  parent_of(path, &dir);
  zg_status status = NULL;
  int fd = open(tmp.at, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) {
    status = io_error(path, "create");
    goto out;
  }
  if (exists) (void)!fchmod(fd, st.st_mode & 07777);  // the new file is as readable as the old one was
  status = write_all(fd, path, bytes, n);
  if (!status && fsync(fd)) status = io_error(path, "write to disk");
  if (close(fd) && !status) status = io_error(path, "close");
  if (!status && rename(tmp.at, path)) status = io_error(path, "rename the finished file to");
  if (status) unlink(tmp.at);
  else status = zg_dir_sync(dir.at);
out:
  zg_str_fini(&tmp);
  zg_str_fini(&dir);
  return status;
}

// ---- directories ----------------------------------------------------------------------------------------

zg_status zg_dir_make(const char *path) {
  zg_str part = {0};
  zg_status status = NULL;
  for (const char *p = path; *p;) {
    while (*p == '/') p++;
    while (*p && *p != '/') p++;
    part.n = 0;
    zg_str_put(&part, path, (size_t)(p - path));
    if (!mkdir(part.at, 0777)) continue;
    int err = errno;  // also EROFS or EACCES for a directory that is already there
    struct stat st;
    if (stat(part.at, &st)) status = io_error_at(part.at, "make the directory", err);
    else if (!S_ISDIR(st.st_mode)) status = zg_error(ZG_IO, "%s: exists and is not a directory", part.at);
    if (status) break;
  }
  zg_str_fini(&part);
  return status;
}

zg_status zg_dir_sync(const char *path) {
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return io_error(path, "open the directory");
  zg_status status = NULL;
  // Some network file systems cannot sync directories and say EINVAL; their renames are durable by other
  // means.
  if (fsync(fd) && errno != EINVAL && errno != ENOTSUP) status = io_error(path, "sync the directory");
  close(fd);
  return status;
}

bool zg_file_exists(const char *path) { return !access(path, F_OK); }
