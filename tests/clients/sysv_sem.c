/* A client of System V semaphore sets.
 *
 * sysv_sem create KEY NSEMS MODE       KEY 0 is IPC_PRIVATE; prints the identifier
 * sysv_sem values KEY                  prints all values
 * sysv_sem set KEY VALUE...            sets all values
 * sysv_sem op KEY INDEX OP [INDEX OP]  one semop; prints "done" or the errno's text
 * sysv_sem try KEY INDEX OP ...        the same with IPC_NOWAIT
 * sysv_sem counts KEY INDEX            prints semncnt and semzcnt
 * sysv_sem remove KEY
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/sem.h>

static void die(const char *what)
{
	perror(what);
	exit(1);
}

int main(int argc, char **argv)
{
	unsigned short values[32000];
	struct sembuf steps[64];
	struct semid_ds set;

	if (argc < 3)
		return 2;
	const char *what = argv[1];
	key_t key = strtoul(argv[2], NULL, 0);
	if (!strcmp(what, "create")) {
		int mode = strtol(argv[4], NULL, 8);
		int id = semget(key, atoi(argv[3]), IPC_CREAT | IPC_EXCL | mode);
		if (id < 0)
			die("semget");
		printf("%d\n", id);
		return 0;
	}
	int id = semget(key, 0, 0);
	if (id < 0)
		die("semget");
	if (!strcmp(what, "remove")) {
		if (semctl(id, 0, IPC_RMID))
			die("semctl");
	} else if (!strcmp(what, "values")) {
		if (semctl(id, 0, IPC_STAT, &set) || semctl(id, 0, GETALL, values))
			die("semctl");
		for (unsigned long i = 0; i < set.sem_nsems; i++)
			printf("%u%c", values[i], i + 1 < set.sem_nsems ? ' ' : '\n');
	} else if (!strcmp(what, "set")) {
		for (int i = 3; i < argc; i++)
			values[i - 3] = atoi(argv[i]);
		if (semctl(id, 0, SETALL, values))
			die("semctl");
	} else if (!strcmp(what, "op") || !strcmp(what, "try")) {
		int count = 0;
		for (int i = 3; i + 1 < argc; i += 2)
			steps[count++] = (struct sembuf){ atoi(argv[i]), atoi(argv[i + 1]),
							  *what == 't' ? IPC_NOWAIT : 0 };
		puts(semop(id, steps, count) ? strerror(errno) : "done");
	} else if (!strcmp(what, "counts")) {
		int index = atoi(argv[3]);
		printf("%d %d\n", semctl(id, index, GETNCNT), semctl(id, index, GETZCNT));
	} else {
		return 2;
	}
	return 0;
}
