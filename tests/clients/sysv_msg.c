/* A client of System V message queues. KEY is a number as C has it; "id:N" is an identifier.
 *
 * sysv_msg create KEY MODE              prints the identifier
 * sysv_msg send KEY TYPE TEXT           sysv_msg zeros KEY TYPE LENGTH
 * sysv_msg receive KEY TYPE [except]    prints TYPE:TEXT
 * sysv_msg length KEY                   receives one, prints TYPE:LENGTH
 * sysv_msg stat KEY                     prints what IPC_STAT tells
 * sysv_msg remove KEY
 * sysv_msg many KEY FIRST COUNT         sends FIRST.. as decimal text, type 1
 * sysv_msg queues FIRST COUNT           makes queues of the keys FIRST..
 * sysv_msg epoll SECONDS FILE...        waits for each FILE to be readable; prints its number and
 *                                       the time in microseconds since the epoch when it was
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <time.h>

#define ROOM (4 << 20)

static struct message {
	long type;
	char text[ROOM];
} message;

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerrorname_np(errno));
	exit(1);
}

static int queue_of(const char *key)
{
	if (!strncmp(key, "id:", 3))
		return atoi(key + 3);
	int queue = msgget((key_t)strtoll(key, NULL, 0), 0);
	if (queue < 0)
		die("msgget");
	return queue;
}

static void epoll_files(int seconds, char **files, int count)
{
	int set = epoll_create1(0);
	for (int i = 0; i < count; i++) {
		int fd = open(files[i], O_RDONLY);
		struct epoll_event event = { .events = EPOLLIN | EPOLLONESHOT, .data.u32 = i };
		if (fd < 0 || epoll_ctl(set, EPOLL_CTL_ADD, fd, &event))
			die(files[i]);
	}
	puts("ready");
	fflush(stdout);
	for (int seen = 0; seen < count;) {
		struct epoll_event events[64];
		int ready = epoll_wait(set, events, 64, seconds * 1000);
		if (ready <= 0)
			die("epoll_wait");
		struct timespec now;
		clock_gettime(CLOCK_REALTIME, &now);
		for (int i = 0; i < ready; i++, seen++)
			printf("%u %ld\n", events[i].data.u32,
			       now.tv_sec * 1000000L + now.tv_nsec / 1000);
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	const char *what = argv[1], *key = argv[2];

	if (!strcmp(what, "create")) {
		int flags = IPC_CREAT | IPC_EXCL | strtol(argv[3], NULL, 8);
		int queue = msgget((key_t)strtoll(key, NULL, 0), flags);
		if (queue < 0)
			die("msgget");
		printf("%d\n", queue);
		return 0;
	}
	if (!strcmp(what, "queues")) {
		for (long i = atol(key), end = i + atol(argv[3]); i < end; i++)
			if (msgget(i, IPC_CREAT | IPC_EXCL | 0600) < 0)
				die("msgget");
		return 0;
	}
	if (!strcmp(what, "epoll")) {
		epoll_files(atoi(key), argv + 3, argc - 3);
		return 0;
	}
	int queue = queue_of(key);
	if (!strcmp(what, "send")) {
		message.type = atol(argv[3]);
		memcpy(message.text, argv[4], strlen(argv[4]));
		if (msgsnd(queue, &message, strlen(argv[4]), 0))
			die("msgsnd");
	} else if (!strcmp(what, "zeros")) {
		message.type = atol(argv[3]);
		if (msgsnd(queue, &message, atol(argv[4]), IPC_NOWAIT))
			die("msgsnd");
	} else if (!strcmp(what, "receive")) {
		ssize_t length = msgrcv(queue, &message, ROOM, atol(argv[3]), argc > 4 ? MSG_EXCEPT : 0);
		if (length < 0)
			die("msgrcv");
		printf("%ld:", message.type);
		fwrite(message.text, 1, length, stdout);
	} else if (!strcmp(what, "length")) {
		ssize_t length = msgrcv(queue, &message, ROOM, 0, IPC_NOWAIT);
		if (length < 0)
			die("msgrcv");
		printf("%ld:%zd\n", message.type, length);
	} else if (!strcmp(what, "stat")) {
		struct msqid_ds stat;
		if (msgctl(queue, IPC_STAT, &stat))
			die("msgctl");
		printf("mode=%04o uid=%u gid=%u cuid=%u cgid=%u qnum=%lu cbytes=%lu qbytes=%lu\n",
		       stat.msg_perm.mode, stat.msg_perm.uid, stat.msg_perm.gid, stat.msg_perm.cuid,
		       stat.msg_perm.cgid, stat.msg_qnum, stat.msg_cbytes, stat.msg_qbytes);
	} else if (!strcmp(what, "remove")) {
		if (msgctl(queue, IPC_RMID, NULL))
			die("msgctl");
	} else if (!strcmp(what, "many")) {
		for (long i = atol(argv[3]), end = i + atol(argv[4]); i < end; i++) {
			message.type = 1;
			if (msgsnd(queue, &message, sprintf(message.text, "%ld\n", i), 0))
				die("msgsnd");
		}
	} else {
		return 2;
	}
	return 0;
}
