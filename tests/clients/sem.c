/* A client of POSIX named semaphores.
 *
 * sem create NAME VALUE MODE      sem unlink NAME
 * sem value NAME                  prints the value
 * sem post NAME COUNT             sem wait NAME COUNT
 * sem trywait NAME                prints "taken" or the errno's text
 * sem timedwait NAME MILLISECONDS prints the same (sem_clockwait)
 * sem cut NAME ROUNDS             truncates the file to nothing and back, over and over
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void say(int result)
{
	puts(result ? strerror(errno) : "taken");
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	const char *what = argv[1], *name = argv[2];
	sem_t *sem;

	if (!strcmp(what, "unlink")) {
		if (sem_unlink(name))
			die("sem_unlink");
		return 0;
	}
	if (!strcmp(what, "cut")) {
		char path[300];
		snprintf(path, sizeof path, "/dev/shm/sem.%s", name + 1);
		int file = open(path, O_RDWR);
		if (file < 0)
			die("open");
		for (long i = atol(argv[3]); i > 0; i--)
			if (ftruncate(file, 0) || ftruncate(file, sizeof(sem_t)))
				die("ftruncate");
		return 0;
	}
	if (!strcmp(what, "create")) {
		umask(0);
		sem = sem_open(name, O_CREAT | O_EXCL, strtol(argv[4], NULL, 8), atoi(argv[3]));
		if (sem == SEM_FAILED)
			die("sem_open");
		return 0;
	}
	sem = sem_open(name, 0);
	if (sem == SEM_FAILED)
		die("sem_open");
	if (!strcmp(what, "value")) {
		int value;
		if (sem_getvalue(sem, &value))
			die("sem_getvalue");
		printf("%d\n", value);
	} else if (!strcmp(what, "post")) {
		for (long i = atol(argv[3]); i > 0; i--)
			if (sem_post(sem))
				die("sem_post");
	} else if (!strcmp(what, "wait")) {
		for (long i = atol(argv[3]); i > 0; i--)
			if (sem_wait(sem))
				die("sem_wait");
	} else if (!strcmp(what, "trywait")) {
		say(sem_trywait(sem));
	} else if (!strcmp(what, "timedwait")) {
		struct timespec end;
		long ms = atol(argv[3]);
		clock_gettime(CLOCK_MONOTONIC, &end);
		end.tv_sec += ms / 1000;
		end.tv_nsec += ms % 1000 * 1000000;
		if (end.tv_nsec >= 1000000000) {
			end.tv_sec++;
			end.tv_nsec -= 1000000000;
		}
		say(sem_clockwait(sem, CLOCK_MONOTONIC, &end));
	} else {
		return 2;
	}
	return 0;
}
