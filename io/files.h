// Files and folders: what several readers and writers share.
#pragma once
#include "src/base/status.h"
#include <limits.h>
#include <stddef.h>

// The whole file as NUL-terminated text, at most `limit` bytes. STATUS_DATA naming the file. Caller frees.
Status file_read(const char *path, size_t limit, char **text, size_t *bytes);
bool file_exists(const char *path);
// Makes the folder and its parents. STATUS_FAILED naming it.
Status folder_make(const char *path);
// Writes through a temporary name, fsync, rename, fsync of the folder.
Status file_write_durable(const char *path, const void *bytes, size_t size);
// fsyncs a file or folder, whoever wrote it. STATUS_FAILED naming it.
Status file_sync(const char *path);
// fsyncs `temporary`, renames it to `path`, fsyncs the folder. On an error removes `temporary`.
Status file_publish(const char *temporary, const char *path);
// The file's bytes under another name, written durably; at most `limit` of them.
Status file_copy(const char *from, const char *to, size_t limit);
// A folder that is filled before it gets its name. Makes PATH's parents and the empty sibling PATH.PID.tmp, whose name
// goes to `temporary`. STATUS_USAGE where PATH is there and not an empty folder.
Status folder_begin(const char *path, char temporary[PATH_MAX]);
// fsyncs the folder, renames it to `path`, fsyncs the parent. On an error removes it.
Status folder_publish(const char *temporary, const char *path);
// Removes a folder of files.
void folder_discard(const char *path);
// A lock file DIR/lock held by this process (flock) until it ends or releases it; says who holds it when taken.
Status run_lock(const char *dir, int *fd);
void run_unlock(int fd);
bool run_locked(const char *dir); // whether a process holds it; takes no more than a look
