/* A CUDA driver that has host memory and one kernel: what cuda-bindings hand to a driver arrives here as in the real one.
   Kernels: "scale" (source, to, count, flag) doubles numbers; "fault" breaks the context, as an illegal address does. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long address;
typedef struct {
    void *function;
    unsigned grid[3], block[3], shared;
    void **arguments, **extra;
    void *kernel, *context;
} Parameters;
typedef struct { const char *name; unsigned blocks, threads; const float *source; float *to; int count; int *flag; } Node;
typedef struct { Node **nodes; size_t count; } Graph;

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, INVALID_IMAGE = 200, NO_CONTEXT = 201, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700 };
static int context, module, state = OK;
static _Thread_local int contexts; /* that the thread has pushed: without one it may do nothing */
static float clock_ms;

int cuInit(unsigned flags) { return flags ? INVALID : OK; }
int cuDriverGetVersion(int *version) { *version = 13000; return OK; }
int cuDeviceGetCount(int *count) { *count = 1; return OK; }
int cuDeviceGet(int *device, int number) { *device = number; return OK; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "driver of a test", size); return device; }
int cuDeviceGetAttribute(int *value, int kind, int device) {
    *value = kind == 75 ? 9 : kind == 76 ? 0 : kind == 16 ? 132 : kind == 13 ? 1980000 : -1;
    return device;
}
int cuDevicePrimaryCtxRetain(void **found, int device) { *found = &context; return device; }
int cuDevicePrimaryCtxRelease(int device) { return device; }
int cuCtxPushCurrent(void *given) { contexts++; return given == &context ? OK : INVALID; }
int cuCtxPopCurrent(void **found) { *found = &context; return contexts-- > 0 ? OK : INVALID; }

int cuStreamCreate(void **stream, unsigned flags) { *stream = malloc(1); return contexts ? (int)flags : NO_CONTEXT; }
int cuStreamDestroy(void *stream) { free(stream); return contexts ? OK : NO_CONTEXT; }
int cuStreamSynchronize(void *stream) { return !contexts ? NO_CONTEXT : stream ? state : INVALID; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return stream && event ? (int)flags : INVALID; }
int cuEventCreate(void **event, unsigned flags) { *event = calloc(1, sizeof(float)); return flags & ~2u; }
int cuEventRecord(void *event, void *stream) { *(float *)event = clock_ms; return stream ? OK : INVALID; }
int cuEventSynchronize(void *event) { return event ? state : INVALID; }
int cuEventElapsedTime(float *ms, void *start, void *end) { *ms = *(float *)end - *(float *)start; return OK; }
int cuEventDestroy(void *event) { free(event); return OK; }

int cuMemAlloc(address *place, size_t size) {
    if (!contexts) return NO_CONTEXT;
    if (size > 1ull << 40) return NO_MEMORY;
    *place = (address)(uintptr_t)aligned_alloc(256, (size + 255) / 256 * 256);
    return state;
}
int cuMemFree(address place) { free((void *)(uintptr_t)place); return contexts ? OK : NO_CONTEXT; }
static int moved(void *to, const void *source, size_t size, void *stream) {
    if (!contexts) return NO_CONTEXT;
    memcpy(to, source, size);
    return stream ? state : INVALID;
}
int cuMemcpyHtoDAsync(address to, const void *source, size_t size, void *stream) {
    return moved((void *)(uintptr_t)to, source, size, stream);
}
int cuMemcpyDtoHAsync(void *to, address source, size_t size, void *stream) {
    return moved(to, (void *)(uintptr_t)source, size, stream);
}
int cuMemcpyDtoDAsync(address to, address source, size_t size, void *stream) {
    return moved((void *)(uintptr_t)to, (void *)(uintptr_t)source, size, stream);
}

int cuModuleLoadData(void **found, const void *code) {
    *found = &module;
    return !contexts ? NO_CONTEXT : strcmp(code, "newer") ? OK : INVALID_IMAGE;
}
int cuModuleUnload(void *given) { return contexts && given == &module ? OK : INVALID; }
int cuModuleGetFunction(void **found, void *given, const char *name) {
    *found = strdup(name);
    return given == &module ? OK : INVALID;
}

/* More shared memory than a block has unasked: a launch may take what was asked for its function. */
static const char *asking;
static unsigned asked;
int cuFuncSetAttribute(void *function, int kind, int value) {
    asking = function;
    asked = (unsigned)value;
    return kind == 8 ? OK : INVALID; /* CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES */
}

static int fill(Node *node, const Parameters *given) {
    if (given->grid[1] != 1 || given->grid[2] != 1 || given->block[1] != 1 || given->block[2] != 1) return INVALID;
    if (given->shared != (given->function == asking ? asked : 0) || given->extra || given->kernel || given->context) return INVALID;
    node->name = given->function;
    node->blocks = given->grid[0];
    node->threads = given->block[0];
    if (strcmp(node->name, "scale")) return OK;
    memcpy(&node->source, given->arguments[0], 8);
    memcpy(&node->to, given->arguments[1], 8);
    memcpy(&node->count, given->arguments[2], 4);
    memcpy(&node->flag, given->arguments[3], 8);
    return OK;
}
int cuGraphCreate(void **graph, unsigned flags) { *graph = calloc(1, sizeof(Graph)); return flags; }
int cuGraphAddKernelNode(void **made, void *given, void *const *after, size_t count, const Parameters *parameters) {
    Graph *graph = given;
    for (size_t i = 0; i < count; i++) {
        size_t n = 0;
        while (n < graph->count && graph->nodes[n] != after[i]) n++;
        if (n == graph->count) return INVALID;
    }
    Node *node = calloc(1, sizeof(Node));
    graph->nodes = realloc(graph->nodes, (graph->count + 1) * sizeof(Node *));
    graph->nodes[graph->count++] = node;
    *made = node;
    return fill(node, parameters);
}
int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
    *executable = graph;
    return (int)flags;
}
int cuGraphExecKernelNodeSetParams(void *executable, void *node, const Parameters *given) {
    return executable ? fill(node, given) : INVALID;
}
int cuGraphLaunch(void *executable, void *stream) {
    if (!contexts) return NO_CONTEXT;
    Graph *graph = executable;
    for (size_t n = 0; n < graph->count; n++) {
        const Node *node = graph->nodes[n];
        if (!strcmp(node->name, "fault")) state = ILLEGAL_ADDRESS;
        if (!strcmp(node->name, "scale"))
            for (int i = 0; i < node->count; i++) node->to[i] = 2 * node->source[i];
        clock_ms += 2;
    }
    return stream ? state : INVALID;
}
int cuGraphExecDestroy(void *executable) { return executable ? OK : INVALID; }
int cuGraphDestroy(void *graph) { free(graph); return OK; }

/* How the bindings find all of these, and how they learn that the rest is not there. */
int cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *status) {
    void *self = dlopen("libcuda.so.1", RTLD_LAZY);
    if (!strcmp(name, "cuGetProcAddress")) name = "cuGetProcAddress_v2";
    *found = version > 13000 || flags > 2 ? NULL : dlsym(self, name);
    if (status) *status = *found ? 0 : 1;
    return *found ? OK : NOT_FOUND;
}
