/* A libnvidia-ml.so.1 that answers from a script: the file named by FAKE_NVML, lines of "key value". No key: not supported. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, NOT_SUPPORTED = 3 };

static int look(const char *key, char *value) {
    char line[256];
    FILE *script = fopen(getenv("FAKE_NVML"), "r");
    size_t length = strlen(key);
    int found = 0;
    while (script && !found && fgets(line, sizeof line, script)) {
        if (strncmp(line, key, length) == 0 && line[length] == ' ') {
            line[strcspn(line, "\n")] = 0;
            strcpy(value, line + length + 1);
            found = 1;
        }
    }
    if (script) fclose(script);
    return found;
}

static int number(const char *key, unsigned long long *value) {
    char text[256];
    if (!look(key, text)) return NOT_SUPPORTED;
    *value = strtoull(text, NULL, 0);
    return OK;
}

/* A handle is a GPU's index plus one. A GPU with an error answers nothing else. */
static int of(void *handle, const char *name, char *value) {
    char key[64], error[256];
    long index = (long)handle - 1;
    snprintf(key, sizeof key, "%ld.lost", index);
    if (look(key, error)) return atoi(error);
    snprintf(key, sizeof key, "%ld.%s", index, name);
    return look(key, value) ? OK : NOT_SUPPORTED;
}

static int number_of(void *handle, const char *name, unsigned long long *value) {
    char text[256];
    int status = of(handle, name, text);
    if (status == OK) *value = strtoull(text, NULL, 0);
    return status;
}

int nvmlInitWithFlags(unsigned flags) {
    char text[256];
    (void)flags;
    if (!look("init", text)) return OK;
    if (strcmp(text, "segfault") == 0) raise(SIGSEGV);
    if (strcmp(text, "hang") == 0) for (;;) pause();
    return atoi(text);
}

int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int status) {
    switch (status) {
        case 4: return "Insufficient Permissions";
        case 9: return "Driver Not Loaded";
        case 15: return "GPU is lost";
        case 18: return "Driver/library version mismatch";
        default: return "Not Supported";
    }
}

int nvmlSystemGetDriverVersion(char *value, unsigned length) {
    char text[256];
    if (!look("driver", text)) return NOT_SUPPORTED;
    snprintf(value, length, "%s", text);
    return OK;
}

int nvmlSystemGetCudaDriverVersion_v2(int *value) {
    unsigned long long told;
    int status = number("cuda", &told);
    if (status == OK) *value = (int)told;
    return status;
}

int nvmlDeviceGetCount_v2(unsigned *value) {
    unsigned long long told = 0;
    int status = number("gpus", &told);
    *value = (unsigned)told;
    return status;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    unsigned long long told;
    *handle = (void *)(long)(index + 1);
    return number_of(*handle, "refused", &told) == OK ? (int)told : OK;
}

int nvmlDeviceGetName(void *handle, char *value, unsigned length) {
    char text[256];
    int status = of(handle, "name", text);
    if (status == OK) snprintf(value, length, "%s", text);
    return status;
}

struct pci { char bus_legacy[16]; unsigned ids[5]; char bus[32]; };

int nvmlDeviceGetPciInfo_v3(void *handle, struct pci *value) {
    char text[256];
    int status = of(handle, "bus", text);
    if (status == OK) snprintf(value->bus, sizeof value->bus, "%s", text);
    return status;
}

int nvmlDeviceGetMemoryInfo(void *handle, unsigned long long *value) {
    int status = number_of(handle, "total", &value[0]);
    return status == OK ? number_of(handle, "free", &value[1]) : status;
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    char text[256];
    int status = of(handle, "capability", text);
    if (status == OK) sscanf(text, "%d.%d", major, minor);
    return status;
}

int nvmlDeviceGetEccMode(void *handle, int *now, int *pending) {
    unsigned long long told;
    int status = number_of(handle, "ecc", &told);
    if (status == OK) *now = *pending = (int)told;
    return status;
}

int nvmlDeviceGetTotalEccErrors(void *handle, int kind, int counter, unsigned long long *value) {
    (void)kind;
    return number_of(handle, counter ? "ecc_aggregate" : "ecc_volatile", value);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, unsigned long long *value) {
    return number_of(handle, "throttle", value);
}

static int watts(void *handle, const char *name, unsigned *value) {
    unsigned long long told;
    int status = number_of(handle, name, &told);
    if (status == OK) *value = (unsigned)told;
    return status;
}

int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned *value) { return watts(handle, "limit", value); }
int nvmlDeviceGetPowerManagementDefaultLimit(void *handle, unsigned *value) { return watts(handle, "default", value); }

int nvmlDeviceGetPowerUsage(void *handle, unsigned *value) { return watts(handle, "power", value); }

int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *value) {
    (void)sensor;
    return watts(handle, "temperature", value);
}

int nvmlDeviceGetUtilizationRates(void *handle, unsigned *value) {
    value[1] = 0;
    return watts(handle, "busy", &value[0]);
}

static int between(void *first, void *second, const char *name, int *value) {
    unsigned long long told;
    char key[64];
    snprintf(key, sizeof key, "%ld-%ld.%s", (long)first - 1, (long)second - 1, name);
    if (number(key, &told) != OK) return NOT_SUPPORTED;
    *value = (int)told;
    return OK;
}

int nvmlDeviceGetTopologyCommonAncestor(void *first, void *second, int *value) {
    return between(first, second, "level", value);
}

int nvmlDeviceGetP2PStatus(void *first, void *second, int index, int *value) {
    (void)index;
    return between(first, second, "nvlink", value);
}
