// Pictures and exports of planned schedules.
#pragma once
#include "sched/device_model.h"

typedef struct {
  const char *title, *subtitle;      // of the page; borrowed
  const zg_device_model *device;     // for times
  uint64_t budget;                   // 0: none
} zg_picture;
// One self-contained page: memory over the step by role, the arena as address x time, streams by predicted time, hover, search.
void zg_report_html(const zg_sched *s, const zg_picture *p, zg_str *out);
// The same memory curve and arena as SVG, for papers.
void zg_report_svg(const zg_sched *s, const zg_picture *p, zg_str *out);
// Chrome's / Perfetto's trace format: predicted times of the steps, bytes alive as a counter.
void zg_report_trace(const zg_sched *s, const zg_picture *p, zg_str *out);
// MiniMalloc's CSV: id,lower,upper,size,offset of the device's buffers that are not at rest (upper is exclusive).
void zg_report_csv(const zg_sched *s, zg_str *out);
