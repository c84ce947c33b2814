/* crowd PATH COUNT TEXT
 *
 * COUNT processes, each of which opens PATH, writes TEXT in one write and ends. Prints how many
 * have written it when all have ended; the others say why not.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	size_t length = strlen(argv[3]);
	for (long i = atol(argv[2]); i > 0; i--) {
		pid_t child = fork();
		if (child < 0) {
			perror("fork");
			return 1;
		}
		if (child == 0) {
			int file = open(argv[1], O_WRONLY);
			if (file >= 0 && write(file, argv[3], length) == (ssize_t)length)
				_exit(0);
			perror(argv[1]);
			_exit(1);
		}
	}
	long written = 0;
	int status;
	while (wait(&status) > 0)
		written += status == 0;
	printf("%ld\n", written);
	return 0;
}
