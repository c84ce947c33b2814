/* race FILE ROUNDS: a signal races a message's arrival, ROUNDS times.
 *
 * In each round a child writes one message after a short time and a timer interrupts the read that
 * waits for it. Whatever the read does not give has to be queued still. Prints how many messages
 * have come.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static void nothing(int signal)
{
	(void)signal;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	struct sigaction action = { .sa_handler = nothing };
	sigaction(SIGALRM, &action, NULL);
	int reader = open(argv[1], O_RDONLY), writer = open(argv[1], O_WRONLY);
	int rest = open(argv[1], O_RDONLY | O_NONBLOCK);
	if (reader < 0 || writer < 0 || rest < 0) {
		perror(argv[1]);
		return 1;
	}
	long rounds = atol(argv[2]), got = 0;
	char text[64];
	for (long round = 0; round < rounds; round++) {
		long when = rand() % 400, alarm = 1 + rand() % 900;
		pid_t child = fork();
		if (child == 0) {
			usleep(when);
			int length = snprintf(text, sizeof text, "%ld", round);
			_exit(write(writer, text, length) != length);
		}
		struct itimerval timer = { .it_value.tv_usec = alarm };
		setitimer(ITIMER_REAL, &timer, NULL);
		ssize_t length = read(reader, text, sizeof text);
		setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
		if (length > 0) {
			got += atol(text) == round;
			if (read(reader, text, sizeof text) != 0)
				fprintf(stderr, "no end of file\n");
		} else if (length == 0 || errno != EINTR) {
			perror("read");
			return 1;
		}
		int status;
		waitpid(child, &status, 0);
		if (status)
			fprintf(stderr, "round %ld: the message was not sent\n", round);
		while ((length = read(rest, text, sizeof text)) >= 0)
			got += length > 0;
	}
	printf("%ld\n", got);
	return 0;
}
