// The stand-in for libnvrtc: the system's C compiler judges the text (translate.c), and the text itself is
// the CUBIN. With ZG_EMU_NVRTC=path of a real libnvrtc, that must accept the text first, with the same
// options.
#include "emu.h"

#include <dlfcn.h>

enum {
  SUCCESS,
  OUT_OF_MEMORY,
  CREATION_FAILURE,
  INVALID_INPUT,
  INVALID_PROGRAM,
  INVALID_OPTION,
  COMPILATION,
  INTERNAL = 11
};
typedef struct {
  char *text, *name, *log;
  bool compiled;
} program;
typedef program *nvrtcProgram;

static const int archs[] = {75, 80, 86, 89, 90, 100, 120};
enum { N_ARCHS = sizeof archs / sizeof *archs };

// 13.99 is no real version, so that no disk cache of the program under test mixes this text with CUBINs.
ZG_EMU_API int nvrtcVersion(int *major, int *minor) {
  *major = 13, *minor = 99;
  return SUCCESS;
}
ZG_EMU_API int nvrtcGetNumSupportedArchs(int *n) {
  *n = N_ARCHS;
  return SUCCESS;
}
ZG_EMU_API int nvrtcGetSupportedArchs(int *out) {
  memcpy(out, archs, sizeof archs);
  return SUCCESS;
}
ZG_EMU_API const char *nvrtcGetErrorString(int r) {
  switch (r) {
    case SUCCESS: return "NVRTC_SUCCESS";
    case OUT_OF_MEMORY: return "NVRTC_ERROR_OUT_OF_MEMORY";
    case CREATION_FAILURE: return "NVRTC_ERROR_PROGRAM_CREATION_FAILURE";
    case INVALID_INPUT: return "NVRTC_ERROR_INVALID_INPUT";
    case INVALID_PROGRAM: return "NVRTC_ERROR_INVALID_PROGRAM";
    case INVALID_OPTION: return "NVRTC_ERROR_INVALID_OPTION";
    case COMPILATION: return "NVRTC_ERROR_COMPILATION";
    default: return "NVRTC_ERROR_INTERNAL_ERROR";
  }
}

ZG_EMU_API int nvrtcCreateProgram(nvrtcProgram *out, const char *text, const char *name, int n_headers,
                                  const char *const *headers, const char *const *header_names) {
  (void)headers, (void)header_names;
  if (!text || n_headers) return INVALID_INPUT;  // the dialect includes nothing
  program *p = calloc(1, sizeof *p);
  p->text = strdup(text), p->name = strdup(name ? name : "default_program"), p->log = strdup("");
  *out = p;
  return SUCCESS;
}
ZG_EMU_API int nvrtcDestroyProgram(nvrtcProgram *p) {
  if (!p || !*p) return INVALID_PROGRAM;
  free((*p)->text), free((*p)->name), free((*p)->log), free(*p);
  *p = NULL;
  return SUCCESS;
}

// ---- options ------------------------------------------------------------------------------------------

static bool known_arch(const char *v) {
  const char *digits = strchr(v, '_');
  int n = digits ? atoi(digits + 1) : 0;
  for (int i = 0; i < N_ARCHS; i++)
    if (archs[i] == n) return true;
  return false;
}
// "-DA=1", "--define-macro=A=1" go to the C compiler; architectures are checked; other options change nothing
// here.
static bool read_options(int n, const char *const *options, char *defines, size_t room) {
  size_t at = 0;
  defines[0] = 0;
  for (int i = 0; i < n; i++) {
    const char *o = options[i], *value = strchr(o, '=');
    if (!strncmp(o, "--gpu-architecture=", 19) || !strncmp(o, "-arch=", 6)) {
      if (!known_arch(value + 1)) return false;
    } else if (!strncmp(o, "--define-macro=", 15) || !strncmp(o, "-D", 2))
      at += (size_t)snprintf(defines + at, room - at, " '-D%s'", o[1] == 'D' ? o + 2 : o + 15);
    if (o[0] != '-' || at >= room) return false;
  }
  return true;
}

// ---- the real one -------------------------------------------------------------------------------------

static void set_log(program *p, char *text) {
  free(p->log);
  p->log = text ? text : strdup("");
}

typedef int (*create_fn)(void **, const char *, const char *, int, const char *const *, const char *const *);
static bool real_accepts(program *p, int n, const char *const *options) {
  const char *path = getenv("ZG_EMU_NVRTC");
  void *lib = path && *path ? dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND) : NULL, *real = NULL;
  if (!lib) return true;
  create_fn create = (create_fn)dlsym(lib, "nvrtcCreateProgram");
  int (*compile)(void *, int, const char *const *) =
      (int (*)(void *, int, const char *const *))dlsym(lib, "nvrtcCompileProgram");
  int (*log_size)(void *, size_t *) = (int (*)(void *, size_t *))dlsym(lib, "nvrtcGetProgramLogSize");
  int (*log)(void *, char *) = (int (*)(void *, char *))dlsym(lib, "nvrtcGetProgramLog");
  int (*destroy)(void **) = (int (*)(void **))dlsym(lib, "nvrtcDestroyProgram");
  if (create(&real, p->text, p->name, 0, NULL, NULL)) return false;
  int r = compile(real, n, options);
  size_t n_log = 0;
  if (log_size(real, &n_log) == 0 && n_log) {
    char *text = calloc(1, n_log + 1);
    log(real, text);
    set_log(p, text);
  }
  destroy(&real);
  return r == 0;
}

// ---- compilation --------------------------------------------------------------------------------------

ZG_EMU_API int nvrtcCompileProgram(nvrtcProgram p, int n, const char *const *options) {
  char defines[1024], *log = NULL;
  if (!p) return INVALID_PROGRAM;
  if (!read_options(n, options, defines, sizeof defines)) return INVALID_OPTION;
  if (!real_accepts(p, n, options)) return COMPILATION;
  char *path = zg_emu_translate(p->text, p->name, defines, &log);
  p->compiled = path != NULL;
  if (log && (!path || *log)) set_log(p, log);
  else free(log);
  free(path);
  return p->compiled ? SUCCESS : COMPILATION;
}
ZG_EMU_API int nvrtcGetCUBINSize(nvrtcProgram p, size_t *n) {
  if (!p || !p->compiled) return INVALID_PROGRAM;
  *n = strlen(ZG_EMU_IMAGE) + strlen(p->text) + 1;
  return SUCCESS;
}
ZG_EMU_API int nvrtcGetCUBIN(nvrtcProgram p, char *out) {
  if (!p || !p->compiled) return INVALID_PROGRAM;
  strcpy(stpcpy(out, ZG_EMU_IMAGE), p->text);
  return SUCCESS;
}
ZG_EMU_API int nvrtcGetPTXSize(nvrtcProgram p, size_t *n) { return nvrtcGetCUBINSize(p, n); }
ZG_EMU_API int nvrtcGetPTX(nvrtcProgram p, char *out) { return nvrtcGetCUBIN(p, out); }
ZG_EMU_API int nvrtcGetProgramLogSize(nvrtcProgram p, size_t *n) {
  if (!p) return INVALID_PROGRAM;
  *n = strlen(p->log) + 1;
  return SUCCESS;
}
ZG_EMU_API int nvrtcGetProgramLog(nvrtcProgram p, char *out) {
  if (!p) return INVALID_PROGRAM;
  strcpy(out, p->log);
  return SUCCESS;
}
