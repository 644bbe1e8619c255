// zgraph devices: what is here; --measure: what it reaches, as a description that `zgraph plan --device`
// reads.
#include <stdio.h>

#include "cli/cli.h"
#include "cuda/cuda.h"
#include "exec/measure.h"

static void list(zg_device *cpu) {
  zg_device_info info;
  zg_str cuda = {0};
  zg_device_cpu.info(cpu, &info);
  printf("%-5s %d threads, %llu MiB of memory, %s\n", info.name, info.threads,
         (unsigned long long)(info.memory_bytes >> 20), info.text);
  zg_cuda_report(&cuda);
  printf("%s", cuda.at);
  zg_str_fini(&cuda);
}

static zg_status measure(zg_device *cpu) {
  zg_device_info info;
  zg_device_model m;
  zg_device_cpu.info(cpu, &info);
  ZG_TRY(zg_device_measure(cpu, &m));
  printf("# %s\n# for `zgraph plan MODEL --device THIS_FILE.yaml`\n", info.text);
  printf("name: %s\nmemory: %llu\nflops_f32: %.4g      # matmul of 1024 x 1024 x 1024, per second\n", m.name,
         (unsigned long long)m.memory, m.flops_f32);
  printf(
      "flops_16: %.4g       # the same in bf16\nbytes_per_s: %.4g    # three tensors of 64 MiB updated in place, read and written\n",
      m.flops_16, m.bytes_per_s);
  printf("launch_s: %.3g       # a loop kernel of one element\n", m.launch_s);
  printf(
      "comm_bytes_per_s: %.4g   # not measured, as the next two\ncomm_latency_s: %.3g\ncopy_bytes_per_s: "
      "%.4g\n",
      m.comm_bytes_per_s, m.comm_latency_s, m.copy_bytes_per_s);
  return NULL;
}

static zg_status run(int argc, char **argv) {
  bool measured = false;
  const zg_cli_option options[] = {{"measure", .flag = &measured}};
  zg_cli_list rest = {0};
  zg_device *cpu;
  ZG_TRY(zg_cli_parse(argc, argv, options, ZG_COUNT(options), &rest));
  if (rest.n) return zg_error(ZG_INVALID, "takes no arguments, what is \"%s\"?", rest.at[0]);
  ZG_TRY(zg_device_cpu.open(0, &cpu));
  zg_status status = NULL;
  if (measured) status = measure(cpu);
  else list(cpu);
  zg_device_cpu.close(cpu);
  return status;
}

const zg_verb zg_verb_devices = {
    "devices", "list the devices found, or measure this one",
    "usage: zgraph devices [--measure]\n\n"
    "Lists each device with its memory and libraries. --measure prints instead what the CPU reaches, in a\n"
    "second: f32 and bf16 matrix products, memory bandwidth, the cost of a kernel; as a description for\n"
    "`zgraph plan --device`.\n\n"
    "example:\n  zgraph devices\n  zgraph devices --measure > here.yaml && zgraph plan model.onnx --device "
    "here.yaml\n",
    run};
