/*
 * The clock of scripts/bench: measure [-n TIMES] WORK ARGUMENTS.., see the table at the end. Each
 * work repeats one operation for a bounded time, or TIMES times, and prints nanoseconds per operation
 * (or what its line of the table says). Filling and emptying queues goes on by the C interface with
 * the clock stopped.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mqueue.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define check(call) check_result((call), #call)

static long check_result(long result, const char *call)
{
    if (result == -1) {
        fprintf(stderr, "measure: %s: %s\n", call, strerror(errno));
        exit(1);
    }
    return result;
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static char buffer[1 << 20];

/* ---- an operation, repeated ------------------------------------------------------------------ */

static uint64_t exactly; /* How many times; 0 for as many as there is time for. */

/* Does `step` in batches until `milliseconds` are over; `between` is called outside of the time. */
static void repeat(long milliseconds, int batch, void (*step)(void), void (*between)(void))
{
    uint64_t spent = 0, limit = milliseconds * 1000000ull, times = 0, real = now();

    if (!exactly)
        step();
    while (exactly ? times < exactly : spent < limit && now() - real < 4 * limit) {
        if (exactly && exactly - times < (uint64_t)batch)
            batch = exactly - times;
        if (between)
            between();
        uint64_t start = now();
        for (int i = 0; i < batch; i++)
            step();
        spent += now() - start;
        times += batch;
    }
    if (between)
        between();
    printf("%.1f\n", (double)spent / times);
}

enum { BATCH = 200 };

static const char *path, *words[2];
static int fd, word;
static size_t size;
static off_t span, at;
static mqd_t queue;
static char *mapping;
static sem_t *semaphore;

static int opened(const char *name, int flags)
{
    return check(open(name, flags | O_CLOEXEC));
}

static void open_queue(const char *name)
{
    queue = check(mq_open(name, O_RDWR | O_NONBLOCK));
}

static void empty_queue(void)
{
    while (mq_receive(queue, buffer, sizeof buffer, NULL) >= 0)
        ;
}

static void fill_queue(void)
{
    empty_queue();
    for (int i = 0; i < BATCH; i++)
        check(mq_send(queue, buffer, size, 0));
}

static void do_write(void) { check(write(fd, buffer, size)); }
static void do_open_write_close(void)
{
    fd = opened(path, O_WRONLY);
    do_write();
    check(close(fd));
}
static void do_open_close(void) { check(close(opened(path, O_RDONLY))); }
static void do_stat(void)
{
    struct stat st;
    check(stat(path, &st));
}
static void do_read(void)
{
    while (check(read(fd, buffer, size)) > 0)
        ;
}
static void do_send(void) { check(mq_send(queue, buffer, size, 0)); }
static void do_receive(void) { check(mq_receive(queue, buffer, sizeof buffer, NULL)); }
static void do_words(void)
{
    check(write(fd, words[word], strlen(words[word])));
    word = !word;
}
static void do_post_wait(void)
{
    check(sem_post(semaphore));
    check(sem_wait(semaphore));
}
static void do_flock(void)
{
    check(flock(fd, LOCK_EX));
    check(flock(fd, LOCK_UN));
}
static void do_open_flock_close(void)
{
    fd = opened(path, O_RDONLY);
    check(flock(fd, LOCK_EX));
    check(close(fd));
}
static off_t next_place(void)
{
    off_t place = at;
    at += size;
    if (at + (off_t)size > span)
        at = 0;
    return place;
}
static void do_pread(void) { check(pread(fd, buffer, size, next_place())); }
static void do_pwrite(void) { check(pwrite(fd, buffer, size, next_place())); }
static void do_load(void) { memcpy(buffer, mapping + next_place(), size); }
static void do_store(void) { memcpy(mapping + next_place(), buffer, size); }

static void write_queue(char **a, void (*step)(void))
{
    size = atol(a[1]);
    if (a[3])
        open_queue(a[3]);
    repeat(atol(a[2]), BATCH, step, a[3] ? empty_queue : NULL);
}
static void work_write(char **a)
{
    fd = opened(a[0], O_WRONLY);
    write_queue(a, do_write);
}
static void work_open_write_close(char **a)
{
    path = a[0];
    write_queue(a, do_open_write_close);
}
static void work_open_write_close_beside(char **a)
{
    opened(a[0], O_WRONLY);
    work_open_write_close(a);
}
static void work_read(char **a)
{
    size = atol(a[1]);
    fd = opened(a[0], O_RDONLY);
    if (a[3]) {
        open_queue(a[3]);
        fill_queue();
    }
    repeat(atol(a[2]), BATCH, do_read, a[3] ? fill_queue : NULL);
    if (a[3])
        empty_queue();
}
static void work_open_close(char **a)
{
    path = a[0];
    repeat(atol(a[1]), BATCH, do_open_close, NULL);
}
static void work_stat(char **a)
{
    path = a[0];
    repeat(atol(a[1]), BATCH, do_stat, NULL);
}
static void send_anew(void)
{
    empty_queue();
    check(mq_send(queue, "message", 7, 0));
}
static void work_stat_at_work(char **a)
{
    path = a[0];
    open_queue(a[2]);
    repeat(atol(a[1]), BATCH, do_stat, send_anew);
    empty_queue();
}
static void work_stat_at_rest(char **a)
{
    const struct timespec long_ago[2] = { { 1, 0 }, { 1, 0 } };

    path = a[0];
    open_queue(a[2]);
    send_anew();
    check(utimensat(AT_FDCWD, path, long_ago, 0));
    repeat(atol(a[1]), BATCH, do_stat, NULL);
    empty_queue();
}
static void work_mq_send(char **a)
{
    open_queue(a[0]);
    size = atol(a[1]);
    repeat(atol(a[2]), BATCH, do_send, empty_queue);
}
static void work_mq_receive(char **a)
{
    open_queue(a[0]);
    size = atol(a[1]);
    fill_queue();
    repeat(atol(a[2]), BATCH, do_receive, fill_queue);
    empty_queue();
}
static void work_words(char **a)
{
    fd = opened(a[0], O_WRONLY);
    words[0] = a[1];
    words[1] = a[2];
    repeat(atol(a[3]), 2 * BATCH, do_words, NULL);
}
static void work_post_wait(char **a)
{
    semaphore = sem_open(a[0], O_RDWR);
    check(semaphore == SEM_FAILED ? -1 : 0);
    repeat(atol(a[1]), BATCH, do_post_wait, NULL);
}
static void work_flock(char **a)
{
    fd = opened(a[0], O_RDWR);
    repeat(atol(a[1]), BATCH, do_flock, NULL);
}
static void work_open_flock_close(char **a)
{
    path = a[0];
    repeat(atol(a[1]), BATCH, do_open_flock_close, NULL);
}

/* Operations that go once through the whole object before the time counts. */
static void warm(void (*step)(void))
{
    size_t wanted = size;
    size = wanted > sizeof buffer ? sizeof buffer : wanted;
    for (off_t done = 0; done + (off_t)size <= span; done += size)
        step();
    at = 0;
}
static void block_work(char **a, void (*step)(void), int flags)
{
    size = atol(a[1]);
    span = atol(a[2]);
    if (flags == -1) {
        int id = check(shmget(strtoul(a[0], NULL, 0), 0, 0));
        mapping = shmat(id, NULL, 0);
        check(mapping == (void *)-1 ? -1 : 0);
    } else {
        fd = opened(a[0], flags);
        if (step == do_load || step == do_store) {
            mapping = mmap(NULL, span, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            check(mapping == MAP_FAILED ? -1 : 0);
        }
    }
    warm(step);
    repeat(atol(a[3]), size > 65536 ? 4 : BATCH, step, NULL);
}
static void work_pread(char **a) { block_work(a, do_pread, O_RDONLY); }
static void work_pwrite(char **a) { block_work(a, do_pwrite, O_WRONLY); }
static void work_load(char **a) { block_work(a, do_load, O_RDWR); }
static void work_store(char **a) { block_work(a, do_store, O_RDWR); }
static void work_shm_load(char **a) { block_work(a, do_load, -1); }
static void work_shm_store(char **a) { block_work(a, do_store, -1); }

/* ---- latencies ------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void print_percentiles(uint64_t *times, long count)
{
    qsort(times, count, sizeof *times, by_size);
    printf("%llu %llu\n", (unsigned long long)times[count / 2],
           (unsigned long long)times[count * 99 / 100]);
}

/* Either a queue (its name begins with "mq:") or a file. */
struct end {
    mqd_t queue;
    int fd;
};

static struct end open_end(const char *name, int flags)
{
    struct end end = { -1, -1 };
    if (strncmp(name, "mq:", 3) == 0)
        end.queue = check(mq_open(name + 3, flags));
    else
        end.fd = opened(name, flags);
    return end;
}
static void put(struct end end)
{
    check(end.fd < 0 ? mq_send(end.queue, "ping", 4, 0) : write(end.fd, "ping", 4));
}
static void get(struct end end)
{
    static _Thread_local char message[65536];
    if (end.fd < 0)
        check(mq_receive(end.queue, message, sizeof message, NULL));
    else
        while (check(read(end.fd, message, sizeof message)) == 0)
            ; /* The end of file that follows each message. */
}

static void work_pingpong(char **a)
{
    long rounds = atol(a[2]);
    uint64_t *times = calloc(rounds, sizeof *times);
    pid_t child = check(fork());

    if (child == 0) {
        struct end in = open_end(a[0], O_RDONLY), out = open_end(a[1], O_WRONLY);
        for (;;) {
            get(in);
            put(out);
        }
    }
    struct end out = open_end(a[0], O_WRONLY), in = open_end(a[1], O_RDONLY);
    for (long i = 0; i < rounds; i++) {
        uint64_t start = now();
        put(out);
        get(in);
        times[i] = now() - start;
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    print_percentiles(times, rounds);
}

static const char *blocked_on;
static atomic_long started;
static _Atomic uint64_t woken;
static sem_t seen;

static void *blocked_reader(void *unused)
{
    struct end end = open_end(blocked_on, O_RDONLY);

    atomic_fetch_add(&started, 1);
    for (;;) {
        get(end);
        atomic_store(&woken, now());
        sem_post(&seen);
    }
    return unused;
}

static void block(const char *name, long count)
{
    pthread_attr_t attributes;
    pthread_t thread;

    blocked_on = name;
    sem_init(&seen, 0, 0);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 256 * 1024);
    for (long i = 0; i < count; i++) {
        errno = pthread_create(&thread, &attributes, blocked_reader, NULL);
        check(errno ? -1 : 0);
    }
    while (atomic_load(&started) < count)
        usleep(1000);
    usleep(100000 + count * 100);
}

static void work_block(char **a)
{
    block(a[0], atol(a[1]));
    puts("blocked");
    fflush(stdout);
    while (read(0, buffer, 1) > 0)
        ;
}

static void work_wake(char **a)
{
    long rounds = atol(a[3]);
    uint64_t *times = calloc(rounds, sizeof *times);

    block(a[0], atol(a[1]));
    open_queue(a[2]);
    for (long i = 0; i < rounds; i++) {
        usleep(2000);
        uint64_t start = now();
        check(mq_send(queue, "wake", 4, 0));
        sem_wait(&seen);
        times[i] = atomic_load(&woken) - start;
    }
    print_percentiles(times, rounds);
    fflush(stdout);
    _exit(0);
}

/* ---- objects ----------------------------------------------------------------------------------- */

/*
 * A uid of its own for the real user: what its queues hold is charged to that one's
 * RLIMIT_MSGQUEUE and not to root's, which others on this machine may have used up.
 */
static void be_somebody(int number)
{
    check(setresuid(1000000 + 100 * getpid() + number, 0, 0));
}

static void work_queue(char **a)
{
    struct mq_attr attributes = { .mq_maxmsg = atol(a[1]), .mq_msgsize = atol(a[2]) };
    be_somebody(0);
    check(mq_open(a[0], O_RDWR | O_CREAT, 0600, &attributes));
}

static void work_make(char **a)
{
    const char *kind = a[0];
    long count = atol(a[1]);
    struct mq_attr attributes = { .mq_maxmsg = 1, .mq_msgsize = 1 };
    char name[64];

    for (long i = 0; i < count; i++) {
        if (i % 1000 == 0)
            be_somebody(i / 1000);
        snprintf(name, sizeof name, "/many-%ld", i);
        if (strcmp(kind, "mq") == 0)
            close(check(mq_open(name, O_RDWR | O_CREAT, 0600, &attributes)));
        else if (strcmp(kind, "shm") == 0)
            close(check(shm_open(name, O_RDWR | O_CREAT, 0600)));
        else if (strcmp(kind, "sem") == 0) {
            sem_t *made = sem_open(name, O_CREAT, 0600, 1);
            check(made == SEM_FAILED ? -1 : 0);
            sem_close(made);
        } else if (strcmp(kind, "sysv/msg") == 0)
            check(msgget(0x10000 + i, IPC_CREAT | 0600));
        else if (strcmp(kind, "sysv/sem") == 0)
            check(semget(0x10000 + i, 1, IPC_CREAT | 0600));
        else if (strcmp(kind, "sysv/shm") == 0)
            check(shmget(0x10000 + i, 1, IPC_CREAT | 0600));
        else { /* A directory, to be filled with named pipes. */
            char pipe[PATH_MAX];
            snprintf(pipe, sizeof pipe, "%s%s", kind, name);
            if (mkfifo(pipe, 0600) != 0 && errno != EEXIST)
                check(-1);
        }
    }
}

static void work_segment(char **a)
{
    check(shmget(strtoul(a[0], NULL, 0), strtoul(a[1], NULL, 0), IPC_CREAT | 0600));
}

/* What dd(1) does, without read and write: attaches the segment and goes through it once. */
static void once(char **a, void (*step)(void))
{
    size = 1 << 20;
    span = atol(a[1]);
    mapping = shmat(check(shmget(strtoul(a[0], NULL, 0), 0, 0)), NULL, 0);
    check(mapping == (void *)-1 ? -1 : 0);
    for (off_t done = 0; done < span; done += size)
        step();
}
static void work_shm_once_load(char **a) { once(a, do_load); }
static void work_shm_once_store(char **a) { once(a, do_store); }

static const struct {
    const char *name;
    int least;
    void (*work)(char **arguments);
    const char *about;
} works[] = {
    { "write", 3, work_write, "FILE SIZE MS [QUEUE]: write on an open file" },
    { "open-write-close", 3, work_open_write_close, "FILE SIZE MS [QUEUE]" },
    { "open-write-close-beside", 3, work_open_write_close_beside,
      "FILE SIZE MS [QUEUE]: while another writer has it open" },
    { "read", 3, work_read, "FILE SIZE MS [QUEUE]: read up to end of file" },
    { "open-close", 2, work_open_close, "FILE MS" },
    { "stat", 2, work_stat, "FILE MS" },
    { "stat-at-work", 3, work_stat_at_work, "FILE MS QUEUE: something has just been sent" },
    { "stat-at-rest", 3, work_stat_at_rest, "FILE MS QUEUE: the last message was sent long ago" },
    { "mq-send", 3, work_mq_send, "QUEUE SIZE MS" },
    { "mq-receive", 3, work_mq_receive, "QUEUE SIZE MS" },
    { "words", 4, work_words, "FILE WORD WORD MS: write the two in turn; per write" },
    { "post-wait", 2, work_post_wait, "SEMAPHORE MS: sem_post and sem_wait" },
    { "flock", 2, work_flock, "FILE MS: lock and unlock" },
    { "open-flock-close", 2, work_open_flock_close, "FILE MS" },
    { "pread", 4, work_pread, "FILE SIZE SPAN MS: through the first SPAN bytes, SIZE at a time" },
    { "pwrite", 4, work_pwrite, "FILE SIZE SPAN MS" },
    { "load", 4, work_load, "FILE SIZE SPAN MS: memcpy from a shared mapping" },
    { "store", 4, work_store, "FILE SIZE SPAN MS: memcpy to a shared mapping" },
    { "shmat-load", 4, work_shm_load, "KEY SIZE SPAN MS: memcpy from a System V segment" },
    { "shmat-store", 4, work_shm_store, "KEY SIZE SPAN MS" },
    { "shmat-load-once", 2, work_shm_once_load, "KEY SPAN: attach and memcpy, 1 MiB at a time" },
    { "shmat-store-once", 2, work_shm_once_store, "KEY SPAN" },
    { "pingpong", 3, work_pingpong, "END END ROUNDS: 50th and 99th percentile of a round" },
    { "block", 2, work_block, "END COUNT: that many readers, until standard input ends" },
    { "wake", 4, work_wake, "END COUNT QUEUE ROUNDS: percentiles of the way from send to reader" },
    { "queue", 3, work_queue, "QUEUE MAXMSG MSGSIZE: make one" },
    { "segment", 2, work_segment, "KEY SIZE: make one" },
    { "make", 2, work_make, "KIND|DIRECTORY COUNT: make objects, or named pipes in a directory" },
};

int main(int argc, char **argv)
{
    if (argc > 3 && strcmp(argv[1], "-n") == 0) {
        exactly = strtoul(argv[2], NULL, 10);
        argc -= 2;
        argv += 2;
    }
    for (size_t i = 0; i < sizeof works / sizeof *works; i++)
        if (argc - 2 >= works[i].least && strcmp(argv[1], works[i].name) == 0) {
            works[i].work(argv + 2);
            return 0;
        }
    fprintf(stderr, "usage: measure [-n TIMES] WORK ARGUMENTS\n");
    for (size_t i = 0; i < sizeof works / sizeof *works; i++)
        fprintf(stderr, "  %-16s %s\n", works[i].name, works[i].about);
    return 2;
}
