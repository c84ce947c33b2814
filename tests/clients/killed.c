/* killed FILE READERS: readers are killed while messages come.
 *
 * READERS processes wait for a message each, into memory that outlives them. Meanwhile messages are
 * sent and readers killed, one after the other; then the rest is killed and what is still queued is
 * read. Each message has to be found once. Prints how many have been sent and how many of them
 * were read by those who were killed later.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROOM 16

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static int open_or_die(const char *path, int flags)
{
	int fd = open(path, flags);
	if (fd < 0) {
		perror(path);
		exit(1);
	}
	return fd;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	int readers = atoi(argv[2]), sent = 0, found = 0, read_early = 0;
	char *slots = mmap(NULL, readers * ROOM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t *pids = calloc(readers, sizeof *pids);
	int *seen = calloc(readers, sizeof *seen);
	int writer = open_or_die(argv[1], O_WRONLY | O_NONBLOCK);

	for (int i = 0; i < readers; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			int fd = open_or_die(argv[1], O_RDONLY);
			while (read(fd, slots + i * ROOM, ROOM) < 0 && errno == EINTR)
				;
			for (;;)
				pause();
		}
	}
	/* Half of them get one; in any order, who has one already and who waits. */
	for (int i = 0; i < readers; i++) {
		char text[ROOM];
		if (i % 2 == 0 && write(writer, text, sprintf(text, "%d", sent)) > 0)
			sent++;
		kill(pids[i], SIGKILL);
		if (i % 3 == 0)
			usleep(rand() % 300);
	}
	while (wait(NULL) > 0)
		;
	for (int i = 0; i < readers; i++)
		if (slots[i * ROOM]) {
			seen[atoi(slots + i * ROOM)]++;
			found++;
		}
	read_early = found;
	/* What a killed reader had taken comes back, but not at once. */
	int rest = open_or_die(argv[1], O_RDONLY | O_NONBLOCK);
	for (double end = now() + 10; found < sent && now() < end;) {
		char text[ROOM] = "";
		if (read(rest, text, ROOM - 1) > 0) {
			seen[atoi(text)]++;
			found++;
		}
	}
	for (int i = 0; i < sent; i++)
		if (seen[i] != 1) {
			fprintf(stderr, "message %d was found %d times\n", i, seen[i]);
			return 1;
		}
	printf("%d sent, %d of them read early\n", sent, read_early);
	return 0;
}
