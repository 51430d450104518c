/* lat_mem_rd's dependent loads, in random order over 64-byte lines, 4 KiB pages. Arguments: sizes in bytes; prints for each the median
   nanoseconds of 21 slices. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int order(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static uint64_t state = 88172645463325252ULL;
static uint64_t next(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static double chase(size_t bytes) {
    size_t lines = bytes / 64;
    size_t *cycle = malloc(lines * sizeof *cycle);
    char *area = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(area, bytes, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < lines; i++) cycle[i] = i;
    for (size_t i = lines - 1; i > 0; i--) {
        size_t j = next() % i, t = cycle[i];
        cycle[i] = cycle[j];
        cycle[j] = t;
    }
    for (size_t i = 0; i < lines; i++) *(void **)(area + 64 * i) = area + 64 * cycle[i];
    free(cycle);
    void **p = (void **)area;
    size_t loads = 1000;
    double took = 0, values[21];
    while (took < 0.04) {
        loads *= 2;
        double t = now();
        for (size_t i = 0; i < loads; i++) p = *p;
        __asm__ volatile("" ::"r"(p));
        took = now() - t;
    }
    for (int k = 0; k < 21; k++) {
        double t = now();
        for (size_t i = 0; i < loads; i++) p = *p;
        __asm__ volatile("" ::"r"(p));
        values[k] = (now() - t) / loads * 1e9;
    }
    munmap(area, bytes);
    qsort(values, 21, sizeof *values, order);
    return values[10];
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) printf("%f ", chase(strtoul(argv[i], 0, 10)));
    printf("\n");
    return 0;
}
