// Finding and loading modules. What a symbol is and how it is used is the caller's business.
#include "src/base/module.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// The folder of the running program.
static Status program_folder(char folder[PATH_MAX]) {
    ssize_t length = readlink("/proc/self/exe", folder, PATH_MAX - 1);
    if (length <= 0) return error_set(STATUS_FAILED, "the program's own folder is unknown; set KTO_MODULE_DIR");
    folder[length] = '\0';
    *strrchr(folder, '/') = '\0';
    return STATUS_OK;
}

static Status file_in(const char *folder, const char *name, char path[PATH_MAX]) {
    if (snprintf(path, PATH_MAX, "%s/kto_%s.so", folder, name) < PATH_MAX) return STATUS_OK;
    return error_set(STATUS_FAILED, "the path of module %s is too long: %.200s", name, folder);
}

// Where the module is, or the first place where it should be.
static Status module_path(const char *name, char path[PATH_MAX]) {
    char folder[PATH_MAX], installed[PATH_MAX];
    const char *given = getenv("KTO_MODULE_DIR");
    if (given != NULL) return file_in(given, name, path);
    TRY(program_folder(folder));
    TRY(file_in(folder, name, path));
    if (access(path, F_OK) == 0) return STATUS_OK;
    char *last = strrchr(folder, '/'); // NULL: the program lies in the root
    if (last != NULL) *last = '\0';
    if (snprintf(installed, sizeof installed, "%s/lib/kto/kto_%s.so", folder, name) < PATH_MAX &&
        access(installed, F_OK) == 0)
        memcpy(path, installed, sizeof installed);
    return STATUS_OK;
}

bool module_exists(const char *name) {
    char path[PATH_MAX];
    if (module_path(name, path) == STATUS_OK) return access(path, F_OK) == 0;
    error_clear();
    return false;
}

Status module_symbol(const char *name, const char *symbol, void **out) {
    char path[PATH_MAX];
    *out = NULL;
    TRY(module_path(name, path));
    if (access(path, R_OK) != 0) return error_set(STATUS_FAILED, "%s is not there", path);
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL); // dlopen counts: a second call gives the same module
    if (module == NULL) return error_set(STATUS_FAILED, "%s cannot be loaded: %s", path, dlerror());
    const char *interface = dlsym(module, "kto_module_interface");
    if (interface == NULL || strcmp(interface, KTO_MODULE_INTERFACE) != 0)
        return error_set(STATUS_FAILED, "%s is of another version of kto", path);
    *out = dlsym(module, symbol);
    if (*out == NULL) return error_set(STATUS_FAILED, "%s has no %s", path, symbol);
    return STATUS_OK;
}
