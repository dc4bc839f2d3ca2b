/* Ends a process, or fails a call, at the k-th call by which it changes files: a library for LD_PRELOAD.

   The count is one for all threads (that of strace -e inject=…:when= is one for each), so that k = 1, 2, … until
   nothing happens any more visits every state that a death can leave. Output to descriptors 0 to 2 is not counted. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long count;
static long fail_at;
static int fail_with, fail_for_good;
static char names[512];

/* `calls`: names with a comma before and after each; `k` = 0: only counts; `error` = 0: SIGKILL; `for_good`: later
   calls fail too. */
void fail_at_arm(const char *calls, long k, int error, int for_good)
{
    snprintf(names, sizeof names, "%s", calls);
    atomic_store(&count, 0);
    fail_with = error;
    fail_for_good = for_good;
    fail_at = k ? k : -1;
}

long fail_at_count(void) { return atomic_load(&count); }

static int fails(const char *name, int descriptor)
{
    if (!fail_at || (descriptor >= 0 && descriptor <= 2) || !strstr(names, name))
        return 0;
    long now = atomic_fetch_add(&count, 1) + 1;
    if (now != fail_at && !(fail_for_good && fail_at > 0 && now > fail_at))
        return 0;
    if (!fail_with) {
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    }
    errno = fail_with;
    return 1;
}

#define WRAP(type, name, parameters, descriptor, arguments)                                                          \
    type name parameters                                                                                             \
    {                                                                                                                \
        static type(*real) parameters;                                                                               \
        if (!real)                                                                                                   \
            real = (type(*) parameters)dlsym(RTLD_NEXT, #name);                                                      \
        return fails("," #name ",", descriptor) ? -1 : real arguments;                                               \
    }

WRAP(ssize_t, write, (int fd, const void *data, size_t size), fd, (fd, data, size))
WRAP(ssize_t, writev, (int fd, const struct iovec *parts, int n), fd, (fd, parts, n))
WRAP(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), fd, (fd, data, size, at))
WRAP(ssize_t, pwritev, (int fd, const struct iovec *parts, int n, off_t at), fd, (fd, parts, n, at))
WRAP(int, fsync, (int fd), fd, (fd))
WRAP(int, fdatasync, (int fd), fd, (fd))
WRAP(int, ftruncate64, (int fd, off64_t size), fd, (fd, size))
WRAP(int, link, (const char *from, const char *to), -1, (from, to))
WRAP(int, linkat, (int d, const char *from, int e, const char *to, int flags), -1, (d, from, e, to, flags))
WRAP(int, rename, (const char *from, const char *to), -1, (from, to))
WRAP(int, renameat, (int d, const char *from, int e, const char *to), -1, (d, from, e, to))
WRAP(int, renameat2, (int d, const char *from, int e, const char *to, unsigned flags), -1, (d, from, e, to, flags))
WRAP(int, unlink, (const char *path), -1, (path))
WRAP(int, unlinkat, (int d, const char *path, int flags), -1, (d, path, flags))
WRAP(int, mkdir, (const char *path, mode_t mode), -1, (path, mode))
WRAP(int, mkdirat, (int d, const char *path, mode_t mode), -1, (d, path, mode))

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }
