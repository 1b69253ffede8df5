/* Inference from C: opens points.so (argv[1]), classifies the points given as further arguments, X,Y each.
 *
 *     netloom compile network.py:graph -o points.so
 *     cc -o infer infer.c -ldl && ./infer ./points.so 0.1,0.2 2,2
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include "points.h"

static int fail(const char *what, const char *text) {
    fprintf(stderr, "%s: %s\n", what, text);
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 3) return fail(argv[0], "give points.so and at least one point X,Y");
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    const nl_api *(*get_api)(uint32_t) = NULL;
    if (library) *(void **)&get_api = dlsym(library, "nl_get_api");
    const nl_api *api = get_api ? get_api(NL_ABI_VERSION) : NULL;
    if (!api) return fail(argv[1], "is not a program of this version");

    char error[256] = "";
    nl_model *model;
    nl_context *context;
    if (api->open(&model, error, sizeof error)) return fail("open", error);
    if (api->context_create(model, NULL, &context, error, sizeof error)) return fail("context", error);

    int64_t count = argc - 2; /* the network's free dim */
    float *x = malloc((size_t)count * 2 * sizeof *x), *y = malloc((size_t)count * POINTS_RUN_Y_DIM1 * sizeof *y);
    if (!x || !y) return fail("malloc", "no memory");
    for (int64_t i = 0; i < count; i++)
        if (sscanf(argv[i + 2], "%f,%f", &x[2 * i], &x[2 * i + 1]) != 2) return fail(argv[i + 2], "is not X,Y");
    if (points_run(context, count, x, y)) return fail("run", api->last_error(context));
    for (int64_t i = 0; i < count; i++) printf("%s class %d\n", argv[i + 2], y[2 * i + 1] > y[2 * i]);

    free(x);
    free(y);
    api->context_destroy(context);
    api->close(model);
    return 0;
}
