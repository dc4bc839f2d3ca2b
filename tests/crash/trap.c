/* Ends a process at the k-th call by which it changes files, or makes that call fail, or passes over it as if it had been
   made: seen from the kernel, by a filter that asks whoever started the process (SECCOMP_RET_USER_NOTIF). Libraries that
   make their system calls themselves, which no preloaded library sees, are seen too; and what is not asked about costs
   nothing. Output to descriptors 0 to 2 is not counted, nor are opens that neither create nor cut off a file. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

enum { ANY, OUTPUT, OPENAT, OPEN, CLONE };

/* `path`, `other`: which arguments are names, -1 for none; `asked`: when it counts. */
static const struct call {
    int number;
    const char *name;
    int path, other, asked;
} calls[] = {
    {SYS_write, "write", -1, -1, OUTPUT},
    {SYS_writev, "writev", -1, -1, OUTPUT},
    {SYS_pwrite64, "pwrite64", -1, -1, ANY},
    {SYS_pwritev, "pwritev", -1, -1, ANY},
    {SYS_pwritev2, "pwritev2", -1, -1, ANY},
    {SYS_copy_file_range, "copy_file_range", -1, -1, ANY},
    {SYS_sendfile, "sendfile", -1, -1, ANY},
    {SYS_splice, "splice", -1, -1, ANY},
    {SYS_ftruncate, "ftruncate", -1, -1, ANY},
    {SYS_truncate, "truncate", 0, -1, ANY},
    {SYS_fallocate, "fallocate", -1, -1, ANY},
    {SYS_fsync, "fsync", -1, -1, ANY},
    {SYS_fdatasync, "fdatasync", -1, -1, ANY},
    {SYS_syncfs, "syncfs", -1, -1, ANY},
    {SYS_sync_file_range, "sync_file_range", -1, -1, ANY},
    {SYS_openat, "openat", 1, -1, OPENAT},
    {SYS_linkat, "linkat", 1, 3, ANY},
    {SYS_symlinkat, "symlinkat", 2, -1, ANY},
    {SYS_renameat2, "renameat2", 1, 3, ANY},
    {SYS_unlinkat, "unlinkat", 1, -1, ANY},
    {SYS_mkdirat, "mkdirat", 1, -1, ANY},
    {SYS_mknodat, "mknodat", 1, -1, ANY},
    {SYS_fchmod, "fchmod", -1, -1, ANY},
    {SYS_fchmodat, "fchmodat", 1, -1, ANY},
    {SYS_fchmodat2, "fchmodat2", 1, -1, ANY},
    {SYS_fchown, "fchown", -1, -1, ANY},
    {SYS_fchownat, "fchownat", 1, -1, ANY},
    {SYS_utimensat, "utimensat", 1, -1, ANY},
    {SYS_setxattr, "setxattr", 0, 1, ANY},
    {SYS_lsetxattr, "lsetxattr", 0, 1, ANY},
    {SYS_fsetxattr, "fsetxattr", 1, -1, ANY},
    {SYS_removexattr, "removexattr", 0, 1, ANY},
    {SYS_lremovexattr, "lremovexattr", 0, 1, ANY},
    {SYS_fremovexattr, "fremovexattr", 1, -1, ANY},
    {SYS_ioctl, "ioctl", -1, -1, CLONE},
#ifdef SYS_renameat
    {SYS_renameat, "renameat", 1, 3, ANY},
#endif
#ifdef SYS_open /* those that the first architectures have besides */
    {SYS_open, "open", 0, -1, OPEN},
    {SYS_creat, "creat", 0, -1, ANY},
    {SYS_link, "link", 0, 1, ANY},
    {SYS_symlink, "symlink", 1, -1, ANY},
    {SYS_rename, "rename", 0, 1, ANY},
    {SYS_unlink, "unlink", 0, -1, ANY},
    {SYS_rmdir, "rmdir", 0, -1, ANY},
    {SYS_mkdir, "mkdir", 0, -1, ANY},
    {SYS_mknod, "mknod", 0, -1, ANY},
    {SYS_chmod, "chmod", 0, -1, ANY},
    {SYS_chown, "chown", 0, -1, ANY},
    {SYS_lchown, "lchown", 0, -1, ANY},
    {SYS_utimes, "utimes", 0, -1, ANY},
#endif
};

#define COUNT (sizeof calls / sizeof *calls)
#define LOAD(what) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, what))
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_##what)

/* Asks about this process from here on. The answer is the descriptor at which the questions come, or -1. */
int trap_install(void)
{
    struct sock_filter filter[COUNT * 5 + 8];
    unsigned short n = 0;
    filter[n++] = (struct sock_filter)LOAD(nr);
    for (size_t i = 0; i < COUNT; i++) {
        /* The number stays loaded unless the call is this one. */
        switch (calls[i].asked) {
        case ANY:
            filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i].number, 0, 1);
            filter[n++] = (struct sock_filter)RETURN(USER_NOTIF);
            continue;
        case OUTPUT:
            filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i].number, 0, 4);
            filter[n++] = (struct sock_filter)LOAD(args[0]);
            filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 2, 0, 1);
            break;
        case OPENAT:
        case OPEN:
            filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i].number, 0, 4);
            if (calls[i].asked == OPENAT)
                filter[n++] = (struct sock_filter)LOAD(args[2]);
            else
                filter[n++] = (struct sock_filter)LOAD(args[1]);
            filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_CREAT | O_TRUNC, 0, 1);
            break;
        case CLONE:
            filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i].number, 0, 4);
            filter[n++] = (struct sock_filter)LOAD(args[1]);
            filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, FICLONE, 0, 1);
            break;
        }
        filter[n++] = (struct sock_filter)RETURN(USER_NOTIF);
        filter[n++] = (struct sock_filter)RETURN(ALLOW);
    }
    filter[n++] = (struct sock_filter)RETURN(ALLOW);
    struct sock_fprog program = {n, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

static const char *read_name(pid_t pid, unsigned long at, char *name, size_t size)
{
    struct iovec to = {name, size - 1}, from = {(void *)at, size - 1};
    ssize_t got = process_vm_readv(pid, &to, 1, &from, 1, 0);
    while (got < 0 && from.iov_len > 16) { /* the next page may be missing */
        from.iov_len /= 2;
        got = process_vm_readv(pid, &to, 1, &from, 1, 0);
    }
    name[got < 0 ? 0 : got] = 0;
    return name;
}

/* How many bytes a call would have written. */
static long long written(const char *name, const struct seccomp_notif *question)
{
    struct iovec parts[64];
    unsigned long long count = question->data.args[2];
    if (!strchr(name, 'v'))
        return (long long)count;
    struct iovec to = {parts, sizeof parts}, from = {(void *)question->data.args[1], count * sizeof *parts};
    long long sum = 0;
    if (count <= 64 && process_vm_readv((pid_t)question->pid, &to, 1, &from, 1, 0) == (ssize_t)from.iov_len)
        for (unsigned long long i = 0; i < count; i++)
            sum += (long long)parts[i].iov_len;
    return sum;
}

enum { KILL = 0, FAIL = 1, PASS_OVER = 2 };

/* Answers the questions of process `pid` until it ends, and returns how many calls there were since the first one with a
   name that begins with `first` (NULL or empty: all). The `k`-th of these (0: none) meets what `mode` says; with `for_good`
   those after it too. `log` gets a line for each. Besides, the first call whose line begins with `forgotten` (NULL or empty:
   none) is passed over. Renames with one of the flags `refused` fail with `refusal`, as on a file system that has none. */
long trap_serve(int listener, int pid, const char *first, long k, int mode, int error, int for_good, const char *forgotten,
                unsigned refused, int refusal, char *log, size_t size)
{
    long count = 0;
    int begun = !first || !*first;
    size_t used = 0;
    struct pollfd asked = {listener, POLLIN, 0};
    for (;;) {
        if (poll(&asked, 1, -1) < 0)
            continue;
        if (!(asked.revents & POLLIN))
            return count; /* nobody is left to ask */
        struct seccomp_notif question;
        memset(&question, 0, sizeof question);
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &question))
            continue;
        const struct call *call = calls;
        while (call->number != question.data.nr)
            call++;
        char path[256] = "", other[256] = "";
        if (call->path >= 0)
            read_name((pid_t)question.pid, question.data.args[call->path], path, sizeof path);
        if (call->other >= 0)
            read_name((pid_t)question.pid, question.data.args[call->other], other, sizeof other);
        int refuses = call->number == SYS_renameat2 && (question.data.args[4] & refused);
        begun = begun || !strncmp(path, first, strlen(first));
        struct seccomp_notif_resp answer = {question.id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        if (refuses) {
            answer.flags = 0;
            answer.error = -refusal;
        }
        if (begun) {
            count++;
            char line[600];
            int length = snprintf(line, sizeof line, "%s %s %s\n", call->name, path, other);
            if (used + (size_t)length < size)
                used += (size_t)sprintf(log + used, "%s", line);
            if (forgotten && *forgotten && !strncmp(line, forgotten, strlen(forgotten))) {
                forgotten = NULL;
                answer.flags = 0;
                answer.error = 0;
                if (strstr(call->name, "write"))
                    answer.val = written(call->name, &question);
            }
            if (count == k || (k && for_good && count > k)) {
                if (mode == KILL) {
                    kill(pid, SIGKILL);
                    continue;
                }
                answer.flags = 0;
                answer.error = mode == FAIL ? -error : 0;
                if (mode == PASS_OVER && strstr(call->name, "write"))
                    answer.val = written(call->name, &question);
            }
        }
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}
