/* A client of POSIX shared memory. FILE is a path, or shm:NAME for shm_open("/NAME").
 *
 * shm create FILE SIZE MODE      fails if there is one
 * shm write FILE OFFSET TEXT     by a mapping
 * shm read FILE OFFSET LENGTH    by a mapping
 * shm same FILE FILE             two mappings are the same pages, also after truncating
 * shm lease FILE                 takes a write lease, says so and keeps it until it is killed
 * shm churn FILE COUNT           opens and closes it that often
 * shm swap NAME SECRET           puts a file, a link to SECRET and a FIFO in /dev/shm/NAME in turn, for ever
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void die(const char *what)
{
	perror(what);
	exit(1);
}

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
			exit(1); \
		} \
	} while (0)

static int open_either(const char *file, int flags, mode_t mode)
{
	int fd = strncmp(file, "shm:", 4) ? open(file, flags, mode)
					  : shm_open(file + 4, flags, mode);
	if (fd < 0)
		die(file);
	return fd;
}

static char *map(int fd, size_t size)
{
	char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		die("mmap");
	return at;
}

static off_t size_of(int fd)
{
	struct stat stat;
	if (fstat(fd, &stat))
		die("fstat");
	return stat.st_size;
}

static void same(const char *first, const char *second)
{
	const size_t page = 4096, size = 4 * page;
	int one = open_either(first, O_RDWR, 0), two = open_either(second, O_RDWR, 0);
	char buffer[8] = "";

	CHECK(!ftruncate(one, 0) && !ftruncate(one, size) && size_of(two) == (off_t)size);
	char *a = map(one, size), *b = map(two, size);
	for (size_t i = 0; i < size; i += 97) {
		a[i] = i;
		CHECK(b[i] == (char)i);
		b[i] = i + 1;
		CHECK(a[i] == (char)(i + 1));
	}
	/* read(2) and write(2) see what mmap(2) did and the other way round. */
	memcpy(a, "mapped", 6);
	CHECK(pread(two, buffer, 6, 0) == 6 && !memcmp(buffer, "mapped", 6));
	CHECK(pwrite(two, "written", 7, page) == 7 && !memcmp(a + page, "written", 7));
	/* Cut and grown on either side: zeroes, and the same pages still. */
	CHECK(!ftruncate(two, page) && size_of(one) == (off_t)page);
	CHECK(!ftruncate(one, size) && size_of(two) == (off_t)size);
	CHECK(a[page] == 0 && b[2 * page] == 0 && !memcmp(b, "mapped", 6));
	a[3 * page] = 'x';
	CHECK(b[3 * page] == 'x');
	/* Grown by a write beyond the end. */
	CHECK(pwrite(one, "end", 3, 2 * size) == 3 && size_of(two) == (off_t)(2 * size + 3));
	CHECK(pread(two, buffer, 8, 2 * size) == 3 && !memcmp(buffer, "end", 3));
	CHECK(lseek(two, 0, SEEK_END) == (off_t)(2 * size + 3));
}

static void swap(const char *name, const char *secret)
{
	char path[256], other[256];
	snprintf(path, sizeof path, "/dev/shm/%s", name);
	snprintf(other, sizeof other, "/dev/shm/%s.new", name);
	for (unsigned turn = 0;; turn++) {
		int fd;
		unlink(other);
		switch (turn % 3) {
		case 0:
			fd = open(other, O_RDWR | O_CREAT | O_EXCL, 0666);
			if (fd < 0 || write(fd, "public\n", 7) != 7)
				die("write");
			close(fd);
			break;
		case 1:
			if (symlink(secret, other))
				die("symlink");
			break;
		case 2:
			if (mkfifo(other, 0666))
				die("mkfifo");
			break;
		}
		if (rename(other, path))
			die("rename");
		/* For none to a hundred microseconds, so that each step of an open is hit. */
		for (volatile unsigned spin = turn * 7919 % 50000; spin; spin--)
			;
	}
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	const char *what = argv[1], *file = argv[2];
	int fd;

	if (!strcmp(what, "create")) {
		fd = open_either(file, O_RDWR | O_CREAT | O_EXCL, strtol(argv[4], NULL, 8));
		if (ftruncate(fd, atol(argv[3])))
			die("ftruncate");
	} else if (!strcmp(what, "write")) {
		fd = open_either(file, O_RDWR, 0);
		strcpy(map(fd, size_of(fd)) + atol(argv[3]), argv[4]);
	} else if (!strcmp(what, "read")) {
		fd = open_either(file, O_RDWR, 0);
		fwrite(map(fd, size_of(fd)) + atol(argv[3]), 1, atol(argv[4]), stdout);
	} else if (!strcmp(what, "same")) {
		same(file, argv[3]);
	} else if (!strcmp(what, "lease")) {
		fd = open_either(file, O_RDWR, 0);
		signal(SIGIO, SIG_IGN);
		if (fcntl(fd, F_SETLEASE, F_WRLCK))
			die("F_SETLEASE");
		puts("leased");
		fflush(stdout);
		for (;;)
			pause();
	} else if (!strcmp(what, "churn")) {
		for (long i = atol(argv[3]); i > 0; i--)
			close(open_either(file, i % 3 ? O_RDWR : O_RDONLY, 0));
	} else if (!strcmp(what, "swap")) {
		swap(file, argv[3]);
	} else {
		return 2;
	}
	return 0;
}
