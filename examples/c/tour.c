/* The interface in one page: open a training build, run it, train one step, see what a wrong shape gives.
 *     netloom compile network.py:graph -o points.so --train loss=cross_entropy,optimizer=adam
 *     cc -o tour tour.c -ldl && ./tour ./points.so */
#include <dlfcn.h>
#include <stdio.h>
#include "points.h"

static int fail(const char *text) { return fprintf(stderr, "%s\n", text), 1; }

int main(int argc, char **argv) {
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    const nl_api *(*get_api)(uint32_t) = NULL;
    if (library) *(void **)&get_api = dlsym(library, "nl_get_api");
    const nl_api *api = get_api ? get_api(NL_ABI_VERSION) : NULL;
    if (!api) return fail("give a program of this version, such as ./points.so");

    char error[256];
    nl_model *model;     /* code and initial weights */
    nl_state *state;     /* parameters and the optimizer's tensors */
    nl_context *context; /* intermediate memory and threads */
    if (api->open(&model, error, sizeof error) || api->state_create(model, &state, error, sizeof error) ||
        api->context_create(model, NULL, &context, error, sizeof error)) return fail(error);

    float x[3][2] = {{0, 0}, {2, 0}, {0, 2}}, y[3][2], rate = 0.01f, loss;
    int64_t labels[] = {0, 1, 1}, right[] = {3, 2}, wrong[] = {3, 5}, correct;
    if (points_evaluate(context, state, 3, x[0], y[0])) return fail(api->last_error(context));
    printf("scores %.7g %.7g\n", (double)y[2][0], (double)y[2][1]);
    if (points_train_step(context, state, 3, x[0], labels, &rate, &loss, &correct)) return fail(api->last_error(context));
    printf("step %d, loss %.7g\n", (int)api->step(state), (double)loss);

    DLTensor input = {x, {1, 0}, 2, {2, 32, 1}, wrong, NULL, 0}, output = {y, {1, 0}, 2, {2, 32, 1}, right, NULL, 0};
    if (api->evaluate(context, state, &input, 1, &output, 1) != NL_ERROR_INPUT) return fail("the wrong shape was taken");
    printf("%s\n", api->last_error(context));
    api->state_destroy(state);
    api->context_destroy(context);
    api->close(model);
    return 0;
}
