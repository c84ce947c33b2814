/* Whoever uses an object in a way that /proc does not show at first sight.
 *
 * hidden thread FILE    has it open and mapped, its first thread having ended
 * hidden apart FILE     has it open in a thread whose open files are its own
 * hidden wait NAME      waits for the POSIX semaphore /NAME, its first thread having ended
 * hidden passed FILE    has it open by nothing but a message that nobody has received (SCM_RIGHTS)
 * hidden ring FILE      has it open by nothing but an io_uring; status 77 where there is none
 *
 * Prints "ready" and stays, or waits.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *what, *path;

static void die(const char *call)
{
	perror(call);
	exit(1);
}

static void ready(void)
{
	puts("ready");
	fflush(stdout);
}

static int opened(void)
{
	int fd = open(path, O_RDWR | O_NONBLOCK);
	if (fd < 0)
		die(path);
	return fd;
}

static void *thread(void *first)
{
	if (strcmp(what, "apart"))
		pthread_join(*(pthread_t *)first, NULL);
	else if (unshare(CLONE_FILES))
		die("unshare");
	if (!strcmp(what, "wait")) {
		sem_t *sem = sem_open(path, 0);
		if (sem == SEM_FAILED)
			die("sem_open");
		ready();
		sem_wait(sem);
	} else {
		int fd = opened();
		if (strcmp(what, "apart"))
			mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
		ready();
		pause();
	}
	return NULL;
}

static void pass(int fd)
{
	static int ends[2];
	char byte = 0, control[CMSG_SPACE(sizeof fd)] = { 0 };
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof control };
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(rights), &fd, sizeof fd);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) || sendmsg(ends[0], &message, 0) < 0)
		die("sendmsg");
}

static void enter(int fd)
{
	struct io_uring_params params = { 0 };
	int ring = syscall(SYS_io_uring_setup, 4, &params);
	if (ring < 0)
		exit(77);
	if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_FILES, &fd, 1) < 0)
		die("io_uring_register");
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	what = argv[1];
	path = argv[2];
	if (!strcmp(what, "thread") || !strcmp(what, "apart") || !strcmp(what, "wait")) {
		static pthread_t first;
		pthread_t second;
		first = pthread_self();
		if (pthread_create(&second, NULL, thread, &first))
			die("pthread_create");
		if (!strcmp(what, "apart"))
			pause();
		pthread_exit(NULL);
	}
	int fd = opened();
	if (!strcmp(what, "passed"))
		pass(fd);
	else
		enter(fd);
	close(fd);
	ready();
	pause();
	return 0;
}
