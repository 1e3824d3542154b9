/* Preloaded into llama-server: lets a software Vulkan device hold buffers of any size.
 *
 * lavapipe says that a shader can bind 128 MiB at most, so llama.cpp would leave larger tensors in RAM. Laying a
 * model out computes nothing, so the limit does not matter; this raises what is said of it. Real GPUs say 2 GiB or more.
 *
 *     cc -shared -fPIC -o wide_storage.so wide_storage.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

/* VkPhysicalDeviceProperties: 5 words, a name of 256, a UUID of 16, padding to 8; then VkPhysicalDeviceLimits,
 * whose eighth word is maxStorageBufferRange. VkPhysicalDeviceProperties2 has it 16 bytes further. */
enum { LIMITS = 296, STORAGE_RANGE = 7 * 4, SECOND_FORM = 16 };

typedef void (*function)(void);
typedef function (*finder)(void *, const char *);
typedef void (*describer)(void *, void *);

static describer describe, describe2;

static void raise_limit(char *properties) {
    uint32_t all = UINT32_MAX;
    memcpy(properties + LIMITS + STORAGE_RANGE, &all, sizeof all);
}

static void describe_wide(void *device, void *properties) {
    describe(device, properties);
    raise_limit(properties);
}

static void describe2_wide(void *device, void *properties) {
    describe2(device, properties);
    raise_limit((char *) properties + SECOND_FORM);
}

function vkGetInstanceProcAddr(void *instance, const char *name) {
    static finder find;
    if (!find) find = (finder) dlsym(RTLD_NEXT, "vkGetInstanceProcAddr");
    if (!find) find = (finder) dlsym(dlopen("libvulkan.so.1", RTLD_NOW), "vkGetInstanceProcAddr");
    if (!strcmp(name, "vkGetInstanceProcAddr")) return (function) vkGetInstanceProcAddr;
    function found = find(instance, name);
    if (!found) return found;
    if (!strcmp(name, "vkGetPhysicalDeviceProperties")) {
        describe = (describer) found;
        return (function) describe_wide;
    }
    if (!strcmp(name, "vkGetPhysicalDeviceProperties2") || !strcmp(name, "vkGetPhysicalDeviceProperties2KHR")) {
        describe2 = (describer) found;
        return (function) describe2_wide;
    }
    return found;
}
