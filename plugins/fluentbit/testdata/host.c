/*
 * A host that does with an output plugin what Fluent Bit does: loads it,
 * registers it, opens instances of it, hands it chunks, from threads if it is
 * told to, and ends it.
 *
 *     host PLUGIN.so [KEY=VALUE...] [-- KEY=VALUE...]...
 *
 * Each -- starts the section of another instance. Commands come as lines on
 * stdin, one answer each on stdout:
 *
 *     flush INSTANCE TAG FILE        the result
 *     flood INSTANCE TAG FILE N T    flushes N times from T threads; the counts
 *                                    of error, ok, retry, other
 *     exit INSTANCE                  the result
 *     reload                         ends all instances and opens them anew, in
 *                                    the order of a hot reload; the result of
 *                                    the last
 *     quit
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* The structs are those that Fluent Bit and fluent-bit-go share. */
struct api {
    char *(*get_property)(char *key, void *section);
    int (*log_check)(void *section, int level);
};

struct context {
    void *remote;
};

struct instance {
    char *name;
    struct api *api;
    void *section;
    struct context *context;
};

struct definition {
    int type;
    int proxy;
    int flags;
    char *name;
    char *description;
};

struct section {
    int n;
    char **pairs; /* KEY=VALUE */
};

static char *get_property(char *key, void *p) {
    struct section *s = p;
    size_t n = strlen(key);
    for (int i = 0; i < s->n; i++) {
        if (strncasecmp(s->pairs[i], key, n) == 0 && s->pairs[i][n] == '=')
            return s->pairs[i] + n + 1;
    }
    return NULL;
}

static int log_check(void *section, int level) {
    (void)section;
    return level <= 3;
}

static int (*reg)(void *);
static int (*init)(void *);
static int (*exit_ctx)(void *);
static void (*unregister)(void *);
static int (*flush_ctx)(void *, void *, int, char *);

/* One for all instances: Fluent Bit writes each section into the same. */
static struct api api = {get_property, log_check};
static struct instance ins = {NULL, &api, NULL, NULL};
static struct definition def;
static struct context contexts[16];
static struct section sections[16];
static int count;

static int open_instance(int k) {
    contexts[k].remote = NULL;
    ins.name = def.name;
    ins.section = &sections[k];
    ins.context = &contexts[k];
    return init(&ins);
}

/* reload registers again before anything ends, as Fluent Bit does. */
static int reload(void) {
    struct definition old = def;
    int r = 1;
    memset(&def, 0, sizeof def);
    if (reg(&def) != 0)
        return -1;
    for (int k = 0; k < count; k++)
        exit_ctx(contexts[k].remote);
    unregister(&old);
    for (int k = 0; k < count && r > 0; k++)
        r = open_instance(k);
    return r;
}

static void *load(void *so, const char *name) {
    void *f = dlsym(so, name);
    if (f == NULL) {
        fprintf(stderr, "host: %s: %s\n", name, dlerror());
        exit(3);
    }
    return f;
}

/* slurp copies a file to memory that ends where the file ends, so that who
 * reads on is caught by the tools that look for that. */
static char *slurp(const char *path, int *n) {
    FILE *f = fopen(path, "rb");
    if (f == NULL) {
        perror(path);
        exit(3);
    }
    fseek(f, 0, SEEK_END);
    *n = (int)ftell(f);
    rewind(f);
    char *p = malloc(*n > 0 ? *n : 1);
    if (fread(p, 1, *n, f) != (size_t)*n) {
        perror(path);
        exit(3);
    }
    fclose(f);
    return p;
}

/* flush hands over a copy and destroys it afterwards, as the chunk is only
 * valid during the call. */
static int flush(struct context *ctx, const char *data, int n, char *tag) {
    char *copy = malloc(n > 0 ? n : 1);
    memcpy(copy, data, n);
    int result = flush_ctx(ctx->remote, copy, n, tag);
    memset(copy, 0xc1, n);
    free(copy);
    return result;
}

struct flood {
    struct context *ctx;
    const char *data;
    int n, times;
    char *tag;
    int counts[4];
};

static void *flooder(void *p) {
    struct flood *f = p;
    for (int i = 0; i < f->times; i++) {
        int r = flush(f->ctx, f->data, f->n, f->tag);
        f->counts[r >= 0 && r <= 2 ? r : 3]++;
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: host PLUGIN.so [KEY=VALUE...] [-- KEY=VALUE...]...\n");
        return 2;
    }
    void *so = dlopen(argv[1], RTLD_LAZY);
    if (so == NULL) {
        fprintf(stderr, "host: %s\n", dlerror());
        return 3;
    }
    reg = load(so, "FLBPluginRegister");
    init = load(so, "FLBPluginInit");
    exit_ctx = load(so, "FLBPluginExitCtx");
    unregister = load(so, "FLBPluginUnregister");
    flush_ctx = load(so, "FLBPluginFlushCtx");

    if (reg(&def) != 0) {
        fprintf(stderr, "host: register failed\n");
        return 4;
    }
    printf("registered %s type=%d proxy=%d\n", def.name, def.type, def.proxy);

    for (int i = 2; i <= argc && count < 16; count++) {
        struct section *s = &sections[count];
        s->pairs = argv + i;
        s->n = 0;
        while (i < argc && strcmp(argv[i], "--") != 0) {
            i++;
            s->n++;
        }
        i++;
        int r = open_instance(count);
        printf("init %d\n", r);
        if (r <= 0) {
            fflush(stdout);
            return 5; /* as Fluent Bit: failed to initialize */
        }
    }
    fflush(stdout);

    char line[4096], tag[512], path[2048];
    int k, n, threads;
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (sscanf(line, "flush %d %511s %2047s", &k, tag, path) == 3) {
            char *p = slurp(path, &n);
            printf("%d\n", flush(&contexts[k], p, n, tag));
            free(p);
        } else if (sscanf(line, "flood %d %511s %2047s %*d %*d", &k, tag, path) == 3 &&
                   sscanf(line, "flood %*d %*s %*s %d %d", &n, &threads) == 2 && threads <= 16) {
            struct flood floods[16];
            pthread_t ids[16];
            int size, times = n / threads, sum[4] = {0, 0, 0, 0};
            char *p = slurp(path, &size);
            for (int i = 0; i < threads; i++) {
                floods[i] = (struct flood){&contexts[k], p, size, times, tag, {0, 0, 0, 0}};
                pthread_create(&ids[i], NULL, flooder, &floods[i]);
            }
            for (int i = 0; i < threads; i++) {
                pthread_join(ids[i], NULL);
                for (int j = 0; j < 4; j++)
                    sum[j] += floods[i].counts[j];
            }
            printf("%d %d %d %d\n", sum[0], sum[1], sum[2], sum[3]);
            free(p);
        } else if (sscanf(line, "exit %d", &k) == 1) {
            printf("%d\n", exit_ctx(contexts[k].remote));
        } else if (strncmp(line, "reload", 6) == 0) {
            printf("%d\n", reload());
        } else if (strncmp(line, "quit", 4) == 0) {
            break;
        } else {
            printf("what?\n");
        }
        fflush(stdout);
    }
    unregister(&def);
    printf("bye\n");
    return 0;
}
