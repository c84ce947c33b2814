/*
 * A file system that does nothing, the least that FUSE can cost: noop [-e SECONDS] [-a SECONDS]
 * [-n FILES] [-q QUEUE] MOUNTPOINT. One thread, libfuse's low-level interface, direct_io.
 *
 * The directory "dir" holds the file "null" and, if asked for, FILES more; what is written to any of
 * them is thrown away, a read gives 64 bytes and then, once, end of file. With -q, the path of a
 * message queue's file, "null" is that queue: ipcfs's system calls and nothing else.
 *
 * It has ipcfs's shape, so that the kernel sends it the same requests: a directory that the kernel
 * may keep, files whose names it may not and whose attributes serve one path walk (-e and -a, 0 and
 * 1e-9 unless given), default_permissions, no flush handler.
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 35
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <libgen.h>
#include <linux/openat2.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { DIRECTORY = 2, NULL_FILE = 3, FIRST = 4 };

static double entry_life, attr_life = 1e-9;
static long files;
static struct fuse_session *session;

/* ---- what ipcfs asks the kernel, if a queue is given ----------------------------------------- */

static const char *queue;
static int queues;

static int open_queue(int flags)
{
    struct open_how how = {
        .flags = flags | O_CLOEXEC | O_NOCTTY,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
    };
    return syscall(SYS_openat2, queues, queue, &how, sizeof how);
}

static void look_at_queue(struct stat *st)
{
    struct mq_attr attributes;
    char text[128];
    int fd = open_queue(O_RDONLY | O_NONBLOCK);

    if (fstat(fd, st) == 0 && syscall(SYS_mq_getsetattr, fd, NULL, &attributes) == 0 &&
        attributes.mq_curmsgs > 0 && pread(fd, text, sizeof text, 0) > 0)
        st->st_size = atol(text + strlen("QSIZE:"));
    close(fd);
}

/* ---- the file system --------------------------------------------------------------------------- */

static int is_directory(fuse_ino_t ino)
{
    return ino == FUSE_ROOT_ID || ino == DIRECTORY;
}

static void fill(fuse_ino_t ino, struct stat *st)
{
    memset(st, 0, sizeof *st);
    if (queue && ino == NULL_FILE)
        look_at_queue(st);
    st->st_ino = ino;
    st->st_mode = is_directory(ino) ? S_IFDIR | 0755 : S_IFREG | 0666;
    st->st_nlink = is_directory(ino) ? 2 : 1;
}

static void noop_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param e = { .attr_timeout = attr_life, .entry_timeout = entry_life };
    long number;
    char rest;

    if (parent == FUSE_ROOT_ID && strcmp(name, "dir") == 0) {
        e.ino = DIRECTORY;
        e.attr_timeout = e.entry_timeout = 86400;
    } else if (parent == DIRECTORY && strcmp(name, "null") == 0)
        e.ino = NULL_FILE;
    else if (parent == DIRECTORY && sscanf(name, "f%ld%c", &number, &rest) == 1 && number >= 0 &&
             number < files)
        e.ino = FIRST + number;
    else {
        fuse_reply_err(req, ENOENT);
        return;
    }
    fill(e.ino, &e.attr);
    fuse_reply_entry(req, &e);
}

static void noop_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct stat st;

    (void)fi;
    fill(ino, &st);
    fuse_reply_attr(req, &st, is_directory(ino) ? 86400 : 0);
}

static void noop_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *to, int which,
                         struct fuse_file_info *fi)
{
    (void)to;
    (void)which;
    noop_getattr(req, ino, fi);
}

/* An open file: whether end of file is due; the queue's descriptor. */
struct file {
    int end_is_due;
    int fd;
};

static struct file *file_of(struct fuse_file_info *fi)
{
    return (void *)(uintptr_t)fi->fh;
}

static void noop_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct file *file = calloc(1, sizeof *file);
    struct stat st;

    if (queue && ino == NULL_FILE) {
        file->fd = open_queue(O_RDWR);
        if (file->fd < 0 || fstat(file->fd, &st) != 0) {
            fuse_reply_err(req, errno);
            free(file);
            return;
        }
        if (!(fi->flags & O_TRUNC))
            fuse_lowlevel_notify_inval_inode(session, ino, -1, 0);
    }
    fi->direct_io = 1;
    fi->fh = (uintptr_t)file;
    fuse_reply_open(req, fi);
}

static void noop_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    fuse_reply_err(req, 0);
    if (file_of(fi)->fd)
        close(file_of(fi)->fd);
    free(file_of(fi));
}

static void noop_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t at,
                      struct fuse_file_info *fi)
{
    static const char message[64] = "message";
    struct file *file = file_of(fi);

    (void)ino;
    (void)at;
    file->end_is_due = !file->end_is_due;
    fuse_reply_buf(req, message,
                   !file->end_is_due ? 0 : size < sizeof message ? size : sizeof message);
}

static void noop_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t at,
                       struct fuse_file_info *fi)
{
    struct timespec past = { 0, 0 };
    struct file *file = file_of(fi);

    (void)ino;
    (void)at;
    if (file->fd && mq_timedsend(file->fd, data, size, 0, &past) != 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_write(req, size);
}

static void noop_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t at,
                         struct fuse_file_info *fi)
{
    static char buffer[1 << 20];
    size_t used = 0;

    (void)fi;
    if (size > sizeof buffer)
        size = sizeof buffer;
    for (long i = at; i < (ino == DIRECTORY ? files + 1 : 1); i++) {
        struct stat st = { .st_ino = ino == DIRECTORY ? NULL_FILE + i : DIRECTORY };
        char name[32];

        st.st_mode = ino == DIRECTORY ? S_IFREG : S_IFDIR;
        if (i > 0)
            snprintf(name, sizeof name, "f%ld", i - 1);
        else
            strcpy(name, ino == DIRECTORY ? "null" : "dir");
        size_t more = fuse_add_direntry(req, buffer + used, size - used, name, &st, i + 1);
        if (more > size - used)
            break;
        used += more;
    }
    fuse_reply_buf(req, buffer, used);
}

/* As ipcfs: no such things, rather than none of this file (ENOSYS, which the kernel remembers). */
static void noop_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    (void)ino;
    (void)name;
    (void)size;
    fuse_reply_err(req, EOPNOTSUPP);
}

static const struct fuse_lowlevel_ops operations = {
    .getxattr = noop_getxattr,
    .lookup = noop_lookup,
    .getattr = noop_getattr,
    .setattr = noop_setattr,
    .open = noop_open,
    .release = noop_release,
    .read = noop_read,
    .write = noop_write,
    .readdir = noop_readdir,
};

int main(int argc, char **argv)
{
    char *arguments[] = { argv[0], "-osubtype=noop,default_permissions", NULL };
    struct fuse_args args = FUSE_ARGS_INIT(2, arguments);
    int option;

    while ((option = getopt(argc, argv, "e:a:n:q:")) != -1)
        switch (option) {
        case 'e': entry_life = atof(optarg); break;
        case 'a': attr_life = atof(optarg); break;
        case 'n': files = atol(optarg); break;
        case 'q':
            queue = basename(strdup(optarg));
            queues = open(dirname(optarg), O_PATH | O_DIRECTORY | O_CLOEXEC);
            break;
        default: return 2;
        }
    if (optind + 1 != argc) {
        fprintf(stderr, "usage: %s [-e seconds] [-a seconds] [-n files] [-q queue] mountpoint\n",
                argv[0]);
        return 2;
    }
    session = fuse_session_new(&args, &operations, sizeof operations, NULL);
    if (!session || fuse_set_signal_handlers(session) || fuse_session_mount(session, argv[optind]))
        return 1;
    int status = fuse_session_loop(session);
    fuse_session_unmount(session);
    fuse_session_destroy(session);
    return status ? 1 : 0;
}
