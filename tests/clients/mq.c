/* A client of POSIX message queues.
 *
 * mq create NAME MAXMSG MSGSIZE MODE
 * mq send NAME PRIORITY TEXT      mq receive NAME (prints PRIORITY:TEXT)
 * mq attr NAME                    mq unlink NAME
 * mq many NAME FIRST COUNT        sends FIRST.. as decimal text
 * mq empty NAME                   sends a message of no bytes
 */
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void die(const char *what)
{
	perror(what);
	exit(1);
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	const char *what = argv[1], *name = argv[2];
	struct mq_attr attr = { 0 };
	mqd_t queue;

	if (!strcmp(what, "unlink")) {
		if (mq_unlink(name))
			die("mq_unlink");
		return 0;
	}
	if (!strcmp(what, "create")) {
		attr.mq_maxmsg = atol(argv[3]);
		attr.mq_msgsize = atol(argv[4]);
		mode_t mode = strtol(argv[5], NULL, 8);
		queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL, mode, &attr);
		if (queue == (mqd_t)-1)
			die("mq_open");
		return 0;
	}
	queue = mq_open(name, strcmp(what, "attr") && strcmp(what, "receive") ? O_WRONLY : O_RDONLY);
	if (queue == (mqd_t)-1)
		die("mq_open");
	if (!strcmp(what, "send")) {
		if (mq_send(queue, argv[4], strlen(argv[4]), atoi(argv[3])))
			die("mq_send");
	} else if (!strcmp(what, "empty")) {
		if (mq_send(queue, "", 0, 0))
			die("mq_send");
	} else if (!strcmp(what, "many")) {
		for (long i = atol(argv[3]), end = i + atol(argv[4]); i < end; i++) {
			char text[32];
			int length = snprintf(text, sizeof text, "%ld\n", i);
			if (mq_send(queue, text, length, 0))
				die("mq_send");
		}
	} else if (!strcmp(what, "receive")) {
		unsigned priority;
		if (mq_getattr(queue, &attr))
			die("mq_getattr");
		char *text = malloc(attr.mq_msgsize + 1);
		ssize_t length = mq_receive(queue, text, attr.mq_msgsize, &priority);
		if (length < 0)
			die("mq_receive");
		printf("%u:", priority);
		fwrite(text, 1, length, stdout);
	} else if (!strcmp(what, "attr")) {
		struct stat stat;
		if (mq_getattr(queue, &attr) || fstat(queue, &stat))
			die("mq_getattr");
		printf("maxmsg=%ld msgsize=%ld curmsgs=%ld mode=%04o uid=%u gid=%u\n", attr.mq_maxmsg,
		       attr.mq_msgsize, attr.mq_curmsgs, stat.st_mode & 07777, stat.st_uid, stat.st_gid);
	} else {
		return 2;
	}
	return 0;
}
