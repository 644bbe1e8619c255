// Parts of `zgraph plan` that are about several ranks (plan_ranks.c).
#pragma once
#include <stdio.h>

#include "train/session.h"

void zg_cli_print_ranks(const zg_session *s);                    // s->zero must be there
void zg_cli_print_ranks_json(const zg_session *s, FILE *to);
// One line a stage. Changes cfg's stage, and its offload where a stage has none.
zg_status zg_cli_compare_stages(zg_config *cfg, const zg_session_options *o, bool json);
