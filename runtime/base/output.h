/* runtime/base/output.h - where results are to go, looked at before the work and not after it. */
#ifndef SWIN_BASE_OUTPUT_H
#define SWIN_BASE_OUTPUT_H

#include <stddef.h>

#include "runtime/base/status.h"

/* A file that a program reads, or also writes, and the flag that names it. */
typedef struct swin_file_use {
    const char *flag, *path; /* path NULL: the flag is not set */
} swin_file_use;

/*
 * Refuse (SWIN_ERR_USAGE, naming both flags) an output that is one of the other files, by whatever path or link: a mistyped
 * name must not cost a checkpoint. A file that is not there yet is known by its folder and name.
 */
swin_status swin_output_apart(const char *flag, const char *path, const swin_file_use *others, size_t n);

/*
 * The same, and refuse a path where no file can be made: an empty name, a folder, a device or pipe, a folder that is
 * not there or cannot be written.
 */
swin_status swin_output_check(const char *flag, const char *path, const swin_file_use *others, size_t n);

#endif
