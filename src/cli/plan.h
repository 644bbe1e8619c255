// Parts of `zgraph plan`.
#pragma once
#include <stdio.h>

#include "cli/cli.h"
#include "sched/report.h"
#include "sched/report_html.h"
#include "train/session.h"

// plan_ranks.c: several ranks
void zg_cli_print_ranks(const zg_session *s);                    // s->zero must be there
void zg_cli_print_ranks_json(const zg_session *s, FILE *to);
// One line a stage. Changes cfg's stage, and its offload where a stage has none.
zg_status zg_cli_compare_stages(zg_config *cfg, const zg_session_options *o, bool json);

// "1,8,64" or "1..65536" (doubling) in place of one number of ranks; and a line for each: bytes, what is sent, predicted time of an update.
bool zg_cli_is_rank_list(const char *text);   // NULL: no
zg_status zg_cli_plan_counts(const zg_config *cfg, const zg_session_options *o, const zg_device_model *device, const char *text, bool json);

// plan_device.c: "h100-80g" or the path of a YAML file; NULL: "cpu". Strings live in `mem`.
zg_status zg_cli_device(const char *name, zg_arena *mem, zg_device_model *out);
typedef struct { const char *html, *svg, *trace, *csv; } zg_cli_pictures;    // paths; NULL: not asked for
zg_status zg_cli_write_pictures(const zg_sched *s, const zg_picture *p, const zg_cli_pictures *files);

// plan_symbolic.c: `text` is KEY=N[,KEY=N]
zg_status zg_cli_plan_symbolic(const char *text, const zg_cli_config *files, const zg_session_options *o);
