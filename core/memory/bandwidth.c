/* Measures memory bandwidth: copy (c = a) and triad (a = b + s * c) over arrays far larger than the caches, as STREAM does
 * (J. D. McCalpin, https://www.cs.virginia.edu/stream/). Usage: bandwidth THREADS SECONDS ARRAY_BYTES.
 * Prints one line a kernel: `name threads array_bytes repetitions best_gbs median_gbs`, GB being 1e9 bytes; copy counts 16
 * bytes an element, triad 24, as STREAM does (what a cache reads before it writes is not counted). */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define MAX_THREADS 1024
#define MAX_REPETITIONS 100000
#define SCALAR 3.0

static double *a, *b, *c;
static long elements;
static int threads, kernel, stop;
static pthread_barrier_t gate;
static double seconds[MAX_REPETITIONS], begun[MAX_THREADS], ended[MAX_THREADS];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void work(long from, long to) {
    double *restrict x = a, *restrict y = b, *restrict z = c;
    if (kernel == 0)
        for (long i = from; i < to; i++) z[i] = x[i];
    else
        for (long i = from; i < to; i++) x[i] = y[i] + SCALAR * z[i];
}

static void *loop(void *given) {
    long self = (long)given, from = elements * self / threads, to = elements * (self + 1) / threads;
    for (long i = from; i < to; i++) { /* the thread that works on a page touches it first */
        a[i] = 1.0;
        b[i] = 2.0;
        c[i] = 0.0;
    }
    pthread_barrier_wait(&gate);
    for (;;) {
        pthread_barrier_wait(&gate);
        if (stop) return NULL;
        begun[self] = now(); /* timed here: the main thread may be woken late */
        work(from, to);
        ended[self] = now();
        pthread_barrier_wait(&gate);
    }
}

static int by_size(const void *x, const void *y) {
    double d = *(const double *)x - *(const double *)y;
    return (d > 0) - (d < 0);
}

static void measure(const char *name, int which, double limit) {
    double bytes = (double)elements * (which == 0 ? 16 : 24), started = now();
    int count = 0;
    kernel = which;
    while (count < MAX_REPETITIONS && (count < 4 || now() - started < limit)) {
        pthread_barrier_wait(&gate);
        pthread_barrier_wait(&gate);
        double first = begun[0], last = ended[0];
        for (int i = 1; i < threads; i++) {
            if (begun[i] < first) first = begun[i];
            if (ended[i] > last) last = ended[i];
        }
        seconds[count++] = last - first;
    }
    qsort(seconds, (size_t)count, sizeof *seconds, by_size);
    printf("%s %d %ld %d %.6f %.6f\n", name, threads, elements * 8, count, bytes / seconds[0] * 1e-9,
           bytes / seconds[count / 2] * 1e-9);
}

int main(int argc, char **argv) {
    if (argc != 4) return 64;
    threads = atoi(argv[1]);
    double limit = atof(argv[2]);
    elements = atol(argv[3]) / 8;
    if (threads < 1 || threads > MAX_THREADS || elements < threads || !(limit > 0)) return 64;
    a = malloc((size_t)elements * 8), b = malloc((size_t)elements * 8), c = malloc((size_t)elements * 8);
    if (!a || !b || !c) return 71;
    pthread_barrier_init(&gate, NULL, (unsigned)threads + 1);
    pthread_t made[MAX_THREADS];
    for (long i = 0; i < threads; i++)
        if (pthread_create(&made[i], NULL, loop, (void *)i)) return 71;
    pthread_barrier_wait(&gate);
    measure("copy", 0, limit / 2);
    measure("triad", 1, limit / 2);
    stop = 1;
    pthread_barrier_wait(&gate);
    for (int i = 0; i < threads; i++) pthread_join(made[i], NULL);
    for (long i = 0; i < elements; i++) /* after copy c is 1, so triad leaves 2 + 3 * 1 */
        if (c[i] != 1.0 || a[i] != 5.0) return 70;
    return 0;
}
