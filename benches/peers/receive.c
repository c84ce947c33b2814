/* The least C program that receives a message and prints it: receive /QUEUE. */
#include <fcntl.h>
#include <mqueue.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    static char message[1 << 16];

    if (argc != 2)
        return 2;
    mqd_t queue = mq_open(argv[1], O_RDONLY);
    ssize_t length = queue == (mqd_t)-1 ? -1 : mq_receive(queue, message, sizeof message, NULL);
    return length < 0 || write(1, message, length) != length;
}
