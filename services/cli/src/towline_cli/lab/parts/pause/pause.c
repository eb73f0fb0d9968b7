// Waits, reaps what is orphaned to it, and leaves on SIGTERM: the sandbox container of every pod, and the first
// process of a node's own process namespace.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void leave(int signal) { (void)signal; _exit(0); }
static void reap(int signal) { (void)signal; while (waitpid(-1, 0, WNOHANG) > 0) { } }

int main(void) {
  signal(SIGTERM, leave);
  signal(SIGINT, leave);
  struct sigaction child = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP};
  sigaction(SIGCHLD, &child, 0);
  for (;;) pause();
}
