/* A CUDA driver without a GPU: memory is the host's, copies copy, and kernels are noted but not run.

   It has the functions that this package and `cuda.core` call, by the names that cuGetProcAddress is asked for; others
   report that they are not supported. `noted()` is what was done, a line each. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID = 1, OUT_OF_MEMORY = 2, LAUNCH_FAILED = 719, NOT_SUPPORTED = 801 };

static char notes[1 << 20];
static size_t end;
static uintptr_t handles = 0x1000;
static __thread void *context;
static size_t held;
static const size_t total = (size_t)1 << 30;
int fail_launches; /* set by a test */

static void note(const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (end + 200 < sizeof notes) end += vsnprintf(notes + end, 200, format, args);
    va_end(args);
}

const char *noted(void) { return notes; }
void forget(void) { notes[end = 0] = 0; }

static void *handle(void) { return (void *)(handles += 16); }
static int here(void) { return context ? SUCCESS : 201; /* invalid context */ }

int cuInit(unsigned flags) { return SUCCESS; }
int cuDriverGetVersion(int *version) { return *version = 13000, SUCCESS; }
int cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
int cuDeviceGet(int *device, int k) { return *device = k, k ? INVALID : SUCCESS; }
int cuDeviceGetName(char *name, int size, int device) { return snprintf(name, size, "No GPU"), SUCCESS; }
int cuDeviceGetUuid_v2(void *uuid, int device) { return memset(uuid, 1, 16), SUCCESS; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    *value = which == 75 ? 9 : which == 76 ? 0 : which == 16 ? 132 : 1; /* sm_90, of 132 multiprocessors */
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **found, int device) { return *found = (void *)0x100, SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int device) { return SUCCESS; }
int cuCtxGetCurrent(void **found) { return *found = context, SUCCESS; }
int cuCtxSetCurrent(void *given) { return context = given, SUCCESS; }
int cuCtxGetDevice(int *device) { return *device = 0, here(); }
int cuCtxGetStreamPriorityRange(int *least, int *most) { return *least = *most = 0, SUCCESS; }

int cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) { return *stream = handle(), SUCCESS; }
int cuStreamDestroy_v2(void *stream) { return SUCCESS; }
int cuStreamSynchronize(void *stream) { return here(); }
int cuStreamGetCtx(void *stream, void **found) { return *found = (void *)0x100, SUCCESS; }
int cuStreamGetCtx_v2(void *stream, void **found, void **green) {
    return *found = (void *)0x100, *green = NULL, SUCCESS;
}

int cuMemGetInfo_v2(size_t *free, size_t *all) { return *free = total - held, *all = total, here(); }
int cuMemAlloc_v2(void **memory, size_t size) {
    if (!context) return here();
    if (held + size > total) return OUT_OF_MEMORY;
    size_t *block = aligned_alloc(512, 512 + (size + 511) / 512 * 512);
    *block = size;
    *memory = memset((char *)block + 512, 0, size);
    held += size;
    note("allocate %zu\n", size);
    return SUCCESS;
}
int cuMemFree_v2(void *memory) {
    size_t *block = (size_t *)((char *)memory - 512);
    held -= *block;
    note("free %zu\n", *block);
    free(block);
    return here();
}
int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t size, void *stream) {
    return memcpy(to, from, size), here();
}
int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t size, void *stream) {
    return memcpy(to, from, size), here();
}
int cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t size, void *stream) {
    return memcpy(to, from, size), here();
}

int cuLibraryLoadData(void **library, const void *code, void *a, void *b, unsigned c, void *d, void *e, unsigned f) {
    return *library = handle(), memcmp(code, "\177ELF", 4) ? INVALID : SUCCESS;
}
int cuLibraryUnload(void *library) { return note("unload\n"), SUCCESS; }
int cuLibraryGetKernel(void **kernel, void *library, const char *name) { return *kernel = handle(), SUCCESS; }
int cuKernelGetFunction(void **function, void *kernel) { return *function = kernel, SUCCESS; }
int cuKernelSetAttribute(int which, int value, void *kernel, int device) {
    return note("attribute %d of a kernel: %d\n", which, value), here();
}

struct Launch {
    unsigned grid[3], block[3], shared;
    void *stream;
};
static int launch(const unsigned *grid, const unsigned *block, unsigned shared, void *stream, void **arguments) {
    if (fail_launches) return LAUNCH_FAILED;
    note("launch %u x %u x %u of %u, shared %u, stream %p\n", grid[0], grid[1], grid[2], block[0], shared, stream);
    return here();
}
int cuLaunchKernelEx(const struct Launch *l, void *kernel, void **arguments, void **extra) {
    return launch(l->grid, l->block, l->shared, l->stream, arguments);
}
int cuLaunchKernel(void *kernel, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **arguments, void **extra) {
    unsigned grid[3] = {x, y, z}, block[3] = {bx, by, bz};
    return launch(grid, block, shared, stream, arguments);
}

int cuStreamBeginCapture_v2(void *stream, int mode) { return note("capture %p\n", stream), here(); }
int cuStreamEndCapture(void *stream, void **graph) { return *graph = handle(), note("captured\n"), here(); }
int cuGraphInstantiateWithFlags(void **made, void *graph, unsigned long long flags) {
    return *made = handle(), here();
}
int cuGraphLaunch(void *graph, void *stream) { return note("replay on %p\n", stream), here(); }
int cuGraphDestroy(void *graph) { return SUCCESS; }
int cuGraphExecDestroy(void *graph) { return note("forget a graph\n"), SUCCESS; }

int cuGetErrorName(int error, const char **text) { return *text = "AN_ERROR", SUCCESS; }
int cuGetErrorString(int error, const char **text) { return *text = "an error", SUCCESS; }

static int unsupported(void) { return NOT_SUPPORTED; }

int cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *status) {
    static const char *endings[] = {"_v2", "", "WithFlags"};
    void *self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    char full[200];
    *found = NULL;
    for (int k = 0; k < 3 && !*found; k++) {
        snprintf(full, sizeof full, "%s%s", name, endings[k]);
        *found = dlsym(self, full);
    }
    if (!*found) *found = unsupported;
    if (status) *status = 0;
    return SUCCESS;
}
