// Starting ranks: joining what another launcher has started, or being the launcher of local processes.
#include "train/launch.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>
#include "exec/wire.h"

// A rank that still computes so long after another has failed is ended: with the 6 s that finding a stopped rank takes, under 10 s.
static const double RANK_EXIT_S = 3.2, KILL_S = 3.8;

// ---- joining ------------------------------------------------------------------------------------------------------

static int listen_fd_left_to_us(void) {
  const char *text = getenv("ZG_LISTEN_FD");
  const int fd = text ? atoi(text) : -1;
  unsetenv("ZG_LISTEN_FD");
  if (fd >= 0) fcntl(fd, F_SETFD, FD_CLOEXEC);
  return fd;
}

// Ranks that do not belong together do not get together: what they have in common before they talk.
// The number of ranks is not in it: ranks that disagree on that must meet, to be told.
static uint64_t job_cookie(uint64_t job) {
  return zg_hash(&job, sizeof job, 0x7a67);
}

static zg_status join(const zg_config *cfg, const zg_rank_env *e, zg_comm **out) {
  zg_comm_options o = {.rank = e->rank, .world = e->world, .addr = e->addr, .port = e->port, .listen_fd = -1, .exit_after_s = RANK_EXIT_S,
                       .machine = getenv("GROUP_RANK"), .n_ports = 1};
  const char *way = getenv("ZG_COMM");            // mpi: although ranks could meet otherwise; tcp: on one machine as well
  o.no_shm = way && !strcmp(way, "tcp");
  o.cookie = job_cookie(e->job);
  if (!o.addr[0] && cfg->main_process_ip) o.addr = cfg->main_process_ip;
  if (e->mpi && (way ? !strcmp(way, "mpi") : !o.addr[0])) return zg_comm_mpi_connect(e->mpi, e->rank, e->world, out);
  if (!o.addr[0])
    return zg_error(ZG_INVALID, "%s tells %u ranks, nothing tells where rank 0 is: set main_process_ip, or MASTER_ADDR in the environment", e->from,
                    e->world);
  if (e->port_taken) {
    o.port = (uint16_t)(e->port + 1);
    o.n_ports = 8;
  } else if (!o.port && zg_config_given(cfg, "main_process_port") && cfg->main_process_port > 0) {
    o.port = (uint16_t)cfg->main_process_port;
  } else if (!o.port) {
    o.port = (uint16_t)(20000 + o.cookie % 20000);
    o.n_ports = 8;
  }
  if (e->rank == 0) o.listen_fd = listen_fd_left_to_us();
  return zg_comm_connect(&o, out);
}

int zg_launch_threads(const zg_config *cfg, const zg_comm *comm) {
  cpu_set_t set;
  const int online = (int)sysconf(_SC_NPROCESSORS_ONLN), mine = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : online;
  const int ranks = comm ? (int)comm->local_world : 1;
  if (cfg->threads != ZG_UNSET && cfg->threads > 0) return (int)cfg->threads;
  if (ranks == 1 || mine * ranks <= online) return ZG_MAX(1, mine);    // cores that srun or mpirun has given to this rank alone
  return ZG_MAX(1, mine / ranks);
}

// ---- the launcher -------------------------------------------------------------------------------------------------

typedef struct {
  pid_t pid;               // 0: has ended
  uint32_t rank;
  int err;                 // its standard error; -1: closed
  int status;              // of waitpid
  zg_str line;             // begun, not ended yet
} child;

typedef struct {
  const zg_config *cfg;
  uint32_t n, first;       // local ranks: first .. first + n - 1
  child *children;
  char **argv;
  char *argv_text;
  char addr[256];
  uint16_t port;
  int listen_fd;           // for rank 0; -1: rank 0 is on another machine
  sigset_t old_mask;
  int signals;             // signalfd
  zg_map seen;             // zgraph's own lines that were shown already
  const child *failed;     // the first one
  double failed_at;
} launcher;

// The arguments of this process, for its ranks.
static zg_status read_arguments(launcher *l) {
  zg_str s = {0};
  zg_status status = zg_file_read("/proc/self/cmdline", &s);
  size_t n = 0;
  if (status) return status;
  for (size_t i = 0; i < s.n; i++) n += s.at[i] == 0;
  l->argv = zg_alloc(sizeof *l->argv * (n + 1));
  l->argv_text = s.at;
  n = 0;
  for (size_t i = 0; i < s.n; i += strlen(s.at + i) + 1) l->argv[n++] = s.at + i;
  return NULL;
}

static zg_status find_address(launcher *l) {
  const zg_config *c = l->cfg;
  uint16_t port = (uint16_t)c->main_process_port;
  const bool several = c->num_machines > 1;
  if (several && (!c->main_process_ip || !port))
    return zg_error(ZG_INVALID, "num_machines is %lld: set %s, the same on all machines", (long long)c->num_machines,
                    c->main_process_ip ? "main_process_port" : "main_process_ip, an address of the machine with machine_rank 0,");
  snprintf(l->addr, sizeof l->addr, "%s", several ? c->main_process_ip : "127.0.0.1");
  l->port = port;
  l->listen_fd = -1;
  if (c->machine_rank > 0) return NULL;
  if (!several && !zg_config_given(c, "main_process_port")) port = 0;   // the default is for machines that must agree
  zg_status status = zg__wire_listen(l->addr, port, &l->listen_fd, &l->port);
  if (status && several) {
    zg_comm_protest(&(zg_comm_options){.rank = 0, .world = (uint32_t)c->num_processes, .addr = l->addr, .port = port, .cookie = job_cookie(0)});
  }
  return status;
}

static void set_number(const char *name, uint32_t v) {
  char text[16];
  snprintf(text, sizeof text, "%u", v);
  setenv(name, text, 1);
}

// In the child, before exec: only what is safe after fork in a process without threads.
static void become_rank(const launcher *l, const child *c, int err, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  setpgid(0, 0);                                   // a terminal's Ctrl-C reaches the launcher alone, which passes it on, once
  sigprocmask(SIG_SETMASK, &l->old_mask, NULL);
  const int nothing = open("/dev/null", O_RDWR);
  dup2(nothing, 0);
  if (c->rank) dup2(nothing, 1);
  dup2(err, 2);
  set_number("RANK", c->rank);
  set_number("LOCAL_RANK", c->rank - l->first);
  set_number("WORLD_SIZE", (uint32_t)l->cfg->num_processes);
  set_number("LOCAL_WORLD_SIZE", l->n);
  set_number("GROUP_RANK", (uint32_t)l->cfg->machine_rank);
  setenv("MASTER_ADDR", l->addr, 1);
  set_number("MASTER_PORT", l->port);
  unsetenv("TORCHELASTIC_USE_AGENT_STORE");      // of whoever started the launcher
  unsetenv("TORCHELASTIC_RUN_ID");
  if (c->rank == 0) {
    set_number("ZG_LISTEN_FD", (uint32_t)l->listen_fd);
    fcntl(l->listen_fd, F_SETFD, 0);
  }
  execv("/proc/self/exe", l->argv);
  fprintf(stderr, "zgraph: cannot start rank %u: %s\n", c->rank, strerror(errno));
  _exit(1);
}

static zg_status start(launcher *l) {
  const pid_t parent = getpid();
  fflush(NULL);
  for (uint32_t i = 0; i < l->n; i++) {
    child *c = &l->children[i];
    int ends[2];
    c->rank = l->first + i;
    c->err = -1;
    if (pipe2(ends, O_CLOEXEC)) return zg_error(ZG_IO, "starting rank %u: %s", c->rank, strerror(errno));
    c->pid = fork();
    if (c->pid == 0) become_rank(l, c, ends[1], parent);
    close(ends[1]);
    c->err = ends[0];
    if (c->pid < 0) {
      c->pid = 0;
      return zg_error(ZG_IO, "starting rank %u: %s", c->rank, strerror(errno));
    }
  }
  zg__wire_close(l->listen_fd);
  l->listen_fd = -1;
  return NULL;
}

// One line of a rank's standard error. What all ranks say alike, warnings and messages of failure, is shown once.
static void show_line(launcher *l, child *c) {
  if (strncmp(c->line.at, "zgraph", 6) || zg_map_put(&l->seen, c->line.at, 1))
    fprintf(stderr, "[rank %u] %s\n", c->rank, c->line.at);
  c->line.n = 0;
}

static void read_lines(launcher *l, child *c) {
  char piece[4096];
  const ssize_t k = read(c->err, piece, sizeof piece);
  if (k < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (k <= 0) {
    if (c->line.n) show_line(l, c);
    close(c->err);
    c->err = -1;
    return;
  }
  for (ssize_t i = 0; i < k; i++) {
    if (piece[i] != '\n') zg_str_put(&c->line, &piece[i], 1);
    else if (c->line.n) show_line(l, c);
    else fputc('\n', stderr);
  }
}

static void signal_all(const launcher *l, int sig) {
  for (uint32_t i = 0; i < l->n; i++)
    if (l->children[i].pid) kill(l->children[i].pid, sig);
}

static bool well(const child *c) { return WIFEXITED(c->status) && WEXITSTATUS(c->status) == 0; }

static void reap(launcher *l) {
  for (uint32_t i = 0; i < l->n; i++) {
    child *c = &l->children[i];
    if (!c->pid || waitpid(c->pid, &c->status, WNOHANG) != c->pid) continue;
    c->pid = 0;
    // Of those that failed at the same time a killed one is the cause, not the consequence.
    if (!well(c) && (!l->failed || (WIFSIGNALED(c->status) && !WIFSIGNALED(l->failed->status) && zg_time_s() - l->failed_at < 0.2))) {
      if (!l->failed) l->failed_at = zg_time_s();
      l->failed = c;
    }
  }
}

static void take_signal(launcher *l) {
  struct signalfd_siginfo s;
  if (read(l->signals, &s, sizeof s) != sizeof s) return;
  if (s.ssi_signo == SIGCHLD) reap(l);
  else signal_all(l, (int)s.ssi_signo);
}

// Until all ranks have ended and said all they had to say.
static void attend(launcher *l) {
  struct pollfd *p = zg_alloc(sizeof *p * (l->n + 1));
  for (;;) {
    uint32_t alive = 0, open = 0;
    p[0] = (struct pollfd){l->signals, POLLIN, 0};
    for (uint32_t i = 0; i < l->n; i++) {
      alive += l->children[i].pid != 0;
      open += l->children[i].err >= 0;
      p[i + 1] = (struct pollfd){l->children[i].err, POLLIN, 0};
    }
    if (!alive && !open) break;
    const int got = poll(p, l->n + 1, alive ? 200 : 50);
    if (got == 0 && !alive) break;                       // something a rank has started still holds its standard error
    if (p[0].revents) take_signal(l);
    for (uint32_t i = 0; i < l->n; i++)
      if (l->children[i].err >= 0 && p[i + 1].revents) read_lines(l, &l->children[i]);
    reap(l);
    if (l->failed && zg_time_s() - l->failed_at > KILL_S) signal_all(l, SIGKILL);
  }
  zg_free(p);
}

static zg_status outcome(const launcher *l) {
  const child *c = l->failed;
  if (!c) return NULL;
  if (WIFSIGNALED(c->status))
    return zg_error(ZG_CANCELLED, "rank %u was killed by signal %d (%s); all ranks have ended", c->rank, WTERMSIG(c->status), strsignal(WTERMSIG(c->status)));
  return zg_error(WEXITSTATUS(c->status) == 2 ? ZG_INVALID : ZG_CANCELLED, "rank %u ended with status %d; all ranks have ended", c->rank,
                  WEXITSTATUS(c->status));
}

static const int forwarded[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};

static zg_status launch(launcher *l) {
  zg_status status = NULL;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  for (size_t i = 0; i < ZG_COUNT(forwarded); i++) sigaddset(&set, forwarded[i]);
  sigprocmask(SIG_BLOCK, &set, &l->old_mask);
  l->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (l->signals < 0) ZG_TRY_OUT(zg_error(ZG_IO, "waiting for signals: %s", strerror(errno)));
  ZG_TRY_OUT(start(l));
  attend(l);
  status = outcome(l);
out:
  for (uint32_t i = 0; i < l->n; i++) {                  // a rank could not be started: end those that were
    child *c = &l->children[i];
    if (c->pid) kill(c->pid, SIGKILL);
    if (c->pid) waitpid(c->pid, &c->status, 0);
    zg__wire_close(c->err);
    zg_str_fini(&c->line);
  }
  zg__wire_close(l->signals);
  sigprocmask(SIG_SETMASK, &l->old_mask, NULL);
  return status;
}

static zg_status launch_ranks(const zg_config *cfg) {
  launcher l = {.cfg = cfg, .n = (uint32_t)(cfg->num_processes / cfg->num_machines), .listen_fd = -1, .signals = -1};
  zg_status status = NULL;
  l.first = (uint32_t)cfg->machine_rank * l.n;
  l.children = zg_alloc(sizeof *l.children * l.n);
  for (uint32_t i = 0; i < l.n; i++) l.children[i].err = -1;
  ZG_TRY_OUT(read_arguments(&l));
  ZG_TRY_OUT(find_address(&l));
  status = launch(&l);
out:
  zg__wire_close(l.listen_fd);
  zg_map_fini(&l.seen);
  zg_free(l.children);
  zg_free(l.argv);
  zg_free(l.argv_text);
  return status;
}

zg_status zg_launch(const zg_config *cfg, zg_launched *out) {
  zg_rank_env e;
  *out = (zg_launched){.comm = NULL};
  ZG_TRY(zg_rank_env_read(&e));
  if (e.from && e.world > 1) return join(cfg, &e, &out->comm);
  if (e.from || cfg->num_processes <= 1) return NULL;
  ZG_TRY(launch_ranks(cfg));
  out->done = true;
  return NULL;
}
