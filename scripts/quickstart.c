/* A program that knows nothing of ipcfs: it takes jobs from one message queue and puts the answers
 * into another, until a job says "stop". scripts/quickstart compiles and runs it.
 */
#include <ctype.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static mqd_t open_queue(const char *name, int flags)
{
	mqd_t queue = mq_open(name, flags);
	if (queue == (mqd_t)-1) {
		perror(name);
		exit(1);
	}
	return queue;
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: %s /JOBS /ANSWERS\n", argv[0]);
		return 2;
	}
	mqd_t jobs = open_queue(argv[1], O_RDONLY), answers = open_queue(argv[2], O_WRONLY);
	char text[8192];

	for (;;) {
		ssize_t length = mq_receive(jobs, text, sizeof text, NULL);
		if (length < 0) {
			perror("mq_receive");
			return 1;
		}
		if (length == 5 && !memcmp(text, "stop\n", 5))
			return 0;
		for (ssize_t i = 0; i < length; i++)
			text[i] = toupper((unsigned char)text[i]);
		if (mq_send(answers, text, length, 0)) {
			perror("mq_send");
			return 1;
		}
	}
}
