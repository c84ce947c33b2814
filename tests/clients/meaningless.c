/* meaningless PATH...
 *
 * Does to each file what files are for and objects are not, and prints for each "PATH:" and what
 * came of it: OPERATION=ERRNO, or OPERATION=ok. What takes longer than five seconds is ended by an
 * alarm. The current directory is the mount's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static void say(const char *what, long result)
{
	printf(" %s=%s", what, result < 0 ? strerrorname_np(errno) : "ok");
	fflush(stdout);
	alarm(5);
}

/* A file of our own that holds a few bytes. */
static int ordinary(void)
{
	int fd = memfd_create("ordinary", MFD_CLOEXEC);
	if (fd < 0 || write(fd, "0123456789", 10) != 10 || lseek(fd, 0, SEEK_SET))
		abort();
	return fd;
}

static int open_any(const char *path, int flags)
{
	int access[] = { O_RDWR, O_WRONLY, O_RDONLY }, fd = -1;
	for (int i = 0; fd < 0 && i < 3; i++)
		fd = open(path, access[i] | O_NONBLOCK | flags);
	return fd;
}

static void by_name(const char *path)
{
	char beside[4096], value[16];
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(beside, sizeof beside, "%s-beside", path);
	say("setxattr", setxattr(path, "user.x", "x", 1, 0));
	say("getxattr", getxattr(path, "user.x", value, sizeof value));
	say("listxattr", listxattr(path, value, sizeof value));
	say("removexattr", removexattr(path, "user.x"));
	say("acl", setxattr(path, "system.posix_acl_access", "\2\0\0\0", 4, 0));
	say("mkdir", mkdir(beside, 0700));
	say("rmdir", rmdir(path));
	say("link", link(path, beside));
	say("symlink", symlink("/etc/passwd", beside));
	say("device", mknod(beside, S_IFCHR | 0600, 0x103));
	snprintf(address.sun_path, sizeof address.sun_path, "%.100s", beside);
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);
	say("bind", bind(listener, (struct sockaddr *)&address, sizeof address));
	close(listener);
	say("exchange", renameat2(AT_FDCWD, path, AT_FDCWD, "README", RENAME_EXCHANGE));
	say("whiteout", renameat2(AT_FDCWD, path, AT_FDCWD, beside, RENAME_WHITEOUT));
	say("rename-out", rename(path, "README"));
	say("exec", execl(path, path, (char *)NULL));
	say("chroot", chroot(path));
	say("O_DIRECTORY", open(path, O_RDONLY | O_DIRECTORY));
	say("O_TMPFILE", open(path, O_RDWR | O_TMPFILE, 0600));
}

/* Looks at a mapping: "ok" if there is something, else the signal. */
static void touch(const volatile char *map)
{
	int status;
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		alarm(5);
		(void)*map;
		_exit(0);
	}
	waitpid(child, &status, 0);
	printf(" mapped=%s", WIFSIGNALED(status) ? sigabbrev_np(WTERMSIG(status)) : "ok");
	alarm(5);
}

static void by_descriptor(int fd)
{
	struct flock lock = { .l_type = F_RDLCK };
	int ends[2], file, attributes = 0;
	loff_t at = 0;
	char *map, terminal[256];

	map = mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);
	say("mmap-shared", map == MAP_FAILED ? -1 : 0);
	map = mmap(NULL, 1, PROT_READ, MAP_PRIVATE, fd, 0);
	say("mmap-private", map == MAP_FAILED ? -1 : 0);
	if (map != MAP_FAILED)
		touch(map);
	say("flock", flock(fd, LOCK_SH | LOCK_NB));
	if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY)
		lock.l_type = F_WRLCK;
	say("fcntl-lock", fcntl(fd, F_SETLK, &lock));
	say("lease", fcntl(fd, F_SETLEASE, F_WRLCK));
	fcntl(fd, F_SETLEASE, F_UNLCK);
	say("fallocate", fallocate(fd, 0, 0, 1 << 20));
	say("punch", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1));
	file = ordinary();
	say("copy-from", copy_file_range(fd, NULL, file, NULL, 5, 0));
	lseek(file, 0, SEEK_SET);
	say("copy-to", copy_file_range(file, NULL, fd, NULL, 5, 0));
	say("copy-itself", copy_file_range(fd, &at, fd, &(loff_t){ 100 }, 5, 0));
	say("clone", ioctl(fd, FICLONE, file));
	if (pipe(ends))
		abort();
	say("splice-from", splice(fd, NULL, ends[1], NULL, 5, SPLICE_F_NONBLOCK));
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	if (write(ends[1], "x", 1) != 1)
		abort();
	say("splice-to", splice(ends[0], NULL, fd, NULL, 1, SPLICE_F_NONBLOCK));
	say("sendfile", sendfile(ends[1], fd, NULL, 5));
	say("readahead", readahead(fd, 0, 4096));
	say("fadvise", (errno = posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED)) ? -1 : 0);
	say("fsync", fsync(fd));
	say("sync_file_range", sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE));
	say("TCGETS", ioctl(fd, TCGETS, terminal));
	say("GETFLAGS", ioctl(fd, FS_IOC_GETFLAGS, &attributes));
	say("connect", connect(fd, (struct sockaddr *)&(struct sockaddr_un){ AF_UNIX, "" }, 2));
	close(file);
	close(ends[0]);
	close(ends[1]);
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		printf("%s:", argv[i]);
		by_name(argv[i]);
		int fd = open_any(argv[i], 0);
		say("open", fd);
		if (fd >= 0) {
			by_descriptor(fd);
			close(fd);
		}
		fd = open_any(argv[i], O_DIRECT);
		say("O_DIRECT", fd);
		if (fd >= 0)
			close(fd);
		puts("");
	}
	return 0;
}
