// Shared by session.c and session_import.c.
#pragma once
#include "train/session.h"

zg_status zg__session_open_data(zg_session *s);               // data sets or npz, before the import: their shapes bind symbols
zg_status zg__session_import(zg_session *s);                  // graph, eval graph, feeds, losses
