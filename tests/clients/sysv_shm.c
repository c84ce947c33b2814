/* A client of System V shared memory. KEY is a number as C has it; "id:N" is an identifier.
 *
 * sysv_shm create KEY SIZE MODE     prints the identifier
 * sysv_shm write KEY OFFSET TEXT    sysv_shm read KEY OFFSET LENGTH
 * sysv_shm stat KEY                 prints what IPC_STAT tells
 * sysv_shm remove KEY
 * sysv_shm hold KEY                 attaches, prints "ready", detaches when its input ends
 * sysv_shm map FILE LENGTH OFFSET TEXT   writes through mmap(MAP_SHARED) of FILE
 * sysv_shm show FILE LENGTH OFFSET COUNT reads through it
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerrorname_np(errno));
	exit(1);
}

static char *attach(const char *key, int flags)
{
	int id = strncmp(key, "id:", 3) ? shmget((key_t)strtoll(key, NULL, 0), 0, 0) : atoi(key + 3);
	if (id < 0)
		die("shmget");
	char *at = shmat(id, NULL, flags);
	if (at == (char *)-1)
		die("shmat");
	return at;
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	const char *what = argv[1], *key = argv[2];

	if (!strcmp(what, "create")) {
		int flags = IPC_CREAT | IPC_EXCL | strtol(argv[4], NULL, 8);
		int id = shmget((key_t)strtoll(key, NULL, 0), strtoull(argv[3], NULL, 0), flags);
		if (id < 0)
			die("shmget");
		printf("%d\n", id);
	} else if (!strcmp(what, "write")) {
		memcpy(attach(key, 0) + atol(argv[3]), argv[4], strlen(argv[4]));
	} else if (!strcmp(what, "read")) {
		fwrite(attach(key, SHM_RDONLY) + atol(argv[3]), 1, atol(argv[4]), stdout);
	} else if (!strcmp(what, "hold")) {
		attach(key, 0);
		puts("ready");
		fflush(stdout);
		while (getchar() != EOF)
			;
	} else if (!strcmp(what, "map") || !strcmp(what, "show")) {
		int writing = !strcmp(what, "map");
		int fd = open(key, writing ? O_RDWR : O_RDONLY);
		if (fd < 0)
			die("open");
		int protection = writing ? PROT_READ | PROT_WRITE : PROT_READ;
		char *at = mmap(NULL, atol(argv[3]), protection, MAP_SHARED, fd, 0);
		if (at == MAP_FAILED)
			die("mmap");
		if (writing)
			memcpy(at + atol(argv[4]), argv[5], strlen(argv[5]));
		else
			fwrite(at + atol(argv[4]), 1, atol(argv[5]), stdout);
	} else if (!strcmp(what, "stat") || !strcmp(what, "remove")) {
		int id = strncmp(key, "id:", 3) ? shmget((key_t)strtoll(key, NULL, 0), 0, 0) : atoi(key + 3);
		struct shmid_ds stat;
		if (shmctl(id, !strcmp(what, "stat") ? IPC_STAT : IPC_RMID, &stat))
			die("shmctl");
		if (!strcmp(what, "stat"))
			printf("mode=%04o uid=%u gid=%u size=%zu nattch=%lu\n", stat.shm_perm.mode & 0777,
			       stat.shm_perm.uid, stat.shm_perm.gid, stat.shm_segsz, stat.shm_nattch);
	} else {
		return 2;
	}
	return 0;
}
