/*
 * A file system that does nothing, the least that FUSE can cost: noop [-e SECONDS] [-a SECONDS]
 * [-n FILES] MOUNTPOINT. One thread, libfuse's low-level interface, direct_io. The root holds the
 * file "null" and, if asked for, FILES more; what is written to any of them is thrown away, a read
 * gives 64 bytes and then, once, end of file. -e and -a are the lifetimes of names and attributes,
 * 0 if not given, which is what ipcfs has to use. There is no flush handler, so that the kernel
 * sends no such request: LOOKUP, OPEN, WRITE, RELEASE, as with ipcfs.
 */
#define FUSE_USE_VERSION 35
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NULL_FILE = 2, FIRST = 3 };

static double entry_life, attr_life;
static long files;

static void fill(fuse_ino_t ino, struct stat *st)
{
    memset(st, 0, sizeof *st);
    st->st_ino = ino;
    st->st_mode = ino == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0666;
    st->st_nlink = ino == FUSE_ROOT_ID ? 2 : 1;
}

static void noop_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param e = { .attr_timeout = attr_life, .entry_timeout = entry_life };
    long number;
    char rest;

    (void)parent;
    if (strcmp(name, "null") == 0)
        e.ino = NULL_FILE;
    else if (sscanf(name, "f%ld%c", &number, &rest) == 1 && number >= 0 && number < files)
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
    fuse_reply_attr(req, &st, attr_life);
}

static void noop_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *to, int which,
                         struct fuse_file_info *fi)
{
    (void)to;
    (void)which;
    noop_getattr(req, ino, fi);
}

static void noop_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    fi->direct_io = 1;
    fi->fh = (uint64_t)(uintptr_t)calloc(1, 1);
    fuse_reply_open(req, fi);
}

static void noop_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    free((void *)(uintptr_t)fi->fh);
    fuse_reply_err(req, 0);
}

static void noop_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t at,
                      struct fuse_file_info *fi)
{
    static const char message[64] = "message";
    char *end_is_due = (void *)(uintptr_t)fi->fh;

    (void)ino;
    (void)at;
    *end_is_due = !*end_is_due;
    fuse_reply_buf(req, message, !*end_is_due ? 0 : size < sizeof message ? size : sizeof message);
}

static void noop_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t at,
                       struct fuse_file_info *fi)
{
    (void)ino;
    (void)data;
    (void)at;
    (void)fi;
    fuse_reply_write(req, size);
}

static void noop_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t at,
                         struct fuse_file_info *fi)
{
    static char buffer[1 << 20];
    size_t used = 0;

    (void)ino;
    (void)fi;
    if (size > sizeof buffer)
        size = sizeof buffer;
    for (long i = at; i < files + 1; i++) {
        char name[32] = "null";
        struct stat st;

        fill(NULL_FILE + i, &st);
        if (i > 0)
            snprintf(name, sizeof name, "f%ld", i - 1);
        size_t more = fuse_add_direntry(req, buffer + used, size - used, name, &st, i + 1);
        if (more > size - used)
            break;
        used += more;
    }
    fuse_reply_buf(req, buffer, used);
}

static const struct fuse_lowlevel_ops operations = {
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
    char *arguments[] = { argv[0], "-osubtype=noop", NULL };
    struct fuse_args args = FUSE_ARGS_INIT(2, arguments);
    int option;

    while ((option = getopt(argc, argv, "e:a:n:")) != -1)
        switch (option) {
        case 'e': entry_life = atof(optarg); break;
        case 'a': attr_life = atof(optarg); break;
        case 'n': files = atol(optarg); break;
        default: return 2;
        }
    if (optind + 1 != argc) {
        fprintf(stderr, "usage: %s [-e seconds] [-a seconds] [-n files] mountpoint\n", argv[0]);
        return 2;
    }
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof operations, NULL);
    if (!session || fuse_set_signal_handlers(session) || fuse_session_mount(session, argv[optind]))
        return 1;
    int status = fuse_session_loop(session);
    fuse_session_unmount(session);
    fuse_session_destroy(session);
    return status ? 1 : 0;
}
