/* A machine that was copied while it ran: a library for LD_PRELOAD whose random bytes are the same in each run that
   SNAP_RANDOM names alike. With SNAP_RANDOM=constant every call of a length gives the same bytes: a machine that has no
   chance at all. Calls are counted, so that a test can see that it took hold. */

#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

static atomic_ulong calls;

unsigned long repeat_random_calls(void) { return atomic_load(&calls); }

static uint64_t mixed(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

static void fill(unsigned char *out, size_t count)
{
    unsigned long call = atomic_fetch_add(&calls, 1);
    const char *name = getenv("SNAP_RANDOM");
    uint64_t state = count;
    for (const char *c = name ? name : ""; *c; c++)
        state = mixed(state ^ (unsigned char)*c);
    if (!name || strcmp(name, "constant"))
        state = mixed(state ^ call);
    for (size_t i = 0; i < count; i++) {
        state = mixed(state);
        out[i] = (unsigned char)state;
    }
}

ssize_t getrandom(void *out, size_t count, unsigned flags)
{
    (void)flags;
    fill(out, count);
    return (ssize_t)count;
}

int getentropy(void *out, size_t count)
{
    fill(out, count);
    return 0;
}
