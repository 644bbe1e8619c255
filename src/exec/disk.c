// The file of a schedule's disk space.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include "exec/device.h"

zg_status zg_disk_open(const char *folder, uint64_t bytes, int *out_fd) {
  if (!folder) return zg_error(ZG_INVALID, "tensors are to rest on disk, but no folder is given: set nvme_path");
  ZG_TRY(zg_dir_make(folder));
  const int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0) return zg_error(ZG_IO, "%s: cannot make a file for offloaded tensors: %s", folder, strerror(errno));
  const int full = posix_fallocate(fd, 0, (off_t)bytes);   // a full disk is told now, not in the middle of a step
  if (full) {
    close(fd);
    return zg_error(ZG_IO, "%s: no %llu bytes for offloaded tensors: %s", folder, (unsigned long long)bytes, strerror(full));
  }
  *out_fd = fd;
  return NULL;
}
