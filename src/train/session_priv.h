// Shared by session.c and session_import.c.
#pragma once
#include "train/session.h"

zg_status zg__session_open_data(zg_session *s);               // data sets or npz, before the import: their shapes bind symbols
zg_status zg__session_import(zg_session *s);                  // graph, eval graph, feeds, losses

// The error of a budget that cannot be met (taken), with what would fit it: planned, for the session that failed. advise.c
zg_status zg__session_advise(const zg_session *failed, zg_status why) ZG_MUST_USE;
