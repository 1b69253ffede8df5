/* Training from C: opens points.so (argv[1]), a training build, and learns which points lie outside the unit circle.
 *
 *     netloom compile network.py:graph -o points.so --train loss=cross_entropy,optimizer=adam
 *     cc -o train train.c -ldl && ./train ./points.so
 *
 * Prints the loss now and then and the share of right answers on new points; ends with 1 if that is below 0.95.
 */
#include <dlfcn.h>
#include <stdio.h>
#include "points.h"

enum { BATCH = 128, STEPS = 600 };

static uint32_t noise = 1;

static float uniform(void) { /* in [-1.5, 1.5): a linear congruential generator (Numerical Recipes) */
    noise = noise * 1664525u + 1013904223u;
    return (float)(noise >> 8) / (float)(1 << 24) * 3 - 1.5f;
}

static void draw(float x[BATCH][2], int64_t labels[BATCH]) {
    for (int i = 0; i < BATCH; i++) {
        x[i][0] = uniform();
        x[i][1] = uniform();
        labels[i] = x[i][0] * x[i][0] + x[i][1] * x[i][1] > 1;
    }
}

int main(int argc, char **argv) {
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    const nl_api *(*get_api)(uint32_t) = NULL;
    if (library) *(void **)&get_api = dlsym(library, "nl_get_api");
    const nl_api *api = get_api ? get_api(NL_ABI_VERSION) : NULL;
    if (!api) return fprintf(stderr, "give a program, such as ./points.so\n"), 1;

    char error[256] = "";
    nl_model *model;
    nl_context *context;
    nl_state *state; /* parameters, the optimizer's tensors, the number of steps */
    if (api->open(&model, error, sizeof error) || api->state_create(model, &state, error, sizeof error) ||
        api->context_create(model, NULL, &context, error, sizeof error))
        return fprintf(stderr, "%s\n", error), 1;

    static float x[BATCH][2], scores[BATCH][2];
    static int64_t labels[BATCH];
    for (int step = 0; step < STEPS; step++) {
        float rate = 0.02f, loss;
        int64_t correct;
        draw(x, labels);
        if (points_train_step(context, state, BATCH, &x[0][0], labels, &rate, &loss, &correct))
            return fprintf(stderr, "%s\n", api->last_error(context)), 1;
        if (step % 100 == 0) printf("step %d  loss %.4f\n", step, (double)loss);
    }

    int right = 0;
    draw(x, labels);
    if (points_evaluate(context, state, BATCH, &x[0][0], &scores[0][0])) return fprintf(stderr, "%s\n", api->last_error(context)), 1;
    for (int i = 0; i < BATCH; i++) right += (scores[i][1] > scores[i][0]) == labels[i];
    printf("%d of %d new points are right\n", right, BATCH);

    api->state_destroy(state);
    api->context_destroy(context);
    api->close(model);
    return right < 0.95 * BATCH;
}
