// zgraph version, devices
#include <stdio.h>

#include "cli/cli.h"
#include "cuda/cuda.h"
#include "exec/device.h"

static zg_status no_arguments(int argc, char **argv) {
  zg_cli_list rest = {0};
  ZG_TRY(zg_cli_parse(argc, argv, NULL, 0, &rest));
  return rest.n ? zg_error(ZG_INVALID, "takes no arguments, what is \"%s\"?", rest.at[0]) : NULL;
}

static zg_status version(int argc, char **argv) {
  ZG_TRY(no_arguments(argc, argv));
  printf("zgraph %s\n", ZG_VERSION);
  return NULL;
}

static zg_status devices(int argc, char **argv) {
  ZG_TRY(no_arguments(argc, argv));
  zg_device *d;
  zg_device_info info;
  ZG_TRY(zg_device_cpu.open(0, &d));
  zg_device_cpu.info(d, &info);
  printf("%-5s %d threads, %llu MiB of memory, %s\n", info.name, info.threads, (unsigned long long)(info.memory_bytes >> 20), info.text);
  zg_device_cpu.close(d);
  zg_str cuda = {0};
  zg_cuda_report(&cuda);
  printf("%s", cuda.at);
  zg_str_fini(&cuda);
  return NULL;
}

const zg_verb zg_verb_version = {"version", "print the version", "usage: zgraph version\n\nexample:\n  zgraph version\n", version};
const zg_verb zg_verb_devices = {"devices", "list the devices found",
                                 "usage: zgraph devices\n\nLists each device with its memory and libraries.\n\nexample:\n  zgraph devices\n", devices};
