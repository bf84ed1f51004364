/* Load for the bench: keep-alive connections that send one request again and again.
 *
 *   load PORT CONNECTIONS SECONDS REQUEST_FILE
 *
 * REQUEST_FILE holds the bytes of one HTTP/1.1 request. Prints one JSON object: replies, replies that were not
 * 200, server-sent events seen, and percentiles of the time from request to the reply's end in microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define MAX_SAMPLES 4000000

struct conn {
    int fd, chunked, bad;
    size_t head_n;        /* bytes of the head so far; the head itself is in `head` */
    long long body_left;  /* -1: in the head */
    long long started;
    char head[1 << 19];   /* a head and the burst of events that may come with it */
    char last[5];         /* the last bytes of a chunked body: it ends with "0\r\n\r\n" */
    int match;            /* how much of "data:" stands at the end of what was read */
};

static unsigned *samples;
static long long replies, errors, events;
static char *request;
static size_t request_n;

static long long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void ask(struct conn *c) {
    size_t sent = 0;
    c->head_n = 0;
    c->body_left = -1;
    c->chunked = c->bad = c->match = 0;
    memset(c->last, 0, sizeof c->last);
    c->started = now_us();
    while (sent < request_n) {
        ssize_t n = send(c->fd, request + sent, request_n - sent, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (n <= 0) { perror("load: send"); exit(1); }
        sent += n;
    }
}

static void finish(struct conn *c) {
    if (replies < MAX_SAMPLES) samples[replies] = now_us() - c->started;
    replies++;
    errors += c->bad;
    ask(c);
}

static void body(struct conn *c, const char *data, size_t size) {
    static const char *mark = "data:";
    for (size_t i = 0; i < size; i++) {
        c->match = data[i] == mark[c->match] ? c->match + 1 : data[i] == 'd';
        if (c->match == 5) { events++; c->match = 0; }
    }
    if (!c->chunked) {
        c->body_left -= size;
        if (c->body_left <= 0) finish(c);
        return;
    }
    if (size >= 5) memcpy(c->last, data + size - 5, 5);
    else { memmove(c->last, c->last + size, 5 - size); memcpy(c->last + 5 - size, data, size); }
    if (!memcmp(c->last, "0\r\n\r\n", 5)) finish(c);
}

static void take(struct conn *c, char *data, size_t size) {
    if (c->body_left >= 0 || c->chunked) { body(c, data, size); return; }
    if (c->head_n + size >= sizeof c->head) { fprintf(stderr, "load: head too long\n"); exit(1); }
    memcpy(c->head + c->head_n, data, size);
    c->head_n += size;
    c->head[c->head_n] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) return;
    c->bad = strncmp(c->head + 9, "200", 3) != 0;
    size_t rest = c->head + c->head_n - (end + 4);
    *end = 0;
    char *field = strcasestr(c->head, "\r\ncontent-length:");
    if (field) c->body_left = strtoll(field + 17, NULL, 10);
    else if (strcasestr(c->head, "\r\ntransfer-encoding: chunked")) c->chunked = 1;
    else { fprintf(stderr, "load: no length: %s\n", c->head); exit(1); }
    if (rest) body(c, end + 4, rest);
    else if (!c->chunked && !c->body_left) finish(c);
}

static int by_size(const void *a, const void *b) {
    return *(const unsigned *)a < *(const unsigned *)b ? -1 : *(const unsigned *)a > *(const unsigned *)b;
}

int main(int argc, char **argv) {
    if (argc != 5) { fprintf(stderr, "load PORT CONNECTIONS SECONDS REQUEST_FILE\n"); return 2; }
    int count = atoi(argv[2]), poll = epoll_create1(0), one = 1;
    FILE *file = fopen(argv[4], "rb");
    if (!file) { perror(argv[4]); return 1; }
    request = malloc(1 << 22);
    request_n = fread(request, 1, 1 << 22, file);
    samples = malloc(sizeof *samples * MAX_SAMPLES);
    struct conn *conns = calloc(count, sizeof *conns);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < count; i++) {
        conns[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(conns[i].fd, (struct sockaddr *)&to, sizeof to)) { perror("load: connect"); return 1; }
        setsockopt(conns[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &conns[i]};
        epoll_ctl(poll, EPOLL_CTL_ADD, conns[i].fd, &ev);
    }
    long long start = now_us(), stop = start + (long long)(atof(argv[3]) * 1e6);
    for (int i = 0; i < count; i++) ask(&conns[i]);
    static char data[1 << 18];
    struct epoll_event got[256];
    while (now_us() < stop) {
        int n = epoll_wait(poll, got, 256, 100);
        for (int i = 0; i < n; i++) {
            struct conn *c = got[i].data.ptr;
            ssize_t size = recv(c->fd, data, sizeof data, MSG_DONTWAIT);
            if (size < 0 && (errno == EAGAIN || errno == EINTR)) continue;
            if (size <= 0) { fprintf(stderr, "load: connection closed\n"); return 1; }
            take(c, data, size);
        }
    }
    double seconds = (now_us() - start) / 1e6;
    long long kept = replies < MAX_SAMPLES ? replies : MAX_SAMPLES;
    qsort(samples, kept, sizeof *samples, by_size);
    printf("{\"replies\":%lld,\"errors\":%lld,\"events\":%lld,\"seconds\":%.3f,\"p50_us\":%u,\"p99_us\":%u}\n", replies,
           errors, events, seconds, kept ? samples[kept / 2] : 0, kept ? samples[kept * 99 / 100] : 0);
}
