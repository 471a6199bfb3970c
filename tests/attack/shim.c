/* Stands between a process and the disk, by LD_PRELOAD: it delays, holds, refuses and records what the process
 * does to an outbox. See shim.rs, which writes the control block and reads the journal.
 *
 * ATTACK_OUTBOX   the path of the database
 * ATTACK_CONTROL  the control block, shared by all processes
 * ATTACK_JOURNAL  where each change is recorded; nothing is recorded if it is not set
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* In the order of `Call` in shim.rs. */
enum { OPEN, READ, WRITE, SYNC, TRUNCATE, UNLINK, LOCK, STAT, MAP };
/* In the order of `Target` in shim.rs. */
enum { DATABASE, LOG, ROLLBACK, INDEX, FOLDER, OWNERS };

/* In the order of `Word` in shim.rs. */
struct control {
    int64_t sync_delay_us;
    int64_t is_held;
    int64_t fail_calls;
    int64_t fail_targets;
    int64_t fail_errno;
    int64_t failed;
    int64_t has_no_names;
};

struct record {
    uint8_t op; /* C, U, W, T, S, D */
    uint8_t target;
    uint8_t pad[6];
    int64_t inode;
    int64_t offset;
    int64_t length;
};

#define MAX_FD 4096
static struct {
    int is_known;
    int target;
    ino_t inode;
} files[MAX_FD];

static struct control *control;
static const char *outbox;
static char folder[4096];
static int journal = -1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
    REAL(open);
    const char *path = getenv("ATTACK_CONTROL");
    outbox = getenv("ATTACK_OUTBOX");
    if (!path || !outbox) {
        outbox = NULL;
        return;
    }
    strncpy(folder, outbox, sizeof folder - 1);
    char *slash = strrchr(folder, '/');
    if (slash) *slash = 0;
    int fd = real(path, O_RDWR);
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (control == MAP_FAILED) abort();
    const char *log = getenv("ATTACK_JOURNAL");
    if (log) journal = real(log, O_RDWR | O_APPEND);
}

static int target_of(const char *path) {
    if (!outbox || !path) return -1;
    size_t length = strlen(outbox);
    if (strncmp(path, outbox, length)) return strcmp(path, folder) ? -1 : FOLDER;
    const char *suffix = path + length;
    if (!*suffix) return DATABASE;
    if (!strcmp(suffix, "-wal")) return LOG;
    if (!strcmp(suffix, "-journal")) return ROLLBACK;
    if (!strcmp(suffix, "-shm")) return INDEX;
    if (!strncmp(suffix, "-owners", 7)) return OWNERS;
    return -1;
}

static int target_of_fd(int fd) { return fd >= 0 && fd < MAX_FD && files[fd].is_known ? files[fd].target : -1; }

/* Whether a call fails, with errno set. */
static int fails(int call, int target) {
    if (target < 0 || !control) return 0;
    if (!(control->fail_calls & 1 << call) || !(control->fail_targets & 1 << target)) return 0;
    __atomic_fetch_add(&control->failed, 1, __ATOMIC_SEQ_CST);
    errno = (int)control->fail_errno;
    return 1;
}

static void hold(int target) {
    struct timespec step = {0, 1000000};
    while (control && target <= ROLLBACK && __atomic_load_n(&control->is_held, __ATOMIC_SEQ_CST)) nanosleep(&step, NULL);
}

static int is_recorded(int target) { return journal >= 0 && target >= 0 && (target <= ROLLBACK || target == FOLDER); }

static void lock_journal(void) {
    pthread_mutex_lock(&mutex);
    flock(journal, LOCK_EX);
}

static void unlock_journal(void) {
    flock(journal, LOCK_UN);
    pthread_mutex_unlock(&mutex);
}

static void record(uint8_t op, int target, ino_t inode, int64_t offset, int64_t length, const void *data) {
    REAL(write);
    /* One write, so that a kill can't separate a record from its data. */
    static char buffer[1 << 20];
    struct record head = {.op = op, .target = (uint8_t)target, .inode = (int64_t)inode, .offset = offset, .length = length};
    size_t size = data ? (size_t)length : 0;
    if (sizeof head + size > sizeof buffer) abort();
    memcpy(buffer, &head, sizeof head);
    if (size) memcpy(buffer + sizeof head, data, size);
    if (real(journal, buffer, sizeof head + size) != (ssize_t)(sizeof head + size)) abort();
}

static int opened(int fd, int target, int is_new) {
    if (fd >= 0 && fd < MAX_FD && target >= 0) {
        struct stat status;
        fstat(fd, &status);
        files[fd].is_known = 1;
        files[fd].target = target;
        files[fd].inode = status.st_ino;
        if (is_new && is_recorded(target) && target != FOLDER) record('C', target, status.st_ino, 0, 0, NULL);
    }
    return fd;
}

/* Only the child goes on; the parent ends as it does. */
static void fork_away(void) {
    pid_t child = fork();
    int status = 0;
    if (child == 0) return;
    waitpid(child, &status, 0);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

static int open_by(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    if (!strcmp(path, "/attack/fork")) fork_away();
    int target = target_of(path);
    if (target < 0) return real(path, flags, mode);
    if (fails(OPEN, target)) return -1;
    if (!is_recorded(target)) return opened(real(path, flags, mode), target, 0);
    lock_journal();
    int is_new = access(path, F_OK) != 0;
    int fd = opened(real(path, flags, mode), target, is_new);
    int error = errno;
    unlock_journal();
    errno = error;
    return fd;
}

#define OPEN_AS(name)                                                   \
    int name(const char *path, int flags, ...) {                        \
        REAL(name);                                                     \
        va_list arguments;                                              \
        va_start(arguments, flags);                                     \
        mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;  \
        va_end(arguments);                                              \
        return open_by(real, path, flags, mode);                        \
    }
OPEN_AS(open)
OPEN_AS(open64)

int close(int fd) {
    REAL(close);
    if (fd >= 0 && fd < MAX_FD) files[fd].is_known = 0;
    return real(fd);
}

ssize_t read(int fd, void *data, size_t length) {
    REAL(read);
    return fails(READ, target_of_fd(fd)) ? -1 : real(fd, data, length);
}

ssize_t pread64(int fd, void *data, size_t length, off64_t offset) {
    REAL(pread64);
    return fails(READ, target_of_fd(fd)) ? -1 : real(fd, data, length, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    REAL(pwrite64);
    int target = target_of_fd(fd);
    if (target < 0) return real(fd, data, length, offset);
    hold(target);
    if (fails(WRITE, target)) return -1;
    if (!is_recorded(target)) return real(fd, data, length, offset);
    lock_journal();
    record('W', target, files[fd].inode, offset, (int64_t)length, data);
    ssize_t written = real(fd, data, length, offset);
    unlock_journal();
    return written;
}

ssize_t write(int fd, const void *data, size_t length) {
    REAL(write);
    int target = target_of_fd(fd);
    if (target < 0 || target > ROLLBACK) return real(fd, data, length);
    return pwrite64(fd, data, length, lseek(fd, 0, SEEK_CUR));
}

int ftruncate64(int fd, off64_t length) {
    REAL(ftruncate64);
    int target = target_of_fd(fd);
    if (target < 0) return real(fd, length);
    hold(target);
    if (fails(TRUNCATE, target)) return -1;
    if (!is_recorded(target)) return real(fd, length);
    lock_journal();
    record('T', target, files[fd].inode, length, 0, NULL);
    int result = real(fd, length);
    unlock_journal();
    return result;
}

static int sync_by(int (*real)(int), int fd) {
    int target = target_of_fd(fd);
    if (target < 0) return real(fd);
    hold(target);
    if (fails(SYNC, target)) return -1;
    if (control && control->sync_delay_us) usleep((useconds_t)control->sync_delay_us);
    if (!is_recorded(target)) return 0;
    lock_journal();
    record(target == FOLDER ? 'D' : 'S', target, files[fd].inode, 0, 0, NULL);
    unlock_journal();
    return 0;
}

int fsync(int fd) {
    REAL(fsync);
    return sync_by(real, fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    return sync_by(real, fd);
}

int unlink(const char *path) {
    REAL(unlink);
    int target = target_of(path);
    if (fails(UNLINK, target)) return -1;
    if (!is_recorded(target)) return real(path);
    lock_journal();
    int result = real(path);
    if (!result) record('U', target, 0, 0, 0, NULL);
    unlock_journal();
    return result;
}

int fcntl64(int fd, int command, ...) {
    REAL(fcntl64);
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (command == F_SETLK && fails(LOCK, target_of_fd(fd))) return -1;
    return real(fd, command, argument);
}

int flock(int fd, int operation) {
    REAL(flock);
    return fails(LOCK, target_of_fd(fd)) ? -1 : real(fd, operation);
}

int stat64(const char *path, struct stat64 *status) {
    REAL(stat64);
    return fails(STAT, target_of(path)) ? -1 : real(path, status);
}

int fstat64(int fd, struct stat64 *status) {
    REAL(fstat64);
    return fails(STAT, target_of_fd(fd)) ? -1 : real(fd, status);
}

int statx(int base, const char *path, int flags, unsigned int mask, struct statx *status) {
    REAL(statx);
    /* Rust asks for a null path to find out whether there is this call. */
    const char *volatile name = path;
    int target = !name ? -1 : *name ? target_of(name) : target_of_fd(base);
    return fails(STAT, target) ? -1 : real(base, path, flags, mask, status);
}

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset) {
    REAL(mmap64);
    return fails(MAP, target_of_fd(fd)) ? MAP_FAILED : real(address, length, protection, flags, fd, offset);
}

/* Names that end so are the loopback address, while there are names. */
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    static const char end[] = ".test";
    REAL(getaddrinfo);
    size_t length = name ? strlen(name) : 0;
    if (length < sizeof end || strcmp(name + length - (sizeof end - 1), end)) return real(name, service, hints, found);
    if (control && __atomic_load_n(&control->has_no_names, __ATOMIC_SEQ_CST)) return EAI_AGAIN;
    return real("127.0.0.1", service, hints, found);
}
