/* McCalpin's four loops as gcc -O3 -fopenmp builds them, huge pages wanted as the agent wants them. A sample is passes for 0.1 s, as
   the agent's; prints the median MB/s of 11 for copy, scale, add, triad. (STREAM itself prints its best single pass, which noise does
   not reach.) Argument: MiB of each array. OMP_NUM_THREADS says how many threads. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double *array(size_t bytes, double value) {
    double *p = aligned_alloc(2097152, bytes);
    madvise(p, bytes, MADV_HUGEPAGE);
    for (size_t i = 0; i < bytes / 8; i++) p[i] = value;
    return p;
}

static int order(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

#define SAMPLES(moved, statement)                                                \
    do {                                                                         \
        double v[11];                                                            \
        for (int k = -1; k < 11; k++) {                                          \
            int passes = 0;                                                      \
            double t = now(), d;                                                 \
            do {                                                                 \
                _Pragma("omp parallel for schedule(static)")                     \
                for (size_t i = 0; i < n; i++) statement;                        \
                __asm__ volatile("" ::: "memory");                               \
                passes++;                                                        \
                d = now() - t;                                                   \
            } while (d < 0.1);                                                   \
            if (k >= 0) v[k] = (moved) * passes / d / 1e6;                       \
        }                                                                        \
        qsort(v, 11, sizeof *v, order);                                          \
        printf("%f ", v[5]);                                                     \
    } while (0)

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    size_t bytes = strtoul(argv[1], 0, 10) << 20, n = bytes / 8;
    double *restrict a = array(bytes, 1), *restrict b = array(bytes, 2), *restrict c = array(bytes, 0);
    SAMPLES(2.0 * bytes, c[i] = a[i]);
    SAMPLES(2.0 * bytes, b[i] = 3.0 * c[i]);
    SAMPLES(3.0 * bytes, c[i] = a[i] + b[i]);
    SAMPLES(3.0 * bytes, a[i] = b[i] + 3.0 * c[i]);
    printf("\n");
    return a[n / 2] > 1e300;
}
