/* Opens the shared objects argv[1] (y = 2x for float32[N, 4]) and argv[2] (a training build), and uses both. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include "doubling.h"
#include "trained.h"

static const nl_api *table(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const nl_api *(*get_api)(uint32_t) = NULL;
    if (library) *(void **)&get_api = dlsym(library, "nl_get_api");
    if (!get_api) fprintf(stderr, "%s\n", dlerror());
    return get_api ? get_api(NL_ABI_VERSION) : NULL;
}

int main(int argc, char **argv) {
    const nl_api *api = argc > 2 ? table(argv[1]) : NULL, *trained = argc > 2 ? table(argv[2]) : NULL;
    char error[256] = "";
    nl_model *model, *training;
    nl_context *context, *trainer;
    nl_state *state;
    nl_options options = {.size = sizeof options, .threads = 2};
    if (!api || !trained) return 1;
    if (api->open(&model, error, sizeof error) || api->context_create(model, &options, &context, error, sizeof error)) return 2;
    float x[3][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 10, 11, 12}}, y[3][4];
    if (doubling_run(context, 3, &x[0][0], &y[0][0]) || y[2][3] != 24) return 3;
    int64_t shape[] = {3, 5};
    DLTensor wrong = {x, {1, 0}, 2, {2, 32, 1}, shape, NULL, 0};
    if (api->run(context, &wrong, 1, &wrong, 1) != NL_ERROR_INPUT) return 4;
    printf("%s\n", api->last_error(context));
    if (trained->open(&training, error, sizeof error) || trained->state_create(training, &state, error, sizeof error)) return 5;
    if (trained->context_create(training, NULL, &trainer, error, sizeof error)) return 6;
    float dw[TRAINED_TRAIN_STEP_DW_DIM0] = {1, 1, 1, 1, 1, 1}, rate = 0.5f, first, one[6] = {1, 1, 1, 1, 1, 1}, w[6];
    if (trained_train_step(trainer, state, dw, &rate, &first) || first != 0) return 7;
    if (trained_evaluate(trainer, state, one, w) || w[5] != 4.5f || trained->step(state) != 1) return 8;
    if (!strstr(trained->metadata_json(training), "layer.w")) return 9;
    trained->state_destroy(state), trained->context_destroy(trainer), trained->close(training);
    api->context_destroy(context), api->close(model);
    return 0;
}
