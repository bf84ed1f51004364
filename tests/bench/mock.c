/* A provider that costs next to nothing: fixed answers in the shape of OpenAI's chat completions.
 *
 *   mock PORT EVENTS PACE_US
 *
 * A body with `"stream":true` gets EVENTS server-sent events (and [DONE]), one chunk each: all in one write when
 * PACE_US is 0, else one every PACE_US microseconds. Any other request gets one JSON answer. One thread, epoll,
 * keep-alive; requests need a Content-Length. For the bench on loopback only: it trusts its clients.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define MAX_FD 4096
#define IN_SIZE 65536

struct conn {
    char in[IN_SIZE];
    size_t have;
    int left;         /* events still to send */
    long long due;    /* when the next one is, in microseconds */
};

static struct conn *conns[MAX_FD];
static char *whole, *head, *event, *tail, *burst;
static size_t whole_n, head_n, event_n, tail_n, burst_n;
static int events, pace;

static long long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void prepare(void) {
    static const char *json =
        "{\"id\":\"chatcmpl-BENCH00000000000000000000000\",\"object\":\"chat.completion\",\"created\":1795000000,"
        "\"model\":\"gpt-4o-mini\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"The quick "
        "brown fox jumps over the lazy dog while the band plays on, and nobody in the long queue outside of the old "
        "theatre minds the rain very much this evening.\",\"refusal\":null,\"annotations\":[]},\"logprobs\":null,"
        "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":52,\"completion_tokens\":34,\"total_tokens\":86,"
        "\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0},\"completion_tokens_details\":"
        "{\"reasoning_tokens\":0,\"audio_tokens\":0}},\"service_tier\":\"default\",\"system_fingerprint\":\"fp_bench\"}";
    static const char *delta =
        "data: {\"id\":\"chatcmpl-BENCH00000000000000000000000\",\"object\":\"chat.completion.chunk\","
        "\"created\":1795000000,\"model\":\"gpt-4o-mini\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" window\"},"
        "\"logprobs\":null,\"finish_reason\":null}]}\n\n";
    static const char *last =
        "data: {\"id\":\"chatcmpl-BENCH00000000000000000000000\",\"object\":\"chat.completion.chunk\","
        "\"created\":1795000000,\"model\":\"gpt-4o-mini\",\"choices\":[{\"index\":0,\"delta\":{},"
        "\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n";
    static const char *usage =
        "data: {\"id\":\"chatcmpl-BENCH00000000000000000000000\",\"object\":\"chat.completion.chunk\","
        "\"created\":1795000000,\"model\":\"gpt-4o-mini\",\"choices\":[],\"usage\":{\"prompt_tokens\":52,"
        "\"completion_tokens\":100,\"total_tokens\":152}}\n\n";
    static const char *done = "data: [DONE]\n\n";
    whole_n = asprintf(&whole, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                       strlen(json), json);
    head_n = asprintf(&head, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                             "transfer-encoding: chunked\r\n\r\n");
    event_n = asprintf(&event, "%zx\r\n%s\r\n", strlen(delta), delta);
    tail_n = asprintf(&tail, "%zx\r\n%s\r\n%zx\r\n%s\r\n%zx\r\n%s\r\n0\r\n\r\n", strlen(last), last, strlen(usage), usage,
                      strlen(done), done);
    burst = malloc(head_n + event_n * events + tail_n);
    memcpy(burst, head, head_n);
    burst_n = head_n;
    for (int i = 0; i < events; i++, burst_n += event_n) memcpy(burst + burst_n, event, event_n);
    memcpy(burst + burst_n, tail, tail_n);
    burst_n += tail_n;
}

static void drop(int fd) {
    close(fd);
    free(conns[fd]);
    conns[fd] = NULL;
}

/* Blocking writes: on loopback, to readers that read. */
static int put(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) { usleep(50); continue; }
        if (n <= 0) return -1;
        data += n;
        size -= n;
    }
    return 0;
}

static int answer(int fd, struct conn *c, const char *body, size_t size) {
    if (!memmem(body, size, "\"stream\":true", 13) && !memmem(body, size, "\"stream\": true", 14))
        return put(fd, whole, whole_n);
    if (!pace) return put(fd, burst, burst_n);
    c->left = events;
    c->due = now_us() + pace;
    return put(fd, head, head_n);
}

static int take(int fd, struct conn *c) {
    for (;;) {
        char *end = memmem(c->in, c->have, "\r\n\r\n", 4);
        if (!end) return c->have == IN_SIZE ? -1 : 0;
        size_t start = end + 4 - c->in, length = 0;
        char saved = *end;
        *end = 0;
        char *field = strcasestr(c->in, "\r\ncontent-length:");
        if (field) length = strtoul(field + 17, NULL, 10);
        *end = saved;
        if (start + length > IN_SIZE) return -1;
        if (c->have < start + length) return 0;
        if (answer(fd, c, c->in + start, length)) return -1;
        memmove(c->in, c->in + start + length, c->have - start - length);
        c->have -= start + length;
    }
}

int main(int argc, char **argv) {
    if (argc != 4) { fprintf(stderr, "mock PORT EVENTS PACE_US\n"); return 2; }
    events = atoi(argv[2]);
    pace = atoi(argv[3]);
    prepare();
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1, poll = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1024)) { perror("mock"); return 1; }
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = listener}, got[256];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &ev);
    for (;;) {
        int n = epoll_wait(poll, got, 256, pace ? 1 : -1);
        for (int i = 0; i < n; i++) {
            int fd = got[i].data.fd;
            if (fd == listener) {
                int new = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (new < 0) continue;
                if (new >= MAX_FD) { close(new); continue; }
                setsockopt(new, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                conns[new] = calloc(1, sizeof(struct conn));
                struct epoll_event add = {.events = EPOLLIN, .data.fd = new};
                epoll_ctl(poll, EPOLL_CTL_ADD, new, &add);
                continue;
            }
            struct conn *c = conns[fd];
            ssize_t size = recv(fd, c->in + c->have, IN_SIZE - c->have, 0);
            if (size < 0 && errno == EAGAIN) continue;
            if (size > 0) c->have += size;
            if (size <= 0 || take(fd, c)) drop(fd);
        }
        if (!pace) continue;
        long long now = now_us();
        for (int fd = 0; fd < MAX_FD; fd++) {
            struct conn *c = conns[fd];
            while (c && c->left && c->due <= now) {
                int bad = put(fd, event, event_n);
                c->due += pace;
                if (!bad && !--c->left) bad = put(fd, tail, tail_n);
                if (bad) { drop(fd); c = NULL; }
            }
        }
    }
}
